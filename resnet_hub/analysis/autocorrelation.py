"""The gradient of a random network along a line, and its autocorrelation beside that of white and of brown noise.

Balduzzi et al. 2017 (https://arxiv.org/abs/1702.08591), section 1, figures 1 and 2: at initialisation the derivative
of a shallow network from a number to a number looks like brown noise (a random walk), that of a deep plain network like
white noise; that of a residual network with BatchNorm lies between them.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from resnet_hub.analysis.random_networks import Kind, Normalization, RandomNetwork, propagate
from resnet_hub.errors import AnalysisError

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

    @property
    def half_lag(self) -> int:
        """The first lag at which the autocorrelation is below 1/2: 1 for white noise."""
        is_low = self.values < 0.5
        return int(is_low.argmax()) if is_low.any() else len(self.values)

    def distance_to(self, other: "Autocorrelation") -> float:
        """Compute the mean absolute difference of two autocorrelations over their lags."""
        count = min(len(self.values), len(other.values))
        return float(np.abs(self.values[:count] - other.values[:count]).mean())

    def to_dict(self) -> dict[str, Any]:
        return {key: value.tolist() for key, value in vars(self).items()} | {"half_lag": self.half_lag}


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

    The first layer has weights and biases drawn from the normal distribution, so that its units switch all along the
    line; the other layers have no biases.

    Args:
        kind: Plain or residual.
        depth: Hidden layers.
        normalization: Before each rectifier, over all points: "none", "center" or "batch" (BatchNorm). Its statistics
            are constants of the derivative.
        beta: Factor of the residual; the paper shows 1 and 0.1.
        width: Units of a layer; the paper has 200.
        points: Inputs.
        draws: Random networks.
        seed: Of the weights.

    Raises:
        AnalysisError: A value is out of its range.
    """
    network = RandomNetwork(kind=kind, depth=depth, width=width, normalization=normalization, beta=beta)
    _check_counts(points, draws)
    return _correlate(np.stack([_differentiate(network, points, draw, seed) for draw in range(draws)]))


def noise_autocorrelation(noise: Noise, *, points: int = 256, draws: int = 20, seed: int = 0) -> Autocorrelation:
    """Compute the same for white noise (independent normal values) or brown noise (their running sum).

    Raises:
        AnalysisError: A value is out of its range.
    """
    if noise not in get_args(Noise):
        raise AnalysisError(f"noise is {noise!r}; choose one of {', '.join(get_args(Noise))}.")
    _check_counts(points, draws)
    white = np.random.default_rng(seed).standard_normal((draws, points))
    return _correlate(white.cumsum(1) if noise == "brown" else white)


def _check_counts(points: int, draws: int) -> None:
    if not (8 <= points <= 100_000 and 2 <= draws <= 100_000):
        raise AnalysisError(f"points is {points} and draws is {draws}; expected at least 8 and 2, at most 100,000.")


def _differentiate(network: RandomNetwork, points: int, draw: int, seed: int) -> np.ndarray:
    """Compute the derivative (points,) of one random network."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, draw]).generate_state(1)[0]))
    with torch.inference_mode():
        line = torch.linspace(-_RANGE, _RANGE, points)
        weights, biases, head = torch.randn(3, network.width, generator=generator)
        layers = propagate(network, line[:, None] * weights + biases, weights.expand(points, 1, -1), generator)
        *_, (_, tangents) = layers
        derivative: np.ndarray = (tangents[:, 0] @ head).double().numpy()
        return derivative


def _correlate(series: np.ndarray) -> Autocorrelation:
    """Correlate each of the series (draws, points) with itself, after its mean is subtracted."""
    draws, points = series.shape
    centred = series - series.mean(1, keepdims=True)
    centred /= np.sqrt(np.square(centred).mean(1, keepdims=True)).clip(1e-12)
    spectrum = np.abs(np.fft.rfft(centred, 2 * points)) ** 2  # padded with zeros, so that the ends do not meet
    rows = np.fft.irfft(spectrum)[:, : points // 2] / points
    return Autocorrelation(
        np.linspace(-_RANGE, _RANGE, points),
        centred[0],
        np.arange(points // 2),
        rows.mean(0),
        rows.std(0, ddof=1) / np.sqrt(draws),
    )
