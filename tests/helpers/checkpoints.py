"""Small checkpoints, and the folders and repos that hold them."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.hub_server import Hub, Repo
from resnet_hub.checkpoints.load import load_checkpoint
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import HubError
from resnet_hub.model import ResNet

LABELS = {0: "tabby cat", 1: "hound", 2: 'naïve "owl": 猫'}

TINY = ResNetConfig(depths=(1, 1), width=8, id2label=LABELS, image_size=32, mean=(0.1, 0.2, 0.3), crop_pct=0.9)


def make_model(config: ResNetConfig) -> ResNet:
    """A model with random weights, whose running statistics differ from those of a fresh network."""
    torch.manual_seed(0)
    model = ResNet(config).train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, config.in_channels, config.image_size, config.image_size))
    return model.eval()


def compute_logits(model: ResNet) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return model(torch.randn(2, model.config.in_channels, 32, 32))


def is_one_sentence(message: object) -> bool:
    return str(message).count("\n") == 0 and str(message).endswith(".") and "Traceback" not in str(message)


def rewrite_weights(folder: Path, **changes) -> None:
    """Change tensors of a saved folder; None removes one."""
    weights = load_file(folder / "model.safetensors") | {
        key.replace("__", "."): value for key, value in changes.items()
    }
    save_file({key: value for key, value in weights.items() if value is not None}, folder / "model.safetensors")


def split_weights(folder: Path, shards: dict[str, list[str]] | None = None) -> dict[str, torch.Tensor]:
    """Replace the weights of a folder by two shards with an index; the weights."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(weights)
    shards = shards or {"model-1-of-2.safetensors": names[:10], "model-2-of-2.safetensors": names[10:]}
    for shard, keys in shards.items():
        save_file({key: weights[key] for key in keys}, folder / shard)
    table = {key: shard for shard, keys in shards.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return weights


def upload_by_hand(hub: Hub, repo_id: str, folder: Path) -> None:
    """Commit the files of a folder to a repo, without the code under test."""
    repo = hub.repos.setdefault(repo_id, Repo())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    repo.commit("main", files, "Upload")


def load_error(source: str = "user/tiny", *, seconds: float = 5, **options) -> str:
    """The message of the `HubError` that loading raises within the seconds."""
    start = time.perf_counter()
    with pytest.raises(HubError) as error:
        load_checkpoint(source, **options)
    assert is_one_sentence(error.value)
    assert "hf_" not in str(error.value)
    assert time.perf_counter() - start < seconds
    return str(error.value)
