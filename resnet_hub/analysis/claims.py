"""The experiments that need no images: shattered gradients, and the identity. Each returns a `Report`."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args

import numpy as np

from resnet_hub.analysis.experiment_report import Chart, Finding, Report
from resnet_hub.analysis.gradients import (
    Autocorrelation,
    Gates,
    GradientCorrelation,
    Kind,
    Law,
    Normalization,
    expected_correlation,
    gradient_autocorrelation,
    gradient_correlation,
    noise_autocorrelation,
)
from resnet_hub.analysis.races import Target, learn_identity
from resnet_hub.training.finalize import describe_hardware

HE = "He et al. 2015, https://arxiv.org/abs/1512.03385"
VEIT = "Veit et al. 2016, https://arxiv.org/abs/1605.06431"
BALDUZZI = "Balduzzi et al. 2017, https://arxiv.org/abs/1702.08591"
_TOLERANCE = 0.15  # of a fitted exponent

Progress = Callable[[int, int], object]  # called with the work done and its total


class _ExpectedLaw(NamedTuple):
    """A law that R(L), the correlation of gradients in networks of L layers, is expected to follow."""

    statement: str
    kind: Kind
    normalization: Normalization
    gates: Gates
    law: Law
    exponent: float


_RESIDUAL, _BATCHNORM = math.log2(4 / 3), math.pi / (2 * (math.pi - 1))  # exponents; see `gradients`
_LAWS = (
    _ExpectedLaw("theorem: plain, 2^(-eL)", "plain", "none", "independent", "exponential", 1.0),
    _ExpectedLaw("theorem: residual, 2^(-eL)", "residual", "none", "independent", "exponential", _RESIDUAL),
    _ExpectedLaw("theorem: residual with BatchNorm, L^(-e)", "residual", "batch", "independent", "power", 0.5),
    _ExpectedLaw("rectifiers: plain, centered, 2^(-eL)", "plain", "center", "rectifier", "exponential", 1.0),
    _ExpectedLaw("rectifiers: plain with BatchNorm, 2^(-eL)", "plain", "batch", "rectifier", "exponential", 1.0),
    _ExpectedLaw(
        "rectifiers: residual, centered, 2^(-eL)", "residual", "center", "rectifier", "exponential", _RESIDUAL
    ),
    _ExpectedLaw("rectifiers: residual with BatchNorm, L^(-e)", "residual", "batch", "rectifier", "power", _BATCHNORM),
)
_LINES: dict[str, tuple[Kind, int, float]] = {  # kind, depth, beta
    "plain, 1 layer": ("plain", 1, 1.0),
    "plain, 24 layers": ("plain", 24, 1.0),
    "residual, 50 layers": ("residual", 50, 1.0),
    "residual, 50 layers, beta 0.1": ("residual", 50, 0.1),
}


def reproduce_shattered_gradients(
    *,
    depth: int = 50,
    width: int = 128,
    inputs: int = 64,
    draws: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Measure the correlation of gradients by depth, and the gradient along a line beside noise.

    See `gradients` for the theorems, what is derived for rectifiers, and what "centered" means.

    Args:
        depth: Layers.
        width: Units of a layer.
        inputs: Inputs of a network.
        draws: Random networks of each kind.
        seed: Of the random numbers.
        progress: Called with the kinds of networks done and their total.
    """
    start = time.monotonic()
    sizes: dict[str, Any] = {"depth": depth, "width": width, "inputs": inputs, "draws": draws, "seed": seed}
    total = len(_LAWS) + 2 + len(_LINES)
    findings: list[Finding] = []
    measured: dict[str, GradientCorrelation] = {}
    expected: dict[str, np.ndarray] = {}

    def measure(name: str, kind: Kind, normalization: Normalization, gates: Gates) -> GradientCorrelation:
        measured[name] = gradient_correlation(kind, normalization=normalization, gates=gates, **sizes)
        expected[name] = expected_correlation(kind, depth, normalization=normalization, gates=gates)
        if progress is not None:
            progress(len(measured), total)
        return measured[name]

    for law in _LAWS:
        fitted = measure(law.statement, law.kind, law.normalization, law.gates).fit(law.law)
        holds = abs(fitted / law.exponent - 1) <= _TOLERANCE
        findings.append(Finding(law.statement, f"e = {law.exponent:.3f}", f"e = {fitted:.3f}", holds))
    for kind in get_args(Kind):
        name = f"rectifiers: {kind}, no normalization, R at depth {depth}"
        last = float(measure(name, kind, "none", "rectifier").correlations[-1])
        theorem = 0.5**depth if kind == "plain" else 0.75**depth
        findings.append(Finding(name, f"theorem: {theorem:.1e}", f"{last:.1e}", None))
    lines = _measure_lines(width, 2 * draws, seed, lambda done: progress and progress(len(measured) + done, total))
    findings += _judge_lines(lines)
    return finish_report(
        "shattered-gradients",
        f"{BALDUZZI}, sections 1 to 3",
        start,
        settings=sizes,
        findings=findings,
        numbers={
            "correlations": {name: result.to_dict() for name, result in measured.items()},
            "expected_correlations": {name: values.tolist() for name, values in expected.items()},
            "autocorrelations": {name: result.to_dict() for name, result in lines.items()},
        },
        charts=_chart_gradients(measured, lines),
    )


def _measure_lines(width: int, draws: int, seed: int, report: Callable[[int], object]) -> dict[str, Autocorrelation]:
    lines = {
        f"{noise} noise": noise_autocorrelation(noise, draws=10 * draws, seed=seed) for noise in ("white", "brown")
    }
    for name, (kind, depth, beta) in _LINES.items():
        lines[name] = gradient_autocorrelation(kind, depth, beta=beta, width=width, draws=draws, seed=seed)
        report(len(lines) - 2)
    return lines


def _judge_lines(lines: Mapping[str, Autocorrelation]) -> list[Finding]:
    white, brown = lines["white noise"], lines["brown noise"]
    shallow, deep, residual, damped = (lines[name] for name in _LINES)

    def describe(line: Autocorrelation) -> str:
        return f"{line.distance_to(white):.3f} from white, {line.distance_to(brown):.3f} from brown noise"

    is_between = deep.values[1] < residual.values[1] < damped.values[1] < shallow.values[1]
    order = " < ".join(f"{line.values[1]:.2f}" for line in (deep, residual, damped, shallow))
    is_brown = shallow.distance_to(brown) < shallow.distance_to(white)
    is_white = deep.distance_to(white) < deep.distance_to(brown)
    return [
        Finding("gradient along a line, plain, 1 layer", "like brown noise", describe(shallow), is_brown),
        Finding("gradient along a line, plain, 24 layers", "like white noise", describe(deep), is_white),
        Finding("autocorrelation at lag 1", "plain 24 < residual 50 < beta 0.1 < plain 1", order, bool(is_between)),
    ]


def _chart_gradients(
    measured: Mapping[str, GradientCorrelation], lines: Mapping[str, Autocorrelation]
) -> dict[str, Chart]:
    curves = {}
    for name, result in measured.items():
        count = max(result.num_significant, 1)
        curves[name.split(", R at")[0]] = (result.depths[:count].tolist(), result.correlations[:count].tolist())
    return {
        "gradient-correlation": Chart(
            title="Correlation of gradients at different inputs",
            x_label="depth in layers",
            y_label="correlation",
            lines=curves,
            log_y=True,
            note="In plain networks with normalization the gradients at two inputs have nothing in common after a few "
            "layers; shortcuts and BatchNorm slow the decay. Lines end where they meet the noise.",
        ),
        "autocorrelation": Chart(
            title="Autocorrelation of the gradient along a line",
            x_label="lag in points of 256",
            y_label="autocorrelation",
            lines={name: (line.lags[:65].tolist(), line.values[:65].tolist()) for name, line in lines.items()},
            note="The gradient of a deep plain network is like white noise: neighboring points have nothing in common.",
        ),
    }


def reproduce_identity(
    *, blocks: int = 5, width: int = 32, steps: int = 400, seed: int = 0, progress: Progress | None = None
) -> Report:
    """Train plain and residual stacks to represent the identity, and a function near it.

    Args:
        blocks: Blocks of two layers.
        width: Units of a layer.
        steps: Steps of the training.
        seed: Of the random numbers.
        progress: Called with the steps done and their total.
    """
    start, findings, numbers, charts = time.monotonic(), [], {}, {}
    for index, target in enumerate(get_args(Target)):
        losses: dict[str, list[float]] = {"plain": [], "residual": []}
        for step in learn_identity(blocks, target=target, width=width, steps=steps, seed=seed):
            for name, loss in step.losses.items():
                losses[name].append(loss)
            if progress is not None:
                progress(index * steps + step.step, 2 * steps)
        tail = max(1, steps // 10)
        plain, residual = (float(np.mean(losses[name][-tail:])) for name in ("plain", "residual"))
        title = "the identity" if target == "identity" else "a function near the identity"
        values = f"{residual:.3f} and {plain:.3f} of the variance"
        findings.append(Finding(f"{title}: loss of residual and plain", "residual < plain", values, residual < plain))
        numbers[target] = losses
        charts[target] = Chart(
            title=f"Learning {title}",
            x_label="step",
            y_label="loss, relative to the variance",
            lines={name: (list(range(1, steps + 1)), values) for name, values in losses.items()},
            log_y=True,
            note="With shortcuts the layers only have to learn to do nothing.",
        )
    settings = {"blocks": blocks, "width": width, "steps": steps, "seed": seed}
    return finish_report(
        "identity", f"{HE}, section 3.1", start, settings=settings, findings=findings, numbers=numbers, charts=charts
    )


def finish_report(
    claim: str,
    source: str,
    start: float,
    *,
    settings: Mapping[str, Any],
    findings: Sequence[Finding],
    numbers: Mapping[str, Any],
    charts: Mapping[str, Chart],
    origin: Mapping[str, Any] | None = None,
) -> Report:
    """Create a report of what has been measured since `start`, or of records whose hardware, time and day are given."""
    here: dict[str, Any] = {
        "hardware": describe_hardware(),
        "seconds": round(time.monotonic() - start, 1),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    return Report(
        claim=claim,
        source=source,
        settings=settings,
        findings=findings,
        numbers=numbers,
        charts=charts,
        **here | dict(origin or {}),
    )
