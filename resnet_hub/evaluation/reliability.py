"""How far the scores of a model can be trusted: its temperature, threshold and novelty, fitted on held-out images.

A temperature makes the scores honest (https://arxiv.org/abs/1706.04599); it is folded into the head's weights, so that
every library has it. A threshold says from which score on the label is right nearly always. A distance says from where
on an image is unlike all that the model knows; see `inference.novelty`. The last two are stored in `config.json`; see
`Reliability`.
"""

from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.config import NOT_SURE_BELOW, Reliability
from resnet_hub.errors import CheckpointError
from resnet_hub.evaluation.metrics import compute_calibration_error
from resnet_hub.inference.novelty import FeatureSubspace
from resnet_hub.model import ResNet

PRECISION = 0.9  # of the labels that are given as sure
COVERAGE = 0.95  # of the images that a model knows
MAX_NOVELTY_LABELS = 100  # with more labels, few images show none of them
_TEMPERATURES = torch.logspace(-1, 1, 401)  # from 0.1 to 10, 1.2% apart
_MIN_DISTANCES = 5  # of fewer images, the distances say too little
FEW_IMAGES = 100  # fewer are too few for a calibration error, or a quantile
_PRIOR_DEVIATION = 0.5  # of the logarithm of a temperature, before any image is seen
_PRIOR_IMAGES = 10  # that the calibrated scores count for beside the images, when a threshold is chosen


class Fit(NamedTuple):
    """The fitted reliability, with the expected calibration error before and after."""

    num_images: int
    temperature: float
    error_before: float
    error_after: float
    reliability: Reliability


def fit_reliability(
    model: ResNet,
    logits: Tensor,
    targets: Tensor,
    *,
    features: Tensor | None = None,
    train_features: Tensor | None = None,
    precision: float = PRECISION,
) -> Fit | None:
    """Fits temperature, threshold and novelty of a model; changes its head and its config.

    Args:
        model: A model with a head. The temperature is folded into it: its logits are divided by it from now on.
        logits: Its logits (N, classes) on images that it was not trained on.
        targets: Their classes (N,).
        features: Their pooled features (N, C).
        train_features: Pooled features (M, C) of training images. Without them, or with more than
            `MAX_NOVELTY_LABELS` labels, or with fewer than five images, the model does not detect unknown images.
        precision: Fraction of right labels among those that are given as sure.

    Returns:
        What was fitted, or None if there are no images; then the model is unchanged.
    """
    if not len(targets):
        return None
    logits = logits.double()
    temperature = fit_temperature(logits, targets)
    head = model.fc
    if not isinstance(head, nn.Linear):
        raise CheckpointError("The model has no head, so there are no scores to fit.")
    with torch.no_grad():
        head.weight.div_(temperature)
        head.bias.div_(temperature)
    before, after = (_rate(logits / divisor, targets) for divisor in (1.0, temperature))
    reliability = Reliability(threshold=choose_threshold(*after, precision=precision))
    detects = model.config.num_classes <= MAX_NOVELTY_LABELS and len(targets) >= _MIN_DISTANCES
    if detects and features is not None and train_features is not None:
        subspace = FeatureSubspace.fit(train_features)
        most_distance = _estimate_quantile(subspace.measure_distances(features), COVERAGE)
        reliability = replace(reliability, subspace=subspace.encode(), most_distance=most_distance)
    model.config = replace(model.config, reliability=reliability)
    error_before, error_after = (
        compute_calibration_error(scores.numpy(), is_correct.numpy()) for scores, is_correct in (before, after)
    )
    return Fit(len(targets), temperature, error_before, error_after, reliability)


def describe_fit(fit: Fit, images: str) -> str:
    """Describes for a model card what was fitted on `images`, such as "validation images"."""
    count = f"{fit.num_images:,} {images}"
    text = f"Temperature scaling by {fit.temperature:.2f}, fitted on the {count} and folded into the head"
    if fit.num_images >= FEW_IMAGES:
        text += f", changed the expected calibration error there from {fit.error_before:.2%} to {fit.error_after:.2%}"
    text += f". {describe_reliability(fit.reliability, images)}"
    return text if fit.num_images >= FEW_IMAGES else f"{text} So few images make these values rough."


def describe_reliability(reliability: Reliability, images: str) -> str:
    """Describes for a model card the threshold and the distance that were fitted on `images`."""
    text = f"About {PRECISION:.0%} of the labels with a score of {reliability.threshold:.2f} or more are right."
    if reliability.threshold == 1:
        text = f"No score was found from which on {PRECISION:.0%} of the labels are right."
    if reliability.most_distance is not None:
        text += (
            f" An image whose features are farther than {reliability.most_distance:.2f} from the plane of those of the "
            f"training images, as about {1 - COVERAGE:.0%} of the {images} are, is most likely none of the labels. "
            "In a test, a model of five flowers missed 11% of photos of other things."
        )
    return text


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """Returns the number to divide logits (N, classes) by so that their cross-entropy with the targets is lowest.

    A target has a probability of (N + 1) / (N + 2), as in Platt's scaling: without a mistake among few images, all
    scores would become 1 else. And the temperature is 1 unless the images say otherwise: its logarithm has a normal
    prior, which counts little beside more than some tens of images (docs/log.md).
    """
    count, classes = logits.shape
    smoothing = min(1.0, classes / (max(1, classes - 1) * (count + 2)))
    losses = torch.stack(
        [F.cross_entropy(logits / divisor, targets, label_smoothing=smoothing) for divisor in _TEMPERATURES]
    )
    prior = (_TEMPERATURES.log() / _PRIOR_DEVIATION) ** 2 / 2
    return float(_TEMPERATURES[(count * losses + prior).argmin()])


def choose_threshold(
    scores: Tensor, is_correct: Tensor, *, precision: float = PRECISION, least: float = NOT_SURE_BELOW
) -> float:
    """Returns the lowest score from `least` on, from which on that fraction of the labels is right.

    The scores themselves say how many labels should be right. They count as much as ten images, since a few images
    alone say little: three right labels of three do not make 90%.

    Args:
        scores: The calibrated score of each predicted label (N,), in 0..1.
        is_correct: Whether each predicted label is the true one (N,).
        precision: The fraction.
        least: The lowest threshold.

    Returns:
        The threshold; 1 if no score is that reliable.
    """
    ordered, order = scores.sort(descending=True)
    counts = torch.arange(1, len(scores) + 1)
    expected = _PRIOR_IMAGES * ordered.double().cumsum(0) / counts
    precisions = (is_correct[order].double().cumsum(0) + expected) / (counts + _PRIOR_IMAGES)
    reliable = (precisions >= precision).nonzero()
    threshold = float(ordered[reliable[-1, 0]]) if len(reliable) else 1.0
    return max(threshold, least)


def _estimate_quantile(values: Tensor, share: float) -> float:
    """Returns the value that this share of all values is below.

    Few values are taken as normally distributed, and for as many as they are: their deviation is uncertain (Student's
    quantile, to the first order), and so is their mean.
    """
    count = len(values)
    if count >= FEW_IMAGES:
        return float(values.quantile(share))
    z = NormalDist().inv_cdf(share)
    student = z + (z**3 + z) / (4 * (count - 1))
    return float(values.mean() + student * (1 + 1 / count) ** 0.5 * values.std())


def _rate(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the score of each predicted label, and whether it is right."""
    scores, predicted = logits.softmax(1).max(1)
    return scores, predicted == targets
