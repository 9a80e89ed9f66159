"""Checkpoint folders and the Hub: the real client, and its `hf` command, over HTTP against `hub_server`."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hub_server
from helpers.hub_server import READER, STRANGER, WRITER, Hub, Repo
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors.torch import load_file, safe_open, save_file

from resnet_hub.checkpoints.load import count_parameters_by_dtype, load_checkpoint, read_config
from resnet_hub.checkpoints.model_card import CardContent
from resnet_hub.checkpoints.push import push_folder
from resnet_hub.checkpoints.search import search_models
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import CheckpointError, ConfigError, HubError, ResNetHubError
from resnet_hub.hub_client.listing import digest_file
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import eval_transform
from resnet_hub.inference.onnx_export import export_onnx
from resnet_hub.model import ResNet

LABELS = {0: "tabby cat", 1: "hound", 2: 'naïve "owl": 猫'}
TINY = ResNetConfig(depths=(1, 1), width=8, id2label=LABELS, image_size=32, mean=(0.1, 0.2, 0.3), crop_pct=0.9)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("resnet_hub.hub_client.retry.TIMEOUT", 3.0)  # a fault that lasts is told sooner


@pytest.fixture
def model() -> ResNet:
    return random_model(TINY)


def random_model(config: ResNetConfig) -> ResNet:
    torch.manual_seed(0)
    model = ResNet(config).train()
    with torch.no_grad():
        for _ in range(2):  # running statistics unlike those of a fresh network
            model(torch.randn(4, config.in_channels, config.image_size, config.image_size))
    return model.eval()


def logits(model: ResNet) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return model(torch.randn(2, model.config.in_channels, 32, 32))


def one_sentence(message: object) -> bool:
    return str(message).count("\n") == 0 and str(message).endswith(".") and "Traceback" not in str(message)


# Folders


def test_a_saved_folder_loads_as_it_was(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "deep" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    loaded = ResNet.from_pretrained(str(folder))
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config == TINY
    assert loaded.card == (folder / "README.md").read_text(encoding="utf-8")
    assert not loaded.training
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_half_the_file_and_computed_with_in_full(dtype: str, model: ResNet, tmp_path: Path) -> None:
    full, half = (model.save_pretrained(tmp_path / str(name), dtype=name) for name in (None, dtype))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (full, half)]
    headers = 15_000
    assert sizes[1] - headers < sizes[0] / 2 < sizes[1]
    stored = load_file(half / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}", "torch.int64"}
    assert f"The weights are stored as {dtype}" in (half / "README.md").read_text(encoding="utf-8")
    assert "## Precision" not in (full / "README.md").read_text(encoding="utf-8")

    loaded = ResNet.from_pretrained(half)
    assert (loaded.dtype, loaded.stored_as) == (torch.float32, dtype)
    assert ResNet.from_pretrained(full).stored_as == "float32"
    assert torch.allclose(logits(loaded), logits(model), atol=0.05)
    assert not torch.equal(logits(loaded), logits(model))
    kept = ResNet.from_pretrained(half, dtype="auto")
    assert kept.dtype == getattr(torch, dtype)
    assert torch.equal(kept.float().conv1.weight, loaded.conv1.weight)


def test_what_came_in_half_precision_goes_back_so_while_that_loses_nothing(model: ResNet, tmp_path: Path) -> None:
    first = model.save_pretrained(tmp_path / "1", dtype="float16", card=CardContent(metrics={"accuracy": 0.9}))
    loaded = ResNet.from_pretrained(first)
    again = loaded.save_pretrained(tmp_path / "2")
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (again / name).read_bytes() == (first / name).read_bytes()
    with torch.no_grad():
        loaded.fc.bias += 1e-5  # a step of training
    trained = loaded.save_pretrained(tmp_path / "3")
    assert torch.equal(ResNet.from_pretrained(trained).fc.bias, loaded.fc.bias)
    assert "90.00 %" not in (trained / "README.md").read_text(encoding="utf-8")
    assert ResNet.from_pretrained(model.half().save_pretrained(tmp_path / "4")).stored_as == "float16"


def test_a_weight_without_room_in_half_precision_is_refused(model: ResNet, tmp_path: Path) -> None:
    with torch.no_grad():
        model.bn1.running_var[0] = 1e5
    with pytest.raises(CheckpointError, match=r"^bn1.running_var holds values above 65504.*bfloat16\.$"):
        model.save_pretrained(tmp_path / "m", dtype="float16")
    with pytest.raises(CheckpointError, match=r"^dtype is 'int8'; choose one of float32, bfloat16, float16\.$"):
        model.save_pretrained(tmp_path / "m", dtype="int8")
    assert not (tmp_path / "m").exists()
    assert ResNet.from_pretrained(model.save_pretrained(tmp_path / "m", dtype="bfloat16")).dtype == torch.float32


def test_loading_draws_no_random_numbers(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    state = torch.get_rng_state()
    loaded = ResNet.from_pretrained(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.parameters())


LOAD = """
import resource, sys
from resnet_hub.model import ResNet
ResNet.from_pretrained(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = ResNet.from_pretrained(sys.argv[2])
total = sum(float(value.sum()) for value in model.state_dict().values())  # every page is read
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "sympy" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory in other units")
def test_loading_holds_one_copy_of_the_weights(model: ResNet, tmp_path: Path) -> None:
    small = model.save_pretrained(tmp_path / "small")
    large = ResNet(ResNetConfig.from_name("resnet34", num_classes=3)).save_pretrained(tmp_path / "large")
    run = subprocess.run([sys.executable, "-c", LOAD, small, large], capture_output=True, text=True, check=True)
    kilobytes, symbolic = run.stdout.split()
    assert int(kilobytes) * 1024 < 1.5 * (large / "model.safetensors").stat().st_size
    assert symbolic == "False"  # a meta tensor that is initialised costs a second of imports


def test_a_swapped_head_saves_and_loads(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m", card=CardContent(metrics={"accuracy": 0.9}))
    swapped = ResNet.from_pretrained(folder, id2label=["a", "b", "c", "d", "e"])
    swapped.save_pretrained(folder)  # over the folder that its own weights came from
    again = ResNet.from_pretrained(folder)
    assert again.config.labels == ["a", "b", "c", "d", "e"]
    assert torch.equal(again.fc.weight, swapped.fc.weight)
    assert torch.equal(again.conv1.weight, model.conv1.weight)
    assert again.card is not None
    assert "90.00 %" not in again.card


def test_a_network_without_a_head_saves_and_loads(tmp_path: Path) -> None:
    body = random_model(ResNetConfig(depths=(1, 1), width=8))
    assert torch.equal(logits(ResNet.from_pretrained(body.save_pretrained(tmp_path / "m"))), logits(body))


def test_what_speaks_of_old_weights_goes_and_other_files_stay(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "onnx").mkdir()
    for name in ("onnx/model.onnx", "preprocessor_config.json", "notes.txt", "confusion.png"):
        (folder / name).write_text("old")
    model.save_pretrained(folder)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "notes.txt", "confusion.png"}


def test_reading_a_config_needs_no_torch_and_no_weights(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    program = (
        "import sys; from resnet_hub.checkpoints.load import read_config; config = read_config(sys.argv[1]);"
        "assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules; print(config.num_classes)"
    )
    run = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert run.stdout == "3\n"


def rewrite(folder: Path, **changes) -> None:
    """Change tensors of a saved folder; None removes one."""
    weights = load_file(folder / "model.safetensors") | {
        key.replace("__", "."): value for key, value in changes.items()
    }
    save_file({key: value for key, value in weights.items() if value is not None}, folder / "model.safetensors")


def test_strict_loading_names_what_does_not_fit(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    rewrite(folder, bn1__weight=None, extra=torch.zeros(1), conv1__weight=torch.zeros(8, 3, 3, 3))
    with pytest.raises(CheckpointError) as error:
        ResNet.from_pretrained(folder)
    assert one_sentence(error.value)
    for part in ("1 missing: bn1.weight", "1 unexpected: extra", "1 misshapen: conv1.weight (8x3x3x3 for 8x3x7x7)"):
        assert part in str(error.value)


def test_whole_numbers_are_no_weights(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    rewrite(folder, bn1__weight=torch.zeros(8, dtype=torch.int64))
    with pytest.raises(CheckpointError, match=r"bn1\.weight"):
        ResNet.from_pretrained(folder)


def test_only_the_counters_of_batchnorm_may_be_missing(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    names = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    rewrite(folder, **dict.fromkeys(names))
    loaded = ResNet.from_pretrained(folder)
    assert loaded.bn1.num_batches_tracked == 0
    assert torch.equal(logits(loaded), logits(model))


def test_labels_and_head_that_disagree_fail_with_both_values(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    rewrite(folder, fc__weight=torch.zeros(7, 16), fc__bias=torch.zeros(7))
    with pytest.raises(CheckpointError, match=r"3 labels.* 7 outputs"):
        ResNet.from_pretrained(folder)
    model.fc = torch.nn.Linear(16, 4)
    with pytest.raises(CheckpointError, match=r"3 labels.* 4 outputs"):
        model.save_pretrained(folder)


@pytest.mark.parametrize("damage", ["cut", "lying header", "endless header", "text", "empty"])
def test_damaged_weights_are_refused_in_a_sentence(damage: str, model: ResNet, tmp_path: Path) -> None:
    path = model.save_pretrained(tmp_path / "m") / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[: len(content) // 2],
            "lying header": re.sub(rb'"shape":\[8\]', rb'"shape":[9]', content, count=1),
            "endless header": (2**60).to_bytes(8, "little") + content[8:],
            "text": b"version https://git-lfs.github.com/spec/v1\n",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"model.safetensors of .* is damaged") as error:
        load_checkpoint(path.parent)
    assert one_sentence(error.value)


def test_a_pickle_is_not_opened_and_the_way_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(TINY.to_json())
    marker = tmp_path / "executed"
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin, a pickle.*resnet-hub convert"):
        ResNet.from_pretrained(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "source", ["./gone", "/gone/away", "~/gone-away", "~nobody-here/m", "a/b/c", Path("user/name")]
)
def test_a_path_that_is_not_there_is_not_sought_on_the_hub(source: str | Path, hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="There is no folder") as error:
        load_checkpoint(source)
    assert one_sentence(error.value)
    assert hub.requests == []


def test_errors_of_a_folder_name_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"no config.json.*notes.txt"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"is a file\. Name the folder"):
        load_checkpoint(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(TINY.to_json())
    with pytest.raises(CheckpointError, match=r"no model.safetensors"):
        load_checkpoint(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_sentence(model: ResNet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file", tmp_path / "file" / "m", "/proc/m"):
        with pytest.raises(CheckpointError) as error:
            model.save_pretrained(target)
        assert one_sentence(error.value)


# There and back over HTTP


def test_push_then_load_by_id_is_equal_to_the_bit(model: ResNet, hub: Hub) -> None:
    model.card = None
    url = model.push_to_hub("user/tiny", token=WRITER, message="First")
    loaded = ResNet.from_pretrained("user/tiny")
    repo = hub.repos["user/tiny"]
    assert url == f"{hub.url}/user/tiny/commit/{repo.refs['main']}"
    assert repo.log == ["main: initial commit", "main: First"]
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config == TINY
    assert loaded.card is not None
    assert loaded.card.encode() == repo.files()["README.md"]
    assert 'from_pretrained("user/tiny")' in loaded.card
    assert read_config("user/tiny") == TINY


def test_more_than_the_network_can_weigh_is_not_fetched(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/large", token=WRITER)
    files = hub.repos["user/large"].files()
    for name, size, sentence in (
        ("model.safetensors", 20, "The weights of user/large have 21 MB, but a network as in its config.json has at"),
        ("README.md", 17, "README.md of user/large has 18 MB; at most 16 are read."),
        ("config.json", 17, "config.json of user/large has 18 MB; at most 16 are read."),
    ):
        hub.repos["user/large"].commit("main", {**files, name: bytes(size * 2**20)}, name)
        hub.requests.clear()
        with pytest.raises(CheckpointError) as error:
            ResNet.from_pretrained("user/large")
        assert str(error.value).startswith(sentence)
        assert not any(name in request for request in hub.requests)


def test_a_config_is_read_without_fetching_weights(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.requests.clear()
    assert read_config("user/tiny") == TINY
    assert not any("safetensors" in request for request in hub.requests)


def test_a_name_without_a_user_goes_to_the_owner_of_the_token(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("tiny", token=WRITER)
    assert list(hub.repos) == ["user/tiny"]
    assert b'from_pretrained("user/tiny")' in hub.repos["user/tiny"].files()["README.md"]


def test_private_branch_and_pull_request(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, private=True)
    assert hub.repos["user/tiny"].private
    before = hub.repos["user/tiny"].refs["main"]
    changed = random_model(TINY)
    torch.nn.init.zeros_(changed.fc.bias)
    changed.push_to_hub("user/tiny", token=WRITER, branch="try/one")
    assert hub.repos["user/tiny"].refs["main"] == before
    loaded = ResNet.from_pretrained("user/tiny", revision="try/one", token=READER)
    assert torch.equal(logits(loaded), logits(changed))
    url = changed.push_to_hub("user/tiny", token=WRITER, create_pr=True)
    assert url == f"{hub.url}/user/tiny/discussions/1"
    assert hub.repos["user/tiny"].refs["main"] == before
    loaded = ResNet.from_pretrained("user/tiny", revision="refs/pr/1", token=READER)
    assert torch.equal(logits(loaded), logits(changed))
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny", revision=before, token=READER)), logits(model))
    with pytest.raises(HubError, match="private"):
        ResNet.from_pretrained("user/tiny", token=STRANGER)


def test_a_pull_request_to_a_repo_of_someone_else(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    torch.nn.init.ones_(model.fc.bias)
    with pytest.raises(HubError, match=r"cannot write to user/tiny.*create_pr"):
        model.push_to_hub("user/tiny", token=STRANGER)
    assert model.push_to_hub("user/tiny", token=STRANGER, create_pr=True).endswith("/discussions/1")


def test_a_private_push_does_not_end_in_a_public_repo(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    commits = len(hub.repos["user/tiny"].commits)
    with pytest.raises(HubError, match="public"):
        model.push_to_hub("user/tiny", token=WRITER, private=True)
    assert len(hub.repos["user/tiny"].commits) == commits


def test_one_commit_uploads_the_folder_and_drops_what_contradicts_it(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    for name in ("onnx/model.onnx", "preprocessor_config.json", "notes.txt"):
        hub.edit("user/tiny", name, "old")
    torch.nn.init.ones_(model.fc.bias)
    folder = model.save_pretrained(tmp_path / "m", card=CardContent(image_files=["confusion.png"]))
    (folder / "confusion.png").write_bytes(b"picture")
    (folder / ".env").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    repo = hub.repos["user/tiny"]
    commits = len(repo.commits)
    push_folder(folder, "user/tiny", token=WRITER)
    assert len(repo.commits) == commits + 1
    assert sorted(repo.files()) == [
        ".gitattributes", "README.md", "config.json", "confusion.png", "model.safetensors", "notes.txt",
    ]  # fmt: skip


def test_a_push_at_the_same_time_is_noticed(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    torch.nn.init.ones_(model.fc.bias)
    hub.fail("POST .*/preupload/", times=1, first=lambda: hub.edit("user/tiny", "README.md", "Someone else's"))
    with pytest.raises(HubError, match="changed by someone else at the same time"):
        model.push_to_hub("user/tiny", token=WRITER)
    assert hub.repos["user/tiny"].files()["README.md"] == b"Someone else's"


def test_a_folder_that_is_no_checkpoint_is_not_pushed(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(TINY.to_json())
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        push_folder(tmp_path, "user/tiny", token=WRITER)
    assert hub.requests == []


def test_files_of_one_load_are_of_one_commit(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)

    def move() -> None:
        hub.edit("user/tiny", "config.json", ResNetConfig(depths=(1,), width=8).to_json())
        hub.edit("user/tiny", "model.safetensors", b"of the next commit")

    hub.fail("HEAD .*/resolve/.*config", times=1, first=move)
    loaded = ResNet.from_pretrained("user/tiny")
    assert len(hub.repos["user/tiny"].commits) == 4
    assert torch.equal(logits(loaded), logits(model))


# The card on its way


def test_a_readme_that_was_edited_on_the_hub_survives(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, card=CardContent(license="mit", metrics={"accuracy": 0.5}))
    text = hub.repos["user/tiny"].files()["README.md"].decode()
    edited = text.replace("license: mit", "license: apache-2.0\nlanguage: en").replace("## Limits", "## My own words")
    hub.edit("user/tiny", "README.md", edited)
    for value in (0.6, 0.7):  # it stays edited, however often it is pushed over
        torch.nn.init.constant_(model.fc.bias, value)
        facts = CardContent(license="mit", metrics={"accuracy": value}, datasets=["uoft-cs/cifar10"])
        model.push_to_hub("user/tiny", token=WRITER, card=facts)
        card = ModelCard(hub.repos["user/tiny"].files()["README.md"].decode())
        body = ModelCard(edited).text.partition("<!-- resnet_hub")[0]
        assert card.text.partition("<!-- resnet_hub")[0].strip() == body.strip()
        assert (card.data.license, card.data.language, card.data.datasets) == ("apache-2.0", "en", ["uoft-cs/cifar10"])
        assert [result.metric_value for result in card.data.eval_results] == [value]
    loaded = ResNet.from_pretrained("user/tiny")
    assert loaded.card is not None
    assert "My own words" in loaded.card


def test_a_readme_that_nobody_edited_is_replaced(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, card=CardContent(metrics={"accuracy": 0.5}))
    text = hub.repos["user/tiny"].files()["README.md"].decode()
    hub.edit("user/tiny", "README.md", text.replace("---\n", "---\nlanguage: en\n", 1))  # metadata alone
    torch.nn.init.ones_(model.fc.bias)
    model.push_to_hub("user/tiny", token=WRITER, card=CardContent(metrics={"accuracy": 0.75}))
    text = hub.repos["user/tiny"].files()["README.md"].decode()
    assert "75.00 %" in text
    assert "50.00 %" not in text
    assert ModelCard(text).data.language == "en"


def test_the_card_of_unchanged_weights_is_kept_to_the_byte(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    model.push_to_hub("user/tiny", token=WRITER, card=CardContent(metrics={"accuracy": 0.5}))
    loaded = ResNet.from_pretrained("user/tiny")
    folder = loaded.save_pretrained(tmp_path / "m")
    assert (folder / "README.md").read_text(encoding="utf-8") == loaded.card
    torch.nn.init.ones_(loaded.fc.bias)
    loaded.save_pretrained(folder)
    assert "50.00 %" not in (folder / "README.md").read_text(encoding="utf-8")


# Refusals, each one sentence with what to do


def refused(source: str = "user/tiny", *, seconds: float = 5, **options) -> str:
    start = time.perf_counter()
    with pytest.raises(HubError) as error:
        load_checkpoint(source, **options)
    assert one_sentence(error.value)
    assert "hf_" not in str(error.value)
    assert time.perf_counter() - start < seconds
    return str(error.value)


def test_no_such_repo(hub: Hub) -> None:
    assert "no model on the Hub named user/none" in refused("user/none")
    assert "no model on the Hub named user/none" in refused("user/none", token=READER)


@pytest.mark.parametrize(
    "name", ["", "user/-name", "user--x/y", "user/name.git", "two words", "a" * 97, "a" * 5000, "nul\0", "user/", "é/x"]
)
def test_invalid_ids_are_not_sent(name: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    if name:  # the empty path is the folder that one stands in
        assert "nor the name of a model" in refused(name)
    with pytest.raises(HubError, match="nor the name of a model"):
        push_folder(model.save_pretrained(tmp_path / "m"), name, token=WRITER)
    assert hub.requests == []


def test_private_and_gated(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, private=True)
    assert "private" in refused()
    hub.repos["user/tiny"].private, hub.repos["user/tiny"].gated = False, True
    assert f"Request access at {hub.url}/user/tiny" in refused()
    assert "is gated" in refused(token=STRANGER)


def test_bad_tokens(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    assert "does not accept the token" in refused(token="hf_wrong")
    assert "characters that no token has" in refused(token="hf_wrong\n")
    assert "characters that no token has" in refused(token="令牌")
    folder = model.save_pretrained(tmp_path / "m")
    for token, words in {"hf_wrong": "does not accept the token", READER: "cannot write", False: "Log in"}.items():
        with pytest.raises(HubError, match=words) as error:
            push_folder(folder, "user/other", token=token)
        assert one_sentence(error.value)
    with pytest.raises(HubError, match="Log in"):
        push_folder(folder, "user/other", token=True)


def test_no_such_revision(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    assert "no branch, tag or commit v2" in refused(revision="v2")
    assert "no branch, tag or commit" in refused(revision="0" * 40)


def test_no_such_file_says_what_there_is(hub: Hub) -> None:
    hub.repos["user/pickle"] = Repo()
    hub.repos["user/pickle"].commit("main", {"config.json": TINY.to_json().encode(), "pytorch_model.bin": b""}, "x")
    with pytest.raises(CheckpointError, match=r"user/pickle has no model.safetensors but pytorch_model.bin"):
        load_checkpoint("user/pickle")
    hub.repos["user/text"] = Repo()
    hub.repos["user/text"].commit("main", {"book.txt": b""}, "x")
    with pytest.raises(CheckpointError, match=r"user/text has no config.json.*book.txt"):
        load_checkpoint("user/text")


def test_rate_limit_and_server_errors(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail(".", 429, headers={"Retry-After": "17"})
    assert "Try again in 17 seconds" in refused()
    hub.faults.clear()
    for status in (500, 503):
        hub.fail("api/models", status)
        assert f"a server error ({status})" in refused()
        hub.faults.clear()
    for status in (500, 503):  # half-way
        hub.fail("GET .*/resolve/", status)
        assert f"a server error ({status})" in refused()
        hub.faults.clear()
    hub.fail("GET .*/resolve/.*config", 429, headers={"Retry-After": "0"})  # and stays so
    assert "Try again in 0 seconds" in refused(seconds=30)
    hub.faults.clear()
    hub.fail("POST /api/repos/create", 503)
    with pytest.raises(HubError, match="a server error"):
        model.push_to_hub("user/tiny", token=WRITER)


def test_a_cut_download_is_not_taken_for_the_file(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail("GET .*/resolve/.*safetensors", body=b"too short")
    assert "cannot be fetched" in refused()
    hub.faults.clear()
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny")), logits(model))


def test_a_download_that_breaks_off_goes_on_where_it_was(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail("GET .*/resolve/.*safetensors", cut=1000, times=1)
    hub.fail("GET .*/resolve/.*README", 429, headers={"Retry-After": "0"}, times=1)
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny")), logits(model))


def test_a_download_that_keeps_breaking_off_is_given_up(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail("GET .*/resolve/.*safetensors", cut=0)
    assert "cannot be reached" in refused(seconds=30)


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_download_is_noticed_and_fetched_again(
    name: str, links: bool, model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    monkeypatch.setattr("huggingface_hub.file_download._are_symlinks_supported_in_dir", {})
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail(f"GET .*/resolve/.*{name}", flip=True)
    for _ in range(2):  # nothing of the first is left to be taken for the file
        assert re.search(rf"^{name} of user/tiny arrived damaged from {hub.url} twice", refused())
    hub.faults.clear()
    hub.fail(f"GET .*/resolve/.*{name}", flip=True, times=1)
    loaded = ResNet.from_pretrained("user/tiny")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config == TINY
    files = [path for path in (tmp_path / "cache").rglob(name) if path.parent.parent.name == "snapshots"]
    assert [path.is_symlink() for path in files] == [links]


def test_a_file_is_checked_until_it_was_and_never_again(
    model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    checked, digest = [], digest_file

    def watched(path: Path, length: int) -> str | None:
        checked.append(path.name)
        if checked.count(path.name) == 1 and path.name == "model.safetensors":
            raise KeyboardInterrupt
        return digest(path, length)

    monkeypatch.setattr("resnet_hub.checkpoints.source.digest_file", watched)
    hub.fail("GET .*/resolve/.*safetensors", flip=True, times=1)
    with pytest.raises(KeyboardInterrupt):
        ResNet.from_pretrained("user/tiny")
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny")), logits(model))
    assert checked.count("model.safetensors") == 3  # interrupted, damaged, whole
    assert {"config.json", "README.md"} < set(checked)
    checked.clear()
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny")), logits(model))
    assert checked == []


KILLED = """
import os, sys
from resnet_hub.checkpoints import load, source
source.digest_file = lambda path, length: os.kill(os.getpid(), 9)
load.load_checkpoint("user/tiny", cache_dir=sys.argv[1])
"""


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_kill_between_the_download_and_its_check_leaves_nothing_unchecked(
    name: str, model: ResNet, hub: Hub, tmp_path: Path
) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    if name != "config.json":
        read_config("user/tiny")
    hub.fail(f"GET .*/resolve/.*{name}", flip=True, times=1)
    run = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "cache"], capture_output=True, check=False)
    assert run.returncode == -9
    (damaged,) = [path for path in (tmp_path / "cache").rglob(name) if path.parent.parent.name == "snapshots"]
    assert damaged.read_bytes() != hub.repos["user/tiny"].files()[name]
    loaded = ResNet.from_pretrained("user/tiny")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config == TINY


def test_a_branch_that_moved_on_is_remembered_once_all_of_it_is_here(
    model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    old = logits(ResNet.from_pretrained("user/tiny"))
    torch.nn.init.ones_(model.fc.bias)
    model.push_to_hub("user/tiny", token=WRITER)
    assert read_config("user/tiny") == TINY  # of the new commit, whose weights are not here
    hub.fail("GET .*/resolve/.*safetensors", 503)
    assert "a server error" in refused()
    hub.fail(".", 503)
    hub.faults.reverse()
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny")), old)
    hub.faults.clear()
    new = logits(ResNet.from_pretrained("user/tiny"))
    assert torch.equal(new, logits(model))
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny", local_files_only=True)), new)


def test_a_repo_that_was_deleted_is_named_and_its_copy_stays(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    ResNet.from_pretrained("user/tiny")
    del hub.repos["user/tiny"]
    assert "no model on the Hub named user/tiny" in refused()
    assert torch.equal(logits(ResNet.from_pretrained("user/tiny", local_files_only=True)), logits(model))


@pytest.mark.parametrize("trouble", ["limit", "down", "silent", "offline", "local", "dead"])
def test_without_a_working_hub_the_cached_copy_is_used(
    trouble: str, model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    first = ResNet.from_pretrained("user/tiny")
    options = {"local_files_only": True} if trouble == "local" else {}
    match trouble:
        case "limit":
            hub.fail(".", 429)
        case "down":
            hub.fail(".", 503)
        case "silent":
            hub.fail(".", seconds=2)
            monkeypatch.setattr("resnet_hub.checkpoints.source.REQUEST_TIMEOUT", 0.2)
        case "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        case "dead":
            monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
            monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    again = ResNet.from_pretrained("user/tiny", **options)
    assert torch.equal(logits(again), logits(first))
    assert again.card == first.card
    message = refused("user/other", **options)
    assert {"offline": "not in the cache", "local": "not in the cache"}.get(trouble, "ry again") in message


# The library's own command, so that the server is more than a mirror of our calls


def hf(*arguments: str | Path) -> str:
    environment = os.environ | {"HF_TOKEN": WRITER}
    command = [shutil.which("hf", path=str(Path(sys.executable).parent)) or "hf", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_folders_go_up_and_come_down_with_the_hf_command(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    assert "user" in hf("auth", "whoami")
    hf("repos", "create", "user/by-hand", "--private")
    assert hub.repos["user/by-hand"].private
    hf("upload", "user/by-hand", folder, ".")
    loaded = ResNet.from_pretrained("user/by-hand", token=WRITER)
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.card == (folder / "README.md").read_text(encoding="utf-8")
    model.push_to_hub("user/ours", token=WRITER)
    hf("download", "user/ours", "--local-dir", tmp_path / "down")
    assert torch.equal(logits(ResNet.from_pretrained(tmp_path / "down")), logits(model))


# Other libraries open the same folder and the same repo


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResNet, Path]:
    """A network that the whole field knows, and its folder."""
    model = random_model(ResNetConfig.from_name("resnet18", id2label=LABELS, image_size=64))
    return model, model.save_pretrained(tmp_path_factory.mktemp("shared") / "resnet18")


@pytest.fixture(scope="module")
def half(shared: tuple[ResNet, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared[0].save_pretrained(tmp_path_factory.mktemp("shared") / "half", dtype="float16")


def test_half_precision_opens_everywhere_and_is_computed_with_in_full(half: Path) -> None:
    import timm
    from torchvision.models import resnet18
    from transformers import AutoModelForImageClassification

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = resnet18(num_classes=3).eval()
    theirs.load_state_dict(load_file(half / "model.safetensors"))
    with torch.inference_mode():
        ours = ResNet.from_pretrained(half)(images)
        assert close(ours, theirs(images))
        assert close(ours, timm.create_model(f"local-dir:{half}", pretrained=True).eval()(images))
        assert close(ours, AutoModelForImageClassification.from_pretrained(half)(images).logits)


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC)


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=1e-5)


def test_torchvision_opens_the_folder(shared: tuple[ResNet, Path]) -> None:
    from torchvision.models import resnet18

    model, folder = shared
    theirs = resnet18(num_classes=3).eval()
    theirs.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 64)
        assert close(model(images), theirs(images))


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_timm_opens_it(where: str, shared: tuple[ResNet, Path], hub: Hub, picture: Image.Image) -> None:
    import timm

    from resnet_hub.images.transforms import eval_transform

    model, folder = shared
    if where == "hub":
        push_folder(folder, "user/resnet18", token=WRITER)
    name = f"local-dir:{folder}" if where == "folder" else "hf-hub:user/resnet18"
    theirs = timm.create_model(name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    assert theirs.pretrained_cfg["label_names"] == list(LABELS.values())
    with torch.inference_mode():
        ours = model(eval_transform(model.config)(picture)[None])
        assert close(ours, theirs(transform(picture)[None]))


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_transformers_opens_it(where: str, shared: tuple[ResNet, Path], hub: Hub, picture: Image.Image) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    from resnet_hub.inference.classifier import Classifier

    model, folder = shared
    if where == "hub":
        push_folder(folder, "user/resnet18", token=WRITER)
    name = str(folder) if where == "folder" else "user/resnet18"
    theirs = AutoModelForImageClassification.from_pretrained(name)
    processor = AutoImageProcessor.from_pretrained(name)
    assert theirs.config.id2label == LABELS
    with torch.inference_mode():
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        assert close(model(pixels), theirs(pixels).logits)
    classify = pipeline("image-classification", model=name) if where == "folder" else pipeline(model=name)
    ours = Classifier.from_pretrained(name)(picture, top_k=3)
    for mine, other in zip(ours, classify(picture, top_k=3), strict=True):
        assert mine["label"] == other["label"]
        assert mine["score"] == pytest.approx(other["score"], abs=1e-5)


def run_samples(card: str) -> dict[str, Any]:
    """What the last line of each code sample of a card gives, by the library it is for, run as it is printed."""
    found = {}
    for title, code in re.findall(r"### ([^\n]+)\n\n```python\n(.*?)```", card, re.DOTALL):
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        names: dict[str, Any] = {}
        exec(compile(tree, title, "exec"), names)
        found[title] = eval(compile(ast.Expression(last.value), title, "eval"), names) if last else names
    return found


NETS = [
    ({"name": "resnet18", "id2label": LABELS, "image_size": 64}, "float32"),
    ({"name": "resnet26t", "id2label": LABELS, "image_size": 96, "crop_mode": "squash", "crop_pct": 1.0}, "float32"),
    ({"name": "resnet18", "id2label": LABELS, "image_size": 64, "interpolation": "bicubic"}, "float16"),
    ({"name": "resnet20", "id2label": LABELS}, "float32"),
]


@pytest.mark.parametrize(("about", "dtype"), NETS)
def test_the_code_on_a_card_runs_as_printed_and_gives_the_same_scores(
    about: dict[str, Any], dtype: str, hub: Hub, picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture.save("photo.jpg", quality=95)
    model = random_model(ResNetConfig.from_name(**about))
    model.save_pretrained("printed", dtype=dtype)
    export_onnx("printed")
    push_folder("printed", "user/printed", token=WRITER)
    answers = run_samples(hub.repos["user/printed"].files()["README.md"].decode())
    known = {"resnet18": {"timm", "transformers", "torchvision"}, "resnet26t": {"timm", "transformers"}}
    assert set(answers) == {"resnet_hub", "ONNX Runtime"} | known.get(about["name"], set())

    scores = {answer["label"]: answer["score"] for answer in answers["resnet_hub"]}
    expected = [scores[label] for label in LABELS.values()]
    if "transformers" in answers:
        assert {answer["label"]: answer["score"] for answer in answers["transformers"]} == pytest.approx(
            scores, abs=1e-4
        )
    for library in {"timm", "torchvision"} & answers.keys():
        assert answers[library][0].tolist() == pytest.approx(expected, abs=1e-4)
    session = answers["ONNX Runtime"]["session"]
    pixels = eval_transform(model.config)(load_image("photo.jpg"))[None].numpy()
    graph = torch.tensor(session.run(None, {"pixel_values": pixels})[0]).softmax(1)[0]
    assert graph.tolist() == pytest.approx(expected, abs=1e-4)
    print(f"\n{about['name']} as {dtype}: one repo, {len(answers)} loaders agree")  # noqa: T201

    ResNet.from_pretrained("user/printed").push_to_hub("user/printed", token=WRITER)
    assert "ONNX" not in hub.repos["user/printed"].files()["README.md"].decode().replace("as ONNX (`", "")


# Other files of weights


def split(folder: Path, parts: dict[str, list[str]] | None = None) -> dict[str, torch.Tensor]:
    """The weights of a folder in two parts with an index, as large models are saved."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(weights)
    parts = parts or {"model-1-of-2.safetensors": names[:10], "model-2-of-2.safetensors": names[10:]}
    for part, keys in parts.items():
        save_file({key: weights[key] for key in keys}, folder / part)
    table = {key: part for part, keys in parts.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return weights


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_weights_in_parts(where: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    split(folder)
    if where == "hub":
        put(hub, "user/parts", folder)
    loaded = ResNet.from_pretrained(folder if where == "folder" else "user/parts")
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {"a": "../m/model.safetensors"}},
            r"names '../m/model.safetensors', which is no file of weights",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd', which is no file"),
        ({"weight_map": {"a": "..\\secret.safetensors"}}, "which is no file of weights beside it"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "names 'pytorch_model.bin', which is no file of weights"),
        ({"weight_map": {"a": "gone.safetensors"}}, "has no gone.safetensors, which its"),
        ({"weight_map": {"a": 1}}, "names 1, which is no file"),
        ({"weight_map": {"a": ["b"]}}, "is damaged"),
        ({"weight_map": {}}, "names 0 files"),
        ({"weight_map": []}, "is damaged"),
        ([], "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_an_index_reaches_no_file_but_those_beside_it(
    index: object, message: str, model: ResNet, tmp_path: Path
) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "secret.safetensors")
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(message)) as error:
        ResNet.from_pretrained(folder)
    assert one_sentence(error.value)


def test_a_tensor_in_two_parts_is_refused(model: ResNet, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    names = list(model.state_dict())
    split(folder, {"a.safetensors": names[:10], "b.safetensors": names[9:]})
    with pytest.raises(CheckpointError, match=f"have {re.escape(names[9])} twice, the second time in b.safetensors"):
        ResNet.from_pretrained(folder)


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_one_of_several_files_is_named(where: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "best.safetensors")
    if where == "hub":
        put(hub, "user/one", folder)
    source = folder if where == "folder" else "user/one"
    assert torch.equal(logits(ResNet.from_pretrained(source)), logits(model))  # the only one

    save_file({key: tensor * 2 for key, tensor in weights.items()}, folder / "last.safetensors")
    if where == "hub":
        put(hub, "user/one", folder)
    with pytest.raises(CheckpointError, match=r'several files of weights\. .* weights="best.safetensors"\.$'):
        ResNet.from_pretrained(source)
    last = ResNet.from_pretrained(source, weights="last.safetensors")
    assert torch.equal(last.conv1.weight, 2 * model.conv1.weight)
    for wrong in ("gone.safetensors", "config.json", "../m/best.safetensors"):
        with pytest.raises(CheckpointError, match="has no weights"):
            ResNet.from_pretrained(source, weights=wrong)


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_model_in_a_subfolder(where: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "repo" / "models" / "tiny").parent.parent
    if where == "hub":
        put(hub, "user/many", folder)
    source = folder if where == "folder" else "user/many"
    loaded = ResNet.from_pretrained(source, subfolder="models/tiny")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.card is not None
    assert read_config(source, subfolder="models/tiny/") == TINY
    parent = folder / "models" if where == "folder" else "user/many"
    with pytest.raises(CheckpointError, match=r'Choose one, such as subfolder="(models/)?tiny"'):
        ResNet.from_pretrained(parent)
    for wrong in ("../repo/models/tiny", "models/../models/tiny", "models/gone"):
        with pytest.raises(CheckpointError) as error:
            ResNet.from_pretrained(source, subfolder=wrong)
        assert one_sentence(error.value)


def put(hub: Hub, repo_id: str, folder: Path) -> None:
    """A repo as someone else has filled it."""
    repo = hub.repos.setdefault(repo_id, Repo())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    repo.commit("main", files, "Upload")


def test_names_of_wrappers_and_of_the_cifar_repositories_open(tmp_path: Path) -> None:
    model = random_model(ResNetConfig.from_name("resnet20", num_classes=10, shortcut="B"))
    folder = model.save_pretrained(tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    theirs = {
        "module." + key.replace("fc.", "linear.").replace("downsample", "shortcut"): tensor
        for key, tensor in weights.items()
    }
    save_file(theirs, folder / "model.safetensors")
    assert torch.equal(logits(ResNet.from_pretrained(folder)), logits(model))


def test_what_does_not_open_costs_no_download_of_weights(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m")
    (folder / "config.json").write_text('{"architecture": "seresnet50.a1_in1k", "num_classes": 3}')
    put(hub, "user/se", folder)
    with pytest.raises(ConfigError, match=r"user/se: .* seresnet50, which has squeeze-excitation"):
        ResNet.from_pretrained("user/se")
    assert not any("safetensors" in request for request in hub.requests)


# The Hub as a place


def test_a_search_finds_resnets_of_every_kind(model: ResNet, hub: Hub) -> None:
    front = "---\nlibrary_name: {}\npipeline_tag: image-classification\ntags: [{}]\n---\n"
    cards = {
        "user/flowers-ours": front.format("resnet_hub", "resnet"),
        "lab/flowers-theirs": front.format("transformers", "resnet"),
        "timm/resnet18.flowers": front.format("timm", "timm"),
        "lab/flowers-of-timm": front.format("timm", "timm"),
        "lab/flowers-vit": front.format("transformers", "vit"),
        "lab/pets": front.format("transformers", "resnet"),
    }
    for number, (name, card) in enumerate(cards.items()):
        hub.repos[name] = Repo(downloads=number)
        hub.repos[name].commit("main", {"README.md": card.encode()}, "x")
    found = search_models("flowers")
    assert [(model.id, model.downloads, model.is_resnet) for model in found] == [
        ("lab/flowers-of-timm", 3, False),
        ("timm/resnet18.flowers", 2, True),
        ("lab/flowers-theirs", 1, True),
        ("user/flowers-ours", 0, True),
    ]
    assert [model.id for model in search_models("flowers", limit=1)] == ["lab/flowers-of-timm"]
    assert search_models("nothing like it") == []
    hub.fail("GET /api/models$", 503)
    with pytest.raises(HubError, match=r"^The search cannot be fetched: the Hub has a server error") as error:
        search_models("flowers")
    assert one_sentence(error.value)


def test_what_is_stored_is_read_off_the_header(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "m", dtype="float16")
    tensors = load_file(folder / "model.safetensors").values()
    floats = sum(tensor.numel() for tensor in tensors if tensor.is_floating_point())
    expected = {"F16": floats, "I64": len([tensor for tensor in tensors if not tensor.is_floating_point()])}
    program = "import sys; from resnet_hub.checkpoints.load import count_parameters_by_dtype as read; "
    program += "print(read(sys.argv[1]), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
    assert ast.literal_eval(run.stdout.replace(" False", "")) == expected

    put(hub, "user/half", folder)
    assert count_parameters_by_dtype("user/half") == expected
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    split(folder)
    put(hub, "user/parts", folder)
    assert count_parameters_by_dtype(folder) == count_parameters_by_dtype("user/parts") == expected
    hub.edit("user/half", "model.safetensors", b"text that is no header of weights")
    (folder / "model-1-of-2.safetensors").write_bytes(b"text that is no header of weights")
    for damaged in ("user/half", folder):
        with pytest.raises(CheckpointError, match="is damaged") as error:
            count_parameters_by_dtype(damaged)
        assert one_sentence(error.value)


ODD: list[Any] = [
    *(None, -1, 1e999, "\ud800\n\x1b[31m", "x" * 10**5, "../../x"),
    *([[]], {"a": 1}, [{"rfilename": 1}], [{"rfilename": "config.json", "size": "1"}]),
]
CALLS: dict[str, Callable[[ResNet], object]] = {
    "info": lambda model: read_config("user/tiny"),
    "models": lambda model: search_models("tiny"),
    **dict.fromkeys(
        ("create", "preupload", "batch", "commit"), lambda model: model.push_to_hub("user/new", token=WRITER)
    ),
}


def replaced(value: Any, other: Any) -> Iterator[Any]:
    """A JSON value with each of its parts replaced in turn; of a list, the first stands for all."""
    yield other
    for key, part in value.items() if isinstance(value, dict) else []:
        yield from (value | {key: new} for new in replaced(part, other))
    for part in value[:1] if isinstance(value, list) else []:
        yield from ([new, *value[1:]] for new in replaced(part, other))


@pytest.mark.filterwarnings("ignore:Warnings while validating metadata:UserWarning")
@pytest.mark.parametrize("route", CALLS)
def test_an_answer_that_makes_no_sense_is_one_sentence(
    route: str, model: ResNet, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = b"---\npipeline_tag: image-classification\ntags: [resnet]\n---\n"
    config = (model.save_pretrained(tmp_path / "m") / "config.json").read_bytes()
    hub.repos["user/tiny"] = Repo()
    hub.repos["user/tiny"].commit("main", {"README.md": card, "config.json": config}, "x")
    true, place, count = getattr(Hub, route), 0, 1

    def twisted(*arguments: Any) -> Any:
        nonlocal count
        found = true(*arguments)
        answers = [answer for odd in ODD for answer in replaced(found, odd)]
        count = max(count, len(answers))
        return answers[min(place, len(answers) - 1)]

    routes = [(pattern, twisted if answer is true else answer) for pattern, answer in hub_server._ROUTES]
    monkeypatch.setattr(hub_server, "_ROUTES", routes)
    monkeypatch.setattr("resnet_hub.hub_client.retry.TIMEOUT", 1.0)
    said = set()
    while place < count:
        hub.repos.pop("user/new", None)
        hub.blobs.clear()
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"cache{place}"))
        try:
            CALLS[route](model)
        except ResNetHubError as error:
            said.add(str(error))
        place += 1
    assert said and all(one_sentence(text) and text.isprintable() and len(text) < 600 for text in said)
    assert any("is malformed" in text for text in said) == (route in ("info", "models"))


@pytest.mark.parametrize("said", ["No\n\n\x1b[31mway. " * 10_000, ["a\r\nb", "x" * 10**6], "\ud800" * 400])
def test_what_the_hub_says_is_cut_and_on_one_line(said: object, hub: Hub) -> None:
    hub.fail("GET /api/models/", 400, page=json.dumps({"error": said}).encode())
    with pytest.raises(HubError, match=r"^The Hub refused user/tiny \(400\): ") as error:
        load_checkpoint("user/tiny")
    assert one_sentence(error.value) and str(error.value).isprintable() and len(str(error.value)) < 350
    hub.faults.clear()
    hub.fail("GET /api/models/", 401, headers={"X-Error-Message": "Bad token: " + "x" * 5000})
    with pytest.raises(HubError, match=r"x…\). Log in") as error:
        load_checkpoint("user/tiny", token="hf_bad")
    assert len(str(error.value)) < 450


def test_files_whose_names_no_sentence_may_hold_are_not_seen(model: ResNet, hub: Hub) -> None:
    hub.repos["user/odd"] = Repo()
    names = ["\x1b[31m\nx/config.json", "a" * 5000 + ".bin", "\u202eevil.pkl", "plain.txt"]
    hub.repos["user/odd"].commit("main", dict.fromkeys(names, b"x"), "x")
    with pytest.raises(CheckpointError, match=r"^user/odd has no config\.json.* It has plain\.txt\.$"):
        load_checkpoint("user/odd")


def test_the_size_of_a_file_outside_the_subfolder_is_not_that_of_its_namesake(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    files = hub.repos["user/tiny"].files()
    inner = {f"inner/{name}": content for name, content in files.items() if name != "model.safetensors"}
    hub.repos["user/tiny"].commit("main", inner | {"inner/model.safetensors": bytes(2**25)} | files, "x")
    with pytest.raises(CheckpointError, match="They are not fetched"):
        load_checkpoint("user/tiny", subfolder="inner")
