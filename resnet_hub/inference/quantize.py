"""Calibrates a checkpoint folder for int8, and measures what that costs."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub.calibration_record import CalibrationRecord
from resnet_hub.checkpoints.folder import CALIBRATION_FILE, CARD_FILE
from resnet_hub.checkpoints.model_card import add_int8_section
from resnet_hub.errors import CheckpointError, DataError, ResNetHubError
from resnet_hub.inference.engines import create_session
from resnet_hub.inference.onnx_export import QUANTIZED_FILE, require_onnx, write_onnx_files
from resnet_hub.inference.onnx_graph import INPUT, build_onnx, digest_weights, fold_batchnorm
from resnet_hub.model import ResNet

CALIBRATION_IMAGES = 512  # pictures, from all over the data: the ranges hardly change with more
MAX_ACCURACY_LOSS = 0.005  # of accuracy, 0..1, by int8
_BATCH = 16


def quantize(
    folder: str | Path,
    data: str | Path | Mapping[str, Sequence[Any]],
    *,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> CalibrationRecord:
    """Calibrate a checkpoint folder for int8 and store it with the graph, `CALIBRATION` and `QUANTIZED`.

    Ranges come from `CALIBRATE_ON` pictures of the training split; `names` are as in `evaluate`.
    Accuracy is measured in float32 and in int8 on all of `split`, or the first of validation, test, train that exists.
    `progress` hears how many pictures are done, and of how many. Raises `ResNetHubError` where int8 loses more than
    `MAY_LOSE`, unless `force`: it is then kept for those who ask for it by `precision="int8"`.
    """
    from resnet_hub.datasets.dataset import TRAIN, choose_split
    from resnet_hub.datasets.labels import match_labels
    from resnet_hub.datasets.load import load_dataset as load_data
    from resnet_hub.inference.classifier import Classifier, load_inputs
    from resnet_hub.inference.engines import create_session
    from resnet_hub.inference.onnx_graph import INPUT, build_onnx, digest_weights, fold_batchnorm

    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}; int8 goes into a checkpoint folder on this disk.")
    require_onnx()
    classify = Classifier.from_pretrained(folder, device="cpu", precision="fp32")
    model = classify.model
    splits = load_data(data, **names or {})
    name, pictures = choose_split(splits, split)
    sample = splits[TRAIN]
    targets = match_labels(model.config.labels, pictures)
    few = sorted({round(place) for place in np.linspace(0, len(sample) - 1, CALIBRATION_IMAGES)})
    total = len(few) + len(pictures)

    def inputs(images: Any, done: int) -> Any:
        for items in load_inputs(classify, images, _BATCH):
            yield [item if isinstance(item, Tensor) else None for item in items]
            done += len(items)
            if progress is not None:
                progress(done, total)

    folded = fold_batchnorm(model)
    if not all(weights.isfinite().all() for weights in folded.parameters()):
        raise CheckpointError(f"{folder} holds weights that are no numbers: it is damaged.")
    ranges = _ranges(folded, inputs(sample.subset(few), 0))
    whole = build_onnx(folded, ranges=ranges)
    runs = [create_session(build_onnx(folded)), create_session(whole)]
    right, known, place = np.zeros(2), 0, 0
    for items in inputs(pictures, len(few)):
        good = [index for index, item in enumerate(items) if item is not None]
        if good:
            batch = torch.stack([items[index] for index in good]).numpy()
            wanted = targets[[place + index for index in good]]
            right += [(run.run(None, {INPUT: batch})[0].argmax(1) == wanted).sum() for run in runs]
        known, place = known + len(good), place + len(items)
    if not known:
        raise DataError(f"None of the {len(pictures):,} pictures can be read.")
    before, after = (right / known).tolist()
    passed = before - after <= MAX_ACCURACY_LOSS
    if not passed and not force:
        raise ResNetHubError(
            f"int8 has {after:.2%} of {known:,} pictures right, float32 {before:.2%}: more than half a point is lost, "
            "so it is not kept; force it if that is good enough."
        )
    calibration = CalibrationRecord(
        weights=digest_weights(model),
        ranges=ranges,
        data=f"{name} split, {known:,} pictures",
        num_images=known,
        accuracy=before,
        accuracy_int8=after,
        passed=passed,
    )
    files = {QUANTIZED_FILE: whole, CALIBRATION_FILE: calibration.to_json().encode()}
    if model.card:
        files[CARD_FILE] = add_int8_section(model.card, calibration).encode()
    write_onnx_files(folder, files)
    return calibration


def calibrate_on_batch(model: ResNet, batch: Tensor) -> ResNet:
    """A copy calibrated on one batch of inputs, with no accuracy measured: for comparing speed."""
    model = copy.deepcopy(model)
    ranges = _ranges(fold_batchnorm(model), [list(batch)])
    facts: dict[str, Any] = {"data": "", "num_images": 0, "accuracy": 0.0, "accuracy_int8": 0.0, "passed": False}
    model.calibration = CalibrationRecord(weights=digest_weights(model), ranges=ranges, **facts).to_json().encode()
    return model


def _ranges(folded: ResNet, batches: Any) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each map, 0 included."""
    run = create_session(build_onnx(folded, extra="maps"))
    names = [output.name for output in run.get_outputs()]
    low, high = dict[str, float](), dict[str, float]()
    for items in batches:
        good = [item for item in items if item is not None]
        if not good:
            continue
        batch = torch.stack(good).numpy()
        maps = dict(zip(names[1:], run.run(None, {INPUT: batch})[1:], strict=True)) | {INPUT: batch}
        for name, values in maps.items():
            low[name] = min(low.get(name, 0.0), float(values.min()))
            high[name] = max(high.get(name, 1e-6), float(values.max()))
    if not low:
        raise DataError("None of the pictures to calibrate on can be read.")
    return {name: (low[name], high[name]) for name in low}
