"""Checkpoint folders on this disk: the names of their files, writing and checking them.

A checkpoint folder holds `config.json` (see `ResNetConfig.to_dict`), `model.safetensors` with torchvision's key
names, and the model card `README.md`. Imports torch only where weights move."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.atomic import replace_folder
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import (
    CheckpointError,
    disk_is_full,
)
from resnet_hub.hub_client.errors import first_line
from resnet_hub.hub_client.listing import sha256_file

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.checkpoints.model_card import CardContent


CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
ONNX_FILE = "onnx/model.onnx"
CALIBRATION_FILE = "onnx/int8.json"  # see `graph.Calibration`
PROCESSOR_FILE, INDEX_FILE = "preprocessor_config.json", "model.safetensors.index.json"  # of transformers
STALE_FILES = (
    "onnx",
    PROCESSOR_FILE,
    INDEX_FILE,
)  # speak of other weights, or overrule the config: they go with the old
DTYPES = ("float32", "bfloat16", "float16")  # that weights are stored as


def save_checkpoint(
    folder: str | Path,
    config: ResNetConfig,
    weights: "Mapping[str, Tensor]",
    card: "str | CardContent | None" = None,
    *,
    old_card: str | None = None,
    dtype: str | None = None,
) -> Path:
    """Write a checkpoint folder beside `folder` and put it in its place, whole; other files in it stay.

    `card` is a text that is kept, or facts for a new one; without, `old_card` is kept as far as it is still true.
    `dtype` is what the weights are stored as. Raises `CheckpointError` where the labels and the head disagree, a weight
    has no room in `dtype`, or the disk refuses.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from resnet_hub.checkpoints.model_card import carry_over_card, mark_generated, render_card

    folder = Path(folder).expanduser()
    check_head(config, weights, folder)
    weights = cast_weights(weights, dtype) if dtype else weights
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to save the model in.")
    try:
        with replace_folder(
            folder, keep=lambda name: name not in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, *STALE_FILES)
        ) as part:
            (part / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
            save_file(tensors, part / WEIGHTS_FILE, metadata={"format": "pt"})
            (part / WEIGHTS_FILE).chmod((part / CONFIG_FILE).stat().st_mode)  # safetensors gives it to its owner alone
            sha256 = sha256_file(part / WEIGHTS_FILE)
            if isinstance(card, str):
                text = mark_generated(card, sha256)
            else:
                text = render_card(config, card, weights_sha256=sha256, dtype=storage_dtype(weights))
                text = carry_over_card(old_card, text) if old_card is not None and card is None else text
            (part / CARD_FILE).write_bytes(text.encode())
    except (OSError, SafetensorError) as error:  # what was there before stays
        reason = "the disk is full" if disk_is_full(error) else getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"The model cannot be saved to {folder}: {reason}.") from None
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
    if found := [f"{len(keys)} {what}: {list_some(keys)}" for what, keys in problems.items() if keys]:
        raise CheckpointError(f"The weights do not fit the network in {CONFIG_FILE}; {'; '.join(found)}.")
    return full


def cast_weights(weights: "Mapping[str, Tensor]", dtype: str) -> "dict[str, Tensor]":
    """The weights as `dtype`, counters as they are; raises `CheckpointError` where a finite one becomes infinite."""
    import torch

    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    done = {}
    for key, tensor in weights.items():
        done[key] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        if done[key].dtype != tensor.dtype and dtype == "float16" and bool((done[key].isinf() & ~tensor.isinf()).any()):
            raise CheckpointError(f"{key} holds values above 65504, for which float16 has no room; take bfloat16.")
    return done


def is_lossless_cast(weights: "Mapping[str, Tensor]", dtype: str) -> bool:
    """Whether the weights lose nothing as `dtype`."""
    import torch

    kind = getattr(torch, dtype)
    return all(torch.equal(w.to(kind).to(w.dtype), w) for w in weights.values() if w.is_floating_point())


def storage_dtype(weights: "Mapping[str, Tensor]") -> str:
    """The dtype of the weights, the narrowest where they are mixed; "float32" where there is none of `DTYPES`."""
    present = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}
    return next((dtype for dtype in reversed(DTYPES) if dtype in present), DTYPES[0])


def check_head(config: ResNetConfig, weights: "Mapping[str, Tensor]", source: str | Path) -> None:
    head = weights.get("fc.weight")
    rows = head.shape[0] if head is not None and head.ndim else 0
    if rows != config.num_classes:
        raise CheckpointError(
            f"{source}: {CONFIG_FILE} has {config.num_classes} labels, but the head in {WEIGHTS_FILE} has "
            f"{rows} outputs."
        )


def _kind(tensor: "Tensor") -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'scalar'}{'' if tensor.is_floating_point() else ' of whole numbers'}"


def list_some(names: list[str], count: int = 3) -> str:
    return ", ".join(name[:80] for name in names[:count]) + (", ..." if len(names) > count else "")
