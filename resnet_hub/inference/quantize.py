"""Calibrates a checkpoint folder for int8 and measures how much accuracy that costs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnet_hub.checkpoints.model_card import add_int8_section
from resnet_hub.checkpoints.save import CALIBRATION_FILE, CARD_FILE, QUANTIZED_FILE
from resnet_hub.datasets.dataset import TRAIN, ImageDataset, choose_split
from resnet_hub.datasets.labels import match_labels
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import CheckpointError, DataError, ResNetHubError
from resnet_hub.inference.classifier import Classifier, load_inputs
from resnet_hub.inference.engines import create_session
from resnet_hub.inference.onnx_export import require_checkpoint_folder, require_onnx, write_onnx_files
from resnet_hub.inference.onnx_graph import INPUT, build_onnx, digest_weights, fold_batchnorm
from resnet_hub.int8_calibration import CalibrationRecord
from resnet_hub.model import ResNet

CALIBRATION_IMAGES = 512  # evenly spaced in the training split; more images hardly change the ranges
MAX_ACCURACY_LOSS = 0.005  # of accuracy in 0..1
_BATCH_SIZE = 16


def quantize(
    folder: str | Path,
    data: str | Path | Mapping[str, Sequence[Any]],
    *,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> CalibrationRecord:
    """Calibrates a checkpoint folder for int8 and writes `CALIBRATION_FILE` and `QUANTIZED_FILE` into it.

    The ranges come from `CALIBRATION_IMAGES` images of the training split. The accuracy in float32 and in int8 is
    measured on all images of another split.

    Args:
        folder: The checkpoint folder.
        data: The source of a dataset, as `load_dataset` takes it.
        split: The split to measure the accuracy on; by default the first of validation, test and train that exists.
        names: Further arguments of `load_dataset`: subset, columns and revision.
        force: Whether to save a calibration that loses more than `MAX_ACCURACY_LOSS`. The model then runs in int8 only
            with `precision="int8"`.
        progress: Called with the number of images done and their total after each batch.

    Raises:
        ResNetHubError: If int8 loses more than `MAX_ACCURACY_LOSS`, unless `force`.
    """
    folder = require_checkpoint_folder(folder)
    require_onnx()
    classifier = Classifier.from_pretrained(folder, device="cpu", precision="fp32")
    model = classifier.model
    splits = load_dataset(data, **names or {})
    name, measured = choose_split(splits, split)
    targets = match_labels(model.config.labels, measured)
    train = splits[TRAIN]
    sample = train.subset(np.unique(np.linspace(0, len(train) - 1, CALIBRATION_IMAGES).round()).astype(int))

    def load_batches(images: ImageDataset, done: int) -> Iterator[list[Tensor | None]]:
        for inputs in load_inputs(images, classifier.transform, _BATCH_SIZE):
            yield [item if isinstance(item, Tensor) else None for item in inputs]
            done += len(inputs)
            if progress is not None:
                progress(done, len(sample) + len(measured))

    folded = fold_batchnorm(model)
    if not all(weights.isfinite().all() for weights in folded.parameters()):
        raise CheckpointError(f"The weights in {folder} are not finite numbers: they are damaged.")
    ranges = compute_ranges(folded, load_batches(sample, 0))
    quantized = build_onnx(folded, ranges=ranges)
    sessions = [create_session(build_onnx(folded)), create_session(quantized)]
    (correct, correct_int8), count = _count_correct(sessions, load_batches(measured, len(sample)), targets)
    passed = is_loss_accepted(correct, correct_int8, count)
    if not passed and not force:
        raise ResNetHubError(
            f"int8 classifies {correct_int8:,} of {count:,} images correctly, float32 {correct:,}: more than half a "
            "point is lost, so nothing is saved. If that accuracy is enough, add --force (in Python: force=True)."
        )
    record = CalibrationRecord(
        weights=digest_weights(model),
        ranges=ranges,
        data=f"{name} split, {count:,} images",
        num_images=count,
        accuracy=correct / count,
        accuracy_int8=correct_int8 / count,
        passed=passed,
    )
    files = {QUANTIZED_FILE: quantized, CALIBRATION_FILE: record.to_json().encode()}
    if model.card:
        files[CARD_FILE] = add_int8_section(model.card, record).encode()
    write_onnx_files(folder, files)
    return record


def is_loss_accepted(correct: int, correct_int8: int, count: int) -> bool:
    """Returns whether int8 loses at most `MAX_ACCURACY_LOSS`. Counts are exact, unlike a difference of accuracies."""
    return correct - correct_int8 <= MAX_ACCURACY_LOSS * count


def compute_ranges(folded: ResNet, batches: Iterable[Sequence[Tensor | None]]) -> dict[str, tuple[float, float]]:
    """Computes the minimum and maximum of each feature map, widened to include 0. None is an unreadable image."""
    session = create_session(build_onnx(folded, extra="all"))
    names = [output.name for output in session.get_outputs()]
    low, high = dict[str, float](), dict[str, float]()
    for items in batches:
        inputs = [item for item in items if item is not None]
        if not inputs:
            continue
        batch = torch.stack(inputs).numpy()
        feature_maps = dict(zip(names[1:], session.run(None, {INPUT: batch})[1:], strict=True)) | {INPUT: batch}
        for name, values in feature_maps.items():
            low[name] = min(low.get(name, 0.0), float(values.min()))
            high[name] = max(high.get(name, 1e-6), float(values.max()))
    if not low:
        raise DataError("None of the images to calibrate on can be read.")
    return {name: (low[name], high[name]) for name in low}


def _count_correct(
    sessions: Sequence[Any], batches: Iterable[Sequence[Tensor | None]], targets: np.ndarray
) -> tuple[list[int], int]:
    """Counts the correct labels of each session, and the readable images. None is an unreadable image."""
    correct, count, start = np.zeros(len(sessions), int), 0, 0
    for items in batches:
        readable = [i for i, item in enumerate(items) if item is not None]
        if inputs := [item for item in items if item is not None]:
            batch, expected = torch.stack(inputs).numpy(), targets[start:][readable]
            correct += [(session.run(None, {INPUT: batch})[0].argmax(1) == expected).sum() for session in sessions]
        count, start = count + len(inputs), start + len(items)
    if not count:
        raise DataError(f"None of the {start:,} images can be read.")
    return correct.tolist(), count
