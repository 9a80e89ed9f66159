"""Write checkpoint folders.

A checkpoint folder holds `config.json` (see `ResNetConfig.to_dict`), `model.safetensors` with torchvision's keys, and
the model card `README.md`. Imports torch only where weights are read or written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.atomic import replace_files
from resnet_hub.config import ResNetConfig
from resnet_hub.convert.state_dict import (
    describe_bad_values,
    describe_mismatch,
    describe_reparametrization,
    list_expected_shapes,
)
from resnet_hub.errors import CheckpointError, disk_is_full, first_line, list_untrusted, memory_errors
from resnet_hub.hub_client.listing import sha256_file

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.checkpoints.model_card import CardContent


CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
ONNX_FILE = "onnx/model.onnx"
CALIBRATION_FILE = "onnx/int8.json"  # see `CalibrationRecord`
QUANTIZED_FILE = "onnx/model_quantized.onnx"
PROCESSOR_FILE, INDEX_FILE = "preprocessor_config.json", "model.safetensors.index.json"  # of transformers
# Removed with the weights: they describe or overrule them.
STALE_FILES = (ONNX_FILE, QUANTIZED_FILE, CALIBRATION_FILE, PROCESSOR_FILE, INDEX_FILE)
DTYPES = ("float32", "bfloat16", "float16")  # that weights can be stored as


def save_checkpoint(
    folder: str | Path,
    config: ResNetConfig,
    weights: "Mapping[str, Tensor]",
    card: "str | CardContent | None" = None,
    *,
    old_card: str | None = None,
    dtype: str | None = None,
    keeps_images: bool = False,
) -> Path:
    """Write a checkpoint folder. If the new files cannot be written, the old ones are unchanged; others stay.

    The files are replaced one right after the other: a process that loads the folder in that moment, or a kill, finds
    files of both checkpoints.

    Names, shapes and values of the weights are checked first. Tensors that share memory are stored separately.

    Args:
        folder: The folder, created if it does not exist.
        config: The network of the weights.
        weights: The state dict.
        card: The text of the model card, or facts to render it from; None to keep `old_card`, of other weights without
            metrics, or its license at least.
        old_card: The card that the model was loaded with.
        dtype: The dtype to store the weights in; None for their current dtype.
        keeps_images: Whether a generated `old_card` keeps the images whose files are not in the folder.

    Returns:
        The path of the folder.

    Raises:
        CheckpointError: The weights do not fit the config, have values such as NaN or overflow in `dtype`, or the
            folder cannot be written.
        MemoryFullError: There is too little memory.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from resnet_hub.checkpoints.model_card import (
        carry_over_card,
        carry_over_facts,
        mark_generated,
        remove_missing_images,
        render_card,
    )

    _check_weights(config, weights, folder)
    names = (*STALE_FILES, CARD_FILE, WEIGHTS_FILE, CONFIG_FILE)
    try:
        folder = Path(folder).expanduser()
        if folder.exists() and not folder.is_dir():
            raise CheckpointError(f"{folder} is a file. Name a folder to save the model in.")
        with memory_errors("the weights"), replace_files(folder, names) as new_folder:
            weights = cast_weights(weights, dtype) if dtype else weights
            (new_folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
            save_file(_separate(weights), new_folder / WEIGHTS_FILE, metadata={"format": "pt"})
            # safetensors writes files that only their owner can read.
            (new_folder / WEIGHTS_FILE).chmod((new_folder / CONFIG_FILE).stat().st_mode)
            sha256 = sha256_file(new_folder / WEIGHTS_FILE)
            if isinstance(card, str):
                text = mark_generated(card, sha256)
            else:
                kept = old_card if card is None else None
                facts = carry_over_facts(kept) if kept else card
                text = render_card(config, facts, weights_sha256=sha256, dtype=storage_dtype(weights))
                if kept is not None:
                    text = carry_over_card(kept, text)
                    text = text if keeps_images else remove_missing_images(text, _list_files(folder, text))
            (new_folder / CARD_FILE).write_bytes(text.encode())
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        reason = "the disk is full" if disk_is_full(error) else getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"Cannot save the model to {folder}: {reason}.") from None
    return folder


def _list_files(folder: Path, card: str) -> list[str]:
    """List the files of a folder if it holds the model of that card; another model has images of its own."""
    from resnet_hub.checkpoints.model_card import has_same_weights

    file = folder / CARD_FILE
    if not file.is_file() or not has_same_weights(file.read_text(encoding="utf-8", errors="replace"), card):
        return []
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def cast_weights(weights: "Mapping[str, Tensor]", dtype: str) -> "dict[str, Tensor]":
    """Cast the floating-point weights to `dtype`; raises `CheckpointError` where a finite value becomes infinite."""
    import torch

    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    result = {}
    for key, tensor in weights.items():
        cast = result[key] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        if cast.dtype != tensor.dtype and dtype == "float16" and bool((cast.isinf() & ~tensor.isinf()).any()):
            raise CheckpointError(f"{key} holds values above 65504, the limit of float16. Use bfloat16.")
    return result


def is_lossless_cast(weights: "Mapping[str, Tensor]", dtype: str) -> bool:
    """Whether casting the weights to `dtype` changes none of their values."""
    import torch

    target = getattr(torch, dtype)
    return all(
        not w.is_meta and torch.equal(w.to(target).to(w.dtype), w) for w in weights.values() if w.is_floating_point()
    )


def storage_dtype(weights: "Mapping[str, Tensor]") -> str:
    """The dtype of the weights, the narrowest if they are mixed; "float32" if none of them is in `DTYPES`."""
    present = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}
    return next((dtype for dtype in reversed(DTYPES) if dtype in present), DTYPES[0])


def _check_weights(config: ResNetConfig, weights: "Mapping[str, Tensor]", folder: str | Path) -> None:
    """Raise `CheckpointError` where names, shapes, types or values of weights do not make the network of the config."""
    subject = f"Cannot save the model to {folder}"
    if others := [key for key, weight in weights.items() if not hasattr(weight, "shape")]:
        raise CheckpointError(f"{subject}: {list_untrusted(others)} hold no tensors. Save it before you quantize it.")
    if state := describe_reparametrization(weights):
        raise CheckpointError(f"{subject}: it is {state} first.")
    if "fc.weight" in weights:
        check_head(config, {key: weight.shape for key, weight in weights.items()}, folder)
    if mismatch := describe_mismatch(list_expected_shapes(config), weights):
        is_other_head = "fc.weight" not in weights and any(key.startswith("fc.") for key in weights)
        remedy = "Make `model.fc` one linear layer" if is_other_head else "Save the network that its config describes"
        raise CheckpointError(f"{subject}: its weights do not fit its config: {mismatch}. {remedy}.")
    if problem := describe_bad_values(weights):
        raise CheckpointError(f"{subject}: it has {problem}. Such a network has no use; save an earlier state.")


def _separate(weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The weights on the CPU, contiguous, and none in the memory of another, which safetensors refuses."""
    separate, storages = {}, set()
    for key, weight in weights.items():
        tensor = weight.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        separate[key] = tensor.clone() if address in storages else tensor
        storages.add(address)
    return separate


def check_head(config: ResNetConfig, shapes: Mapping[str, Sequence[int]], source: str | Path) -> None:
    """Raise `CheckpointError` where the labels of the config and the outputs of the head differ in number."""
    head = shapes.get("fc.weight")
    if head is None and config.num_classes:
        raise CheckpointError(
            f"{source}: {CONFIG_FILE} has {config.num_classes} labels, but the head is missing: {WEIGHTS_FILE} has no "
            "fc.weight."
        )
    rows = head[0] if head else 0
    if rows != config.num_classes:
        raise CheckpointError(
            f"{source}: {CONFIG_FILE} has {config.num_classes} labels, but the head in {WEIGHTS_FILE} has "
            f"{rows} outputs."
        )
