"""ONNX files of a checkpoint folder, for those who run models without PyTorch: `onnx/`, where transformers.js looks."""

from pathlib import Path

import torch

from resnet_hub.atomic import write_atomic
from resnet_hub.errors import CheckpointError, ResNetHubError, disk_is_full
from resnet_hub.inference.engines import check_logits, create_session, example_batch, has_onnx, load_calibration
from resnet_hub.inference.onnx_graph import INPUT, build_onnx, fold_batchnorm
from resnet_hub.model import ResNet

EXPORTED_FILE, QUANTIZED_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"


def export_onnx(folder: str | Path) -> list[Path]:
    """Write `MODEL` into a checkpoint folder, and `QUANTIZED` where it is calibrated for int8; returns the files.

    Input "pixel_values" (batch, channels, side, side), output "logits", or "features" without a head. Raises
    `CheckpointError` where the graph's logits differ from PyTorch's by more than 1e-4.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}; the ONNX files go into a checkpoint folder on this disk.")
    require_onnx()
    model = ResNet.from_pretrained(folder)
    folded, batch = fold_batchnorm(model), example_batch(model)
    files = {EXPORTED_FILE: build_onnx(folded)}
    with torch.inference_mode():
        (found,) = create_session(files[EXPORTED_FILE]).run(None, {INPUT: batch.numpy()})
        check_logits(torch.from_numpy(found), model(batch))
    if (calibration := load_calibration(model)) is not None:
        files[QUANTIZED_FILE] = build_onnx(folded, ranges=calibration.ranges)
    return write_onnx_files(folder, files)


def write_onnx_files(folder: Path, files: dict[str, bytes]) -> list[Path]:
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomic(folder / name, data)
    except OSError as error:
        reason = "the disk is full" if disk_is_full(error) else error.strerror or error
        raise CheckpointError(f"The ONNX files cannot be saved to {folder}: {reason}.") from None
    return [folder / name for name in files]


def require_onnx() -> None:
    if not has_onnx():
        raise ResNetHubError("ONNX files need two packages more: pip install 'resnet_hub[onnx]'.")
