"""Exports a checkpoint folder's model to ONNX files in `onnx/`, where transformers.js looks for them."""

from pathlib import Path

import torch

from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.save import ONNX_FILE, QUANTIZED_FILE
from resnet_hub.errors import CheckpointError, ResNetHubError, disk_is_full
from resnet_hub.inference.engines import check_logits, create_session, example_batch, has_onnx, load_calibration
from resnet_hub.inference.onnx_graph import INPUT, build_onnx, fold_batchnorm
from resnet_hub.model import ResNet

EXPORTED_FILE = ONNX_FILE


def export_onnx(folder: str | Path) -> list[Path]:
    """Writes `EXPORTED_FILE` into a checkpoint folder, and `QUANTIZED_FILE` if it is calibrated for int8.

    The graph's input is "pixel_values" (batch, channels, side, side), its output "logits" (batch, classes), or
    "features" (batch, channels) without a head.

    Returns:
        The paths of the files.

    Raises:
        CheckpointError: If the graph's logits differ from PyTorch's by more than 1e-4, or the files cannot be written.
    """
    folder = require_checkpoint_folder(folder)
    require_onnx()
    model = ResNet.from_pretrained(folder)
    folded, batch = fold_batchnorm(model), example_batch(model)
    files = {EXPORTED_FILE: build_onnx(folded)}
    with torch.inference_mode():
        (logits,) = create_session(files[EXPORTED_FILE]).run(None, {INPUT: batch.numpy()})
        check_logits(torch.from_numpy(logits), model(batch))
    if (calibration := load_calibration(model)) is not None:
        files[QUANTIZED_FILE] = build_onnx(folded, ranges=calibration.ranges)
    return write_onnx_files(folder, files)


def write_onnx_files(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Writes files by their names in a checkpoint folder, each atomically. Returns their paths."""
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomic(folder / name, data)
    except OSError as error:
        reason = "the disk is full" if disk_is_full(error) else error.strerror or error
        raise CheckpointError(f"The ONNX files cannot be saved to {folder}: {reason}.") from None
    return [folder / name for name in files]


def require_checkpoint_folder(folder: str | Path) -> Path:
    """Returns the folder's path with `~` expanded. Raises `CheckpointError` if there is no such folder."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"There is no folder {path}; ONNX files are written into a local checkpoint folder.")
    return path


def require_onnx() -> None:
    """Raises `ResNetHubError` if the packages that write and run ONNX files are not installed."""
    if not has_onnx():
        raise ResNetHubError("ONNX files need the packages onnx and onnxruntime: pip install 'resnet_hub[onnx]'.")
