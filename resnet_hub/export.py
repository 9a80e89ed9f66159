"""ONNX files of a checkpoint folder, for those who run models without PyTorch: `onnx/`, where transformers.js looks."""

from pathlib import Path

import torch

from resnet_hub import engine, graph
from resnet_hub.errors import CheckpointError, ResNetHubError
from resnet_hub.files import write_atomic
from resnet_hub.model import ResNet

MODEL, QUANTIZED = "onnx/model.onnx", "onnx/model_quantized.onnx"


def export(folder: str | Path) -> list[Path]:
    """Write `MODEL` into a checkpoint folder, and `QUANTIZED` where it is calibrated for int8; returns the files.

    Input "pixel_values" (batch, channels, side, side), output "logits", or "features" without a head. Raises
    `CheckpointError` where the graph's logits differ from PyTorch's by more than 1e-4.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}; the ONNX files go into a checkpoint folder on this disk.")
    _need_onnx()
    model = ResNet.from_pretrained(folder)
    folded, batch = graph.fold(model), engine.sample(model)
    files = {MODEL: graph.build(folded)}
    with torch.inference_mode():
        (found,) = engine.session(files[MODEL]).run(None, {graph.INPUT: batch.numpy()})
        engine.check(torch.from_numpy(found), model(batch))
    if (calibration := engine.calibration_of(model)) is not None:
        files[QUANTIZED] = graph.build(folded, ranges=calibration.ranges)
    return _write(folder, files)


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomic(folder / name, data)
    except OSError as error:
        raise CheckpointError(f"The ONNX files cannot be saved to {folder}: {error.strerror or error}.") from None
    return [folder / name for name in files]


def _need_onnx() -> None:
    if not engine.onnx_is_here():
        raise ResNetHubError("ONNX files need two packages more: pip install 'resnet_hub[onnx]'.")
