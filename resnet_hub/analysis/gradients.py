"""How much the gradients at two inputs have in common, by depth: the theorems of the shattered gradients, checked.

Balduzzi et al. 2017 (https://arxiv.org/abs/1702.08591), sections 2 and 3. Let R(L) be the correlation between the
gradients of an output of L layers at two inputs that have nothing in common, over random weights. A layer multiplies
the gradient's covariance by 2 P(both units on), its variance by 2 P(unit on) = 1, and a shortcut adds 1 to both. The
theorems assume that a unit is on for half of the inputs, and for both of two inputs in a quarter of the cases:

    plain                        R(L) = (1/2)^L
    residual                     R(L) = ((1 + 1/2) / (1 + 1))^L = (3/4)^L
    residual with BatchNorm      R(L) = product over l of (1 + 1/(2 l)) / (1 + 1/l), about L^(-1/2)

The last follows since the variance of the activations grows by 1 a layer, by which BatchNorm divides.

With rectifiers instead of coins (`gates="rectifier"`), what holds for wide layers follows from their angles
(Cho and Saul 2009, *Kernel Methods for Deep Learning*): both units are on with probability (pi - angle) / (2 pi).

- Without normalization the angle between any two inputs shrinks layer by layer, so that they switch the same units on.
  R falls like a power of the depth instead of exponentially.
- Where each unit's mean over the inputs is subtracted ("center", and in BatchNorm) all angles stay at 90 degrees: the
  assumption holds, (1/2)^L for plain networks and (3/4)^L for residual ones.
- BatchNorm measures the variance around that mean. The rectifier's output has a mean, so that a layer adds only
  1 - 1/pi to it: R falls like L^(-pi / (2 (pi - 1))), about L^(-0.73), faster than in the theorem.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from resnet_hub.analysis.random_networks import Gates, Kind, Normalization, RandomNetwork, propagate
from resnet_hub.errors import AnalysisError

Law = Literal["exponential", "power"]

_SIGNIFICANCE = 5  # standard errors above 0 that a fit needs
_RELATIVE_ERROR = 0.02  # of every value, from the finite width of the layers; so no depth counts for all
_POWER_FROM = 10  # layers: below, a power law is not reached yet


@dataclass(frozen=True)
class GradientCorrelation:
    """The correlation R between gradients at different inputs, at each depth from 1."""

    network: RandomNetwork
    correlations: np.ndarray  # (depth,)
    standard_errors: np.ndarray  # (depth,), over the draws

    @property
    def depths(self) -> np.ndarray:
        return np.arange(1, len(self.correlations) + 1)

    def fit(self, law: Law) -> float:
        """Fit the exponent e of R = c 2^(-e L) ("exponential") or of R = c L^(-e) ("power") by weighted least squares.

        Depths are used up to the first at which R is below five standard errors, since deeper ones are noise, and count
        by the precision of log R. A power law is fitted from ten layers on.

        Raises:
            AnalysisError: Fewer than three depths remain.
        """
        return fit_exponent(self.correlations[: self.num_significant], law, self.standard_errors)

    @property
    def num_significant(self) -> int:
        """Number of depths, from 1 on, at which R is above five standard errors."""
        is_noise = ~(self.correlations > _SIGNIFICANCE * self.standard_errors)
        return int(is_noise.argmax()) if is_noise.any() else len(is_noise)

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self.network),
            "correlations": self.correlations.tolist(),
            "standard_errors": self.standard_errors.tolist(),
        }


def gradient_correlation(
    kind: Kind = "residual",
    depth: int = 50,
    *,
    normalization: Normalization = "batch",
    gates: Gates = "rectifier",
    beta: float = 1.0,
    width: int = 128,
    inputs: int = 64,
    draws: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> GradientCorrelation:
    """Measure the correlation of gradients between inputs in random networks, at each depth up to `depth`.

    The inputs are normally distributed. R is the mean inner product of the derivatives at two different inputs, over
    all pairs, outputs and draws, divided by their mean square norm.

    Args:
        kind: Plain or residual.
        depth: Layers; the result has a value for each number of them.
        normalization: Before each rectifier: "none", "center" (subtract each unit's mean over the inputs) or "batch"
            (BatchNorm). Its statistics are constants of the derivative.
        gates: "rectifier", or "independent": each unit is on for each input by a fair coin, as the theorems assume.
        beta: Factor of the residual.
        width: Units of a layer.
        inputs: Inputs of a network.
        draws: Random networks.
        seed: Of weights and inputs.
        progress: Called with the networks done and their total.

    Raises:
        AnalysisError: A value is out of its range.
    """
    if inputs < 2 or draws < 2:
        raise AnalysisError(f"inputs is {inputs} and draws is {draws}; expected at least 2 of each.")
    network = RandomNetwork(kind=kind, depth=depth, width=width, normalization=normalization, gates=gates, beta=beta)
    rows = np.zeros((draws, depth))
    with torch.inference_mode():
        for draw in range(draws):
            generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, draw]).generate_state(1)[0]))
            x = torch.randn(inputs, width, generator=generator)
            jacobians = torch.eye(width).expand(inputs, width, width)
            for layer, (_, tangents) in enumerate(propagate(network, x, jacobians, generator)):
                rows[draw, layer] = _correlate(tangents)
            if progress is not None:
                progress(draw + 1, draws)
    return GradientCorrelation(network, rows.mean(0), rows.std(0, ddof=1) / math.sqrt(draws))


def expected_correlation(
    kind: Kind = "residual",
    depth: int = 50,
    *,
    normalization: Normalization = "batch",
    gates: Gates = "rectifier",
    beta: float = 1.0,
) -> np.ndarray:
    """Compute the correlation of gradients at each depth from 1 in infinitely wide networks, as derived above.

    Args:
        kind: As in `gradient_correlation`.
        depth: As in `gradient_correlation`.
        normalization: As in `gradient_correlation`.
        gates: As in `gradient_correlation`.
        beta: As in `gradient_correlation`.
    """
    RandomNetwork(kind=kind, depth=depth, normalization=normalization, gates=gates, beta=beta)  # checks the values
    has_angles = gates == "rectifier" and normalization == "none"
    spread = 1 - 1 / math.pi if gates == "rectifier" else 1.0  # variance that a layer adds, around the mean
    result, correlation, cosine, variance = [], 1.0, 0.0, 1.0
    for _ in range(depth):
        angle = math.acos(min(cosine, 1.0)) if has_angles else math.pi / 2
        both_on = (math.pi - angle) / math.pi  # twice the probability
        if kind == "plain":
            correlation *= both_on
        else:
            gain = beta**2 / (variance if normalization == "batch" else 1.0)
            correlation *= (1 + gain * both_on) / (1 + gain)
            variance += beta**2 * spread
        if has_angles:
            rectified = (math.sin(angle) + (math.pi - angle) * cosine) / math.pi
            cosine = rectified if kind == "plain" else (cosine + beta**2 * rectified) / (1 + beta**2)
        result.append(correlation)
    return np.array(result)


def fit_exponent(correlations: np.ndarray, law: Law, standard_errors: np.ndarray | None = None) -> float:
    """Fit the exponent of a law to correlations at depths 1, 2, ...: see `GradientCorrelation.fit`.

    Args:
        correlations: The values, all positive.
        law: "exponential" for R = c 2^(-e L), "power" for R = c L^(-e).
        standard_errors: Of the values; by default all count alike.

    Raises:
        AnalysisError: Fewer than three depths remain.
    """
    first, last = (_POWER_FROM if law == "power" else 1), len(correlations)
    if last - first < 2:
        raise AnalysisError(f"The correlation exceeds its noise up to depth {last} only. Use more draws or inputs.")
    depths, values = np.arange(first, last + 1), correlations[first - 1 :]
    x = np.log(depths) if law == "power" else depths * math.log(2)
    errors = np.zeros(last) if standard_errors is None else standard_errors[:last] / correlations
    weights = 1 / np.hypot(errors[first - 1 :], _RELATIVE_ERROR)
    return -float(np.polyfit(x, np.log(values), 1, w=weights)[0])


def _correlate(jacobians: torch.Tensor) -> float:
    flat = jacobians.flatten(1)
    products = flat @ flat.T
    n, diagonal = len(flat), float(products.diagonal().sum())
    return (float(products.sum()) - diagonal) / (n - 1) / diagonal
