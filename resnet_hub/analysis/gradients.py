"""The correlation of the gradients at two inputs by depth: the theorems of the shattered gradients, checked.

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

The networks have width N and weights drawn with variance 2/N (He et al. 2015, https://arxiv.org/abs/1502.01852). With
z = norm(x):

    plain:     x' = W relu(z)
    residual:  x' = x + beta W relu(z)

The gradient along a line is that of section 1, figures 1 and 2: at initialization the derivative of a shallow network
from a number to a number looks like brown noise (a random walk), that of a deep plain network like white noise; that of
a residual network with BatchNorm lies between them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Generator, Tensor

from resnet_hub.errors import AnalysisError

Kind = Literal["plain", "residual"]
Normalization = Literal["none", "center", "batch"]
Gates = Literal["rectifier", "independent"]

_MAX_WIDTH, _MAX_DEPTH = 4096, 10_000


@dataclass(frozen=True, kw_only=True)
class RandomNetwork:
    """A kind of random network.

    Raises:
        AnalysisError: A value is out of its range.
    """

    kind: Kind = "residual"
    depth: int = 50  # layers
    width: int = 128  # units of a layer
    normalization: Normalization = "batch"  # center subtracts each unit's mean over the inputs, batch also divides
    gates: Gates = "rectifier"  # independent: a fair coin for each unit and input, the assumption of the theorems
    beta: float = 1.0  # factor of the residual

    def __post_init__(self) -> None:
        for name, choices in (("kind", Kind), ("normalization", Normalization), ("gates", Gates)):
            if getattr(self, name) not in get_args(choices):
                options = ", ".join(get_args(choices))
                raise AnalysisError(f"{name} is {getattr(self, name)!r}; choose one of {options}.")
        limits = {"depth": (1, _MAX_DEPTH), "width": (2, _MAX_WIDTH), "beta": (0, 100)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise AnalysisError(f"{name} is {getattr(self, name)}; expected {low} to {high}.")


def propagate(
    network: RandomNetwork, x: Tensor, tangents: Tensor, generator: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield activations and derivatives after each layer of a newly drawn network.

    The statistics of a normalization are constants, as in evaluation mode: each output is a function of its own input.
    A positive factor common to all inputs is divided out after each layer where the network is homogeneous, since
    activations or derivatives would overflow in deep networks; so compare derivatives within a layer only.

    Args:
        network: The kind of network.
        x: Activations (n, width) that the first layer takes.
        tangents: Their derivatives (n, m, width) with respect to m coordinates of the input.
        generator: Of weights and gates.
    """
    n, width = x.shape
    for _ in range(network.depth):
        weights = torch.randn(width, width, generator=generator) * math.sqrt(2 / width)
        z, factor = x, torch.ones(width)
        if network.normalization != "none":
            z = z - z.mean(0)
        if network.normalization == "batch":
            factor = 1 / z.std(0, unbiased=False).clamp_min(1e-12)
            z = z * factor
        is_on = z > 0
        if network.gates == "independent":
            is_on = torch.rand(n, width, generator=generator) < 0.5
        branch = (z * is_on) @ weights.T
        branch_tangents = ((is_on * factor).unsqueeze(1) * tangents) @ weights.T
        if network.kind == "plain":
            x, tangents = branch, branch_tangents
        else:
            x, tangents = x + network.beta * branch, tangents + network.beta * branch_tangents
        tangents = tangents / _rms(tangents)
        if network.normalization != "batch":
            x = x / _rms(x)
        yield x, tangents


def _rms(values: Tensor) -> Tensor:
    return values.square().mean().sqrt().clamp_min(1e-30)


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

    Returns:
        The correlation at each depth.

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

    Returns:
        The correlation at each depth (depth,).
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


Noise = Literal["white", "brown"]

_RANGE = 2.0  # the inputs are -2 to 2


@dataclass(frozen=True)
class Autocorrelation:
    """A series along a line, and its autocorrelation: 1 at lag 0, averaged over draws."""

    positions: np.ndarray  # (points,): the inputs
    series: np.ndarray  # (points,): the values of the first draw, with mean 0 and standard deviation 1
    lags: np.ndarray  # (points // 2,): distances between two points, in points
    values: np.ndarray  # (points // 2,): the autocorrelation at these lags
    standard_errors: np.ndarray  # (points // 2,), over the draws

    def distance_to(self, other: "Autocorrelation") -> float:
        """Compute the mean absolute difference of two autocorrelations over their lags."""
        count = min(len(self.values), len(other.values))
        return float(np.abs(self.values[:count] - other.values[:count]).mean())

    def to_dict(self) -> dict[str, Any]:
        return {key: value.tolist() for key, value in vars(self).items()}


def gradient_autocorrelation(
    kind: Kind = "plain",
    depth: int = 24,
    *,
    normalization: Normalization = "batch",
    beta: float = 1.0,
    width: int = 200,
    points: int = 256,
    draws: int = 20,
    seed: int = 0,
) -> Autocorrelation:
    """Compute the derivative of random networks from a number to a number at equal steps from -2 to 2.

    The first layer has weights and biases drawn from the normal distribution and no normalization, which would let all
    its units switch at one point; so they switch all along the line. The other layers have no biases.

    Args:
        kind: Plain or residual.
        depth: Hidden layers.
        normalization: Before each rectifier but the first, over all points: "none", "center" or "batch" (BatchNorm).
            Its statistics are constants of the derivative.
        beta: Factor of the residual; the paper shows 1 and 0.1.
        width: Units of a layer; the paper has 200.
        points: Inputs.
        draws: Random networks.
        seed: Of the weights.

    Returns:
        The derivative of the first network, and the autocorrelation over all networks.

    Raises:
        AnalysisError: A value is out of its range.
    """
    network = RandomNetwork(kind=kind, depth=depth, width=width, normalization=normalization, beta=beta)
    _check_counts(points, draws)
    return _autocorrelate(np.stack([_differentiate(network, points, draw, seed) for draw in range(draws)]))


def noise_autocorrelation(noise: Noise, *, points: int = 256, draws: int = 20, seed: int = 0) -> Autocorrelation:
    """Compute the same for white noise (independent normal values) or brown noise (their running sum).

    Args:
        noise: "white" or "brown".
        points: Values of a draw.
        draws: Independent draws.
        seed: Of the draws.

    Returns:
        The values of the first draw, and the autocorrelation over all draws.

    Raises:
        AnalysisError: A value is out of its range.
    """
    if noise not in get_args(Noise):
        raise AnalysisError(f"noise is {noise!r}; choose one of {', '.join(get_args(Noise))}.")
    _check_counts(points, draws)
    white = np.random.default_rng(seed).standard_normal((draws, points))
    return _autocorrelate(white.cumsum(1) if noise == "brown" else white)


def _check_counts(points: int, draws: int) -> None:
    if not (8 <= points <= 100_000 and 2 <= draws <= 100_000):
        raise AnalysisError(f"points is {points} and draws is {draws}; expected at least 8 and 2, at most 100,000.")


def _differentiate(network: RandomNetwork, points: int, draw: int, seed: int) -> np.ndarray:
    """Compute the derivative (points,) of one random network."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, draw]).generate_state(1)[0]))
    with torch.inference_mode():
        line = torch.linspace(-_RANGE, _RANGE, points)
        weights, biases, head = torch.randn(3, network.width, generator=generator)
        first = replace(network, depth=1, normalization="none")
        inputs = line[:, None] * weights + biases, weights.expand(points, 1, -1)
        x, tangents = next(propagate(first, *inputs, generator))
        if network.depth > 1:
            *_, (_, tangents) = propagate(replace(network, depth=network.depth - 1), x, tangents, generator)
        derivative: np.ndarray = (tangents[:, 0] @ head).double().numpy()
        return derivative


def _autocorrelate(series: np.ndarray) -> Autocorrelation:
    """Correlate each of the series (draws, points) with itself, after its mean is subtracted."""
    draws, points = series.shape
    centered = series - series.mean(1, keepdims=True)
    centered /= np.sqrt(np.square(centered).mean(1, keepdims=True)).clip(1e-12)
    spectrum = np.abs(np.fft.rfft(centered, 2 * points)) ** 2  # padded with zeros, so that the ends do not meet
    rows = np.fft.irfft(spectrum)[:, : points // 2] / points
    return Autocorrelation(
        np.linspace(-_RANGE, _RANGE, points),
        centered[0],
        np.arange(points // 2),
        rows.mean(0),
        rows.std(0, ddof=1) / np.sqrt(draws),
    )
