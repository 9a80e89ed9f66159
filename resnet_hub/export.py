"""ONNX files of a checkpoint folder, for those who run models without PyTorch: `onnx/`, where transformers.js looks."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub import engine, graph
from resnet_hub.card import tell_int8
from resnet_hub.errors import CheckpointError, DataError, ResNetHubError, disk_is_full
from resnet_hub.files import write_atomic
from resnet_hub.graph import Calibration
from resnet_hub.hub import CALIBRATION, CARD
from resnet_hub.model import ResNet

MODEL, QUANTIZED = "onnx/model.onnx", "onnx/model_quantized.onnx"
CALIBRATE_ON = 512  # pictures, from all over the data: the ranges hardly change with more
MAY_LOSE = 0.005  # of accuracy, 0..1, by int8
_BATCH = 16


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


def quantize(
    folder: str | Path,
    data: str | Path | Mapping[str, Sequence[Any]],
    *,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Calibration:
    """Calibrate a checkpoint folder for int8 and store it with the graph, `CALIBRATION` and `QUANTIZED`.

    Ranges come from `CALIBRATE_ON` pictures of the training split; `names` are as in `evaluate`.
    Accuracy is measured in float32 and in int8 on all of `split`, or the first of validation, test, train that exists.
    `progress` hears how many pictures are done, and of how many. Raises `ResNetHubError` where int8 loses more than
    `MAY_LOSE`, unless `force`: it is then kept for those who ask for it by `precision="int8"`.
    """
    from resnet_hub import evaluation
    from resnet_hub.classifier import Classifier
    from resnet_hub.data import TRAIN
    from resnet_hub.data import load as load_data

    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}; int8 goes into a checkpoint folder on this disk.")
    _need_onnx()
    classify = Classifier.from_pretrained(folder, device="cpu", precision="fp32")
    model = classify.model
    splits = load_data(data, **names or {})
    name, pictures = evaluation.one_split(splits, split)
    sample = splits[TRAIN]
    targets = evaluation.true_indices(model.config.labels, pictures)
    few = sorted({round(place) for place in np.linspace(0, len(sample) - 1, CALIBRATE_ON)})
    total = len(few) + len(pictures)

    def inputs(images: Any, done: int) -> Any:
        for items in evaluation.network_inputs(classify, images, _BATCH):
            yield [item if isinstance(item, Tensor) else None for item in items]
            done += len(items)
            if progress is not None:
                progress(done, total)

    folded = graph.fold(model)
    if not all(weights.isfinite().all() for weights in folded.parameters()):
        raise CheckpointError(f"{folder} holds weights that are no numbers: it is damaged.")
    ranges = _ranges(folded, inputs(sample.subset(few), 0))
    whole = graph.build(folded, ranges=ranges)
    runs = [engine.session(graph.build(folded)), engine.session(whole)]
    right, known, place = np.zeros(2), 0, 0
    for items in inputs(pictures, len(few)):
        good = [index for index, item in enumerate(items) if item is not None]
        if good:
            batch = torch.stack([items[index] for index in good]).numpy()
            wanted = targets[[place + index for index in good]]
            right += [(run.run(None, {graph.INPUT: batch})[0].argmax(1) == wanted).sum() for run in runs]
        known, place = known + len(good), place + len(items)
    if not known:
        raise DataError(f"None of the {len(pictures):,} pictures can be read.")
    before, after = (right / known).tolist()
    passed = before - after <= MAY_LOSE
    if not passed and not force:
        raise ResNetHubError(
            f"int8 has {after:.2%} of {known:,} pictures right, float32 {before:.2%}: more than half a point is lost, "
            "so it is not kept; force it if that is good enough."
        )
    calibration = Calibration(
        weights=graph.digest(model),
        ranges=ranges,
        data=f"{name} split, {known:,} pictures",
        pictures=known,
        accuracy=before,
        accuracy_int8=after,
        passed=passed,
    )
    files = {QUANTIZED: whole, CALIBRATION: calibration.to_json().encode()}
    if model.card:
        files[CARD] = tell_int8(model.card, calibration).encode()
    _write(folder, files)
    return calibration


def calibrated(model: ResNet, batch: Tensor) -> ResNet:
    """A copy calibrated on one batch of inputs, with no accuracy measured: for comparing speed."""
    model = copy.deepcopy(model)
    ranges = _ranges(graph.fold(model), [list(batch)])
    facts: dict[str, Any] = {"data": "", "pictures": 0, "accuracy": 0.0, "accuracy_int8": 0.0, "passed": False}
    model.calibration = Calibration(weights=graph.digest(model), ranges=ranges, **facts).to_json().encode()
    return model


def _ranges(folded: ResNet, batches: Any) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each map, 0 included."""
    run = engine.session(graph.build(folded, extra="maps"))
    names = [output.name for output in run.get_outputs()]
    low, high = dict[str, float](), dict[str, float]()
    for items in batches:
        good = [item for item in items if item is not None]
        if not good:
            continue
        batch = torch.stack(good).numpy()
        maps = dict(zip(names[1:], run.run(None, {graph.INPUT: batch})[1:], strict=True)) | {graph.INPUT: batch}
        for name, values in maps.items():
            low[name] = min(low.get(name, 0.0), float(values.min()))
            high[name] = max(high.get(name, 1e-6), float(values.max()))
    if not low:
        raise DataError("None of the pictures to calibrate on can be read.")
    return {name: (low[name], high[name]) for name in low}


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_atomic(folder / name, data)
    except OSError as error:
        reason = "the disk is full" if disk_is_full(error) else error.strerror or error
        raise CheckpointError(f"The ONNX files cannot be saved to {folder}: {reason}.") from None
    return [folder / name for name in files]


def _need_onnx() -> None:
    if not engine.onnx_is_here():
        raise ResNetHubError("ONNX files need two packages more: pip install 'resnet_hub[onnx]'.")
