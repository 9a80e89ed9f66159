"""Checkpoint folders, on this disk and on the Hugging Face Hub. Imports torch only where weights move.

A checkpoint folder holds `config.json` (see `ResNetConfig.to_dict`), `model.safetensors` with torchvision's key
names, and the model card `README.md`. Pickles are never opened.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import CheckpointError, ConfigError
from resnet_hub.files import replace_folder

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_STALE = (CONFIG, WEIGHTS, CARD, "onnx", "preprocessor_config.json")  # speak of the weights, so they go with them
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")


class Checkpoint(NamedTuple):
    """What a checkpoint folder holds."""

    config: ResNetConfig
    weights: "dict[str, Tensor]"
    card: str | None


def read_config(source: str | Path, **hub: Any) -> ResNetConfig:
    """The config of a checkpoint folder or a Hub repo, without its weights; arguments as `load_checkpoint`."""
    return _config(_path(source, CONFIG, **hub), source)


def load_checkpoint(source: str | Path, **hub: Any) -> Checkpoint:
    config_path = _path(source, CONFIG, **hub)
    config = _config(config_path, source)
    weights = _read_weights(_path(config_path.parent, WEIGHTS), source)
    card_path = config_path.with_name(CARD)
    card = card_path.read_bytes().decode("utf-8", errors="replace") if card_path.is_file() else None
    _check_head(config, weights, source)
    return Checkpoint(config, weights, card)


def save_checkpoint(
    folder: str | Path, config: ResNetConfig, weights: "Mapping[str, Tensor]", card: str | None = None
) -> Path:
    """Write a checkpoint folder beside `folder` and put it in its place; other files in it stay.

    Raises `CheckpointError` where the labels and the head disagree, or the disk refuses.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    _check_head(config, weights, folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to save the model in.")
    try:
        with replace_folder(folder, keep=lambda name: name not in _STALE) as part:
            (part / CONFIG).write_text(config.to_json(), encoding="utf-8")
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
            save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
            (part / WEIGHTS).chmod((part / CONFIG).stat().st_mode)  # the writer gives it to its owner alone
            if card is not None:
                (part / CARD).write_bytes(card.encode())
    except OSError as error:
        raise CheckpointError(f"The model cannot be saved to {folder}: {error.strerror or error}.") from None
    return folder


def check_weights(expected: "Mapping[str, Tensor]", weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """`weights` for a network whose state dict is like `expected`; raises `CheckpointError` with what does not fit.

    Only BatchNorm's `num_batches_tracked`, which older files lack and inference never reads, is filled in.
    """
    import torch

    full = dict(weights)
    for key in expected.keys() - weights.keys():
        if key.endswith(".num_batches_tracked"):
            full[key] = torch.zeros((), dtype=torch.long)
    problems = {
        "missing": [key for key in expected if key not in full],
        "unexpected": [key for key in full if key not in expected],
        "misshapen": [
            f"{key} ({_kind(full[key])} for {_kind(tensor)})"
            for key, tensor in expected.items()
            if key in full and _kind(full[key]) != _kind(tensor)
        ],
    }
    if found := [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys]:
        raise CheckpointError(f"The weights do not fit the network in {CONFIG}; {'; '.join(found)}.")
    return full


def _kind(tensor: "Tensor") -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'scalar'}{'' if tensor.is_floating_point() else ' of whole numbers'}"


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _check_head(config: ResNetConfig, weights: "Mapping[str, Tensor]", source: str | Path) -> None:
    rows = weights["fc.weight"].shape[0] if "fc.weight" in weights and weights["fc.weight"].ndim else 0
    if rows != config.num_classes:
        raise CheckpointError(
            f"{source} disagrees with itself: {CONFIG} has {config.num_classes} labels, the head has {rows} outputs."
        )


def _read_weights(path: Path, source: str | Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{WEIGHTS} of {source} is damaged; fetch or save it again ({error}).") from None


def _config(path: Path, source: str | Path) -> ResNetConfig:
    try:
        return ResNetConfig.from_json(path.read_bytes())
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _path(source: str | Path, name: str, **hub: Any) -> Path:
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {source}.")
    path = folder / name
    if path.is_file():
        return path
    names = sorted(entry.name for entry in folder.iterdir())
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise CheckpointError(
            f"{source} has no {name} but {pickles[0]}, a pickle, which is never opened because it can run code; "
            f"convert it with `resnet-hub convert {folder / pickles[0]} FOLDER`."
        )
    raise CheckpointError(f"{source} has no {name}; it holds {_some(names) or 'nothing'}.")
