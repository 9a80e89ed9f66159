"""The experiments of the papers, run again: `resnet-hub reproduce CLAIM`. Each returns a `Report`."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from resnet_hub.analysis.cifar import EPOCHS, NetworkRun, Spread, TrainingRecord, summarize, train_network
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
from resnet_hub.analysis.labelled_images import LabelledImages, load_labelled_images
from resnet_hub.analysis.lesions import LesionStudy, removal_curve, remove_each_block, reorder_curve
from resnet_hub.analysis.races import CLASSES, RaceStep, Target, create_cifar_config, learn_identity, race
from resnet_hub.analysis.report import Chart, Finding, Report
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet
from resnet_hub.training.finalize import describe_hardware

HE = "He et al. 2015, https://arxiv.org/abs/1512.03385"
VEIT = "Veit et al. 2016, https://arxiv.org/abs/1605.06431"
BALDUZZI = "Balduzzi et al. 2017, https://arxiv.org/abs/1702.08591"
_TOLERANCE = 0.15  # of a fitted exponent
_MAX_DROP = 0.05  # mean accuracy that one block of a residual network may cost
_TAIL = 20  # steps whose batches give the training error of a race
_MIN_LOSS = 0.8  # share of its accuracy above chance that a plain network loses with one block

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
    _ExpectedLaw("rectifiers: plain, centred, 2^(-eL)", "plain", "center", "rectifier", "exponential", 1.0),
    _ExpectedLaw("rectifiers: plain with BatchNorm, 2^(-eL)", "plain", "batch", "rectifier", "exponential", 1.0),
    _ExpectedLaw("rectifiers: residual, centred, 2^(-eL)", "residual", "center", "rectifier", "exponential", _RESIDUAL),
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

    See `gradients` for the theorems, what is derived for rectifiers, and what "centred" means.

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
    return _finish(
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
            note="The gradient of a deep plain network is like white noise: neighbouring points have nothing in "
            "common.",
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
    return _finish(
        "identity", f"{HE}, section 3.1", start, settings=settings, findings=findings, numbers=numbers, charts=charts
    )


def reproduce_lesion(
    models: Mapping[str, ResNet],
    data: str | Path,
    *,
    images: int | None = 1000,
    draws: int = 3,
    curves: bool = True,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Remove each block of networks, then several, and swap blocks; measure the accuracy.

    Args:
        models: The networks by name, plain or residual.
        data: Labelled images, as `load_dataset` takes them.
        images: How many of them to draw; None: all.
        draws: Random choices for each point of the curves.
        curves: Whether to measure the curves too, which takes longer than the rest.
        split: As in `load_labelled_images`.
        names: Further arguments of `load_dataset`.
        seed: Of all choices.
        progress: Called with the networks done and their total.
    """
    start = time.monotonic()
    findings: list[Finding] = []
    studies: dict[str, LesionStudy] = {}
    numbers: dict[str, Any] = {}
    for name, model in models.items():
        labelled = load_labelled_images(model.config, data, count=images, split=split, names=names, seed=seed)
        study = studies[name] = remove_each_block(model, labelled)
        findings.append(_judge_lesion(name, model, study))
        numbers[name] = {
            "accuracy": study.accuracy,
            "mean_drop": study.mean_drop,
            "images": study.num_images,
            "lesions": [lesion._asdict() for lesion in study.lesions],
        }
        if curves:
            numbers[name] |= _measure_curves(model, labelled, study, draws, seed)
        if progress is not None:
            progress(len(studies), len(models))
    return _finish(
        "lesion",
        f"{VEIT}, section 4",
        start,
        settings={"models": list(models), "data": Path(data).name, "split": split, "images": images, "seed": seed},
        findings=findings,
        numbers=numbers,
        charts=_chart_lesions(studies, numbers),
    )


def _judge_lesion(name: str, model: ResNet, study: LesionStudy) -> Finding:
    drop, worst = study.mean_drop, max(study.drops)
    measured = f"{100 * drop:.1f} points of {100 * study.accuracy:.1f} on average, {100 * worst:.1f} at most"
    if model.config.shortcut != "none":
        return Finding(
            f"{name}: a block's removal costs", f"at most {100 * _MAX_DROP:.0f} points", measured, drop <= _MAX_DROP
        )
    chance = 1 / model.config.num_classes
    lost = drop / (study.accuracy - chance) if study.accuracy > chance else 0.0
    return Finding(f"{name}: a block's removal costs", "nearly all accuracy", measured, lost >= _MIN_LOSS)


def _measure_curves(
    model: ResNet, labelled: LabelledImages, study: LesionStudy, draws: int, seed: int
) -> dict[str, Any]:
    same_shape = sum(not lesion.changes_shape for lesion in study.lesions)
    counts = sorted({round(count) for count in np.linspace(0, same_shape, 7)})
    removal = removal_curve(model, labelled, counts, draws=draws, seed=seed)
    result: dict[str, Any] = {"removal": [point._asdict() for point in removal]}
    if max(model.config.depths) > 2:  # else no stage has two blocks of equal shapes
        points = reorder_curve(model, labelled, (0, 1, 2, 4, 8, 16), draws=draws, seed=seed)
        result["reorder"] = [point._asdict() for point in points]
    return result


def _chart_lesions(studies: Mapping[str, LesionStudy], numbers: Mapping[str, Any]) -> dict[str, Chart]:
    chart = Chart(
        title="Accuracy without one block",
        x_label="removed block, from the input to the output",
        y_label="accuracy",
        lines={
            name: (list(range(1, len(study.lesions) + 1)), [lesion.accuracy for lesion in study.lesions])
            for name, study in studies.items()
        },
        note="A residual network hardly misses a block, except where the shape changes; a plain network needs each.",
    )
    charts = {"one-block": chart}
    for key, x_label in (("removal", "number of removed blocks"), ("reorder", "number of swaps of two blocks")):
        lines = {}
        for name, values in numbers.items():
            points = values.get(key, [])
            x = [point["removed" if key == "removal" else "swaps"] for point in points]
            if points:
                lines[name] = (x, [float(np.mean(point["accuracies"])) for point in points])
        if lines:
            note = "The accuracy of a residual network falls smoothly." if key == "removal" else ""
            charts[key] = Chart(
                title="Accuracy after random changes", x_label=x_label, y_label="accuracy", lines=lines, note=note
            )
    return charts


def reproduce_degradation(
    *,
    data: str | Path | None = None,
    work: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    layers: tuple[int, int] = (20, 56),
    epochs: int = EPOCHS,
    width: int = 16,
    steps: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train plain and residual networks of two depths, and compare their errors.

    Args:
        data: Labelled images with a split to test on; by default gratings that are made up (`toy_data`), for `steps`.
        work: The folder of the trainings, which resumes them; needed with `data`.
        seeds: Seeds of the trainings.
        layers: The lower and the higher number of layers.
        epochs: Of a training on `data`.
        width: Channels of the first stage.
        steps: Of a training on gratings.
        progress: Called with the trainings done and their total.
    """
    runs = [NetworkRun(count, shortcut, seed) for seed in seeds for count in layers for shortcut in ("none", "A")]
    start = time.monotonic()
    spreads, curves, numbers = _train_all(runs, data, work, epochs, width, steps, progress)
    shallow, deep = layers
    findings = [
        _compare(f"plain{deep}", f"plain{shallow}", spreads, "train"),
        _compare(f"plain{deep}", f"plain{shallow}", spreads, "test"),
        _compare(f"plain{deep}", f"resnet{deep}", spreads, "test"),
    ]
    if data is not None:  # gratings are too easy to need the deeper network
        findings.append(_compare(f"resnet{shallow}", f"resnet{deep}", spreads, "test"))
    return _finish(
        "degradation",
        f"{HE}, figure 6 and table 6",
        start,
        settings=_describe_training(data, seeds, epochs, width, steps),
        findings=findings,
        numbers=numbers,
        charts=curves,
    )


def reproduce_shortcuts(
    *,
    data: str | Path | None = None,
    work: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    layers: int = 20,
    epochs: int = EPOCHS,
    width: int = 16,
    steps: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train networks with shortcuts A, B, C and none, and compare parameters and errors.

    Args:
        data: As in `reproduce_degradation`.
        work: As in `reproduce_degradation`.
        seeds: As in `reproduce_degradation`.
        layers: Of each network.
        epochs: As in `reproduce_degradation`.
        width: As in `reproduce_degradation`.
        steps: As in `reproduce_degradation`.
        progress: As in `reproduce_degradation`.
    """
    runs = [NetworkRun(layers, shortcut, seed) for seed in seeds for shortcut in ("none", "A", "B", "C")]
    start = time.monotonic()
    spreads, curves, numbers = _train_all(runs, data, work, epochs, width, steps, progress)
    plain, a, b, c = (NetworkRun(layers, shortcut).network for shortcut in ("none", "A", "B", "C"))
    pairs = [(plain, a)] if data is None else [(plain, a), (a, b), (b, c)]  # gratings are too easy to separate A, B, C
    findings = [_compare(worse, better, spreads, "test") for worse, better in pairs]
    counts = " ".join(f"{spreads[name].num_parameters:,}" for name in (plain, a, b, c))
    findings.append(
        Finding("parameters of none, A, B, C", "none = A < B < C", counts, _grows(spreads, (plain, a, b, c)))
    )
    return _finish(
        "shortcuts",
        f"{HE}, section 3.3 and table 3",
        start,
        settings=_describe_training(data, seeds, epochs, width, steps),
        findings=findings,
        numbers=numbers,
        charts=curves,
    )


def _grows(spreads: Mapping[str, Spread], names: tuple[str, ...]) -> bool:
    plain, a, b, c = (spreads[name].num_parameters for name in names)
    return plain == a < b < c


def _describe_training(
    data: str | Path | None, seeds: Sequence[int], epochs: int, width: int, steps: int | None
) -> dict[str, Any]:
    length = {"steps": steps} if data is None else {"epochs": epochs}
    return {"data": "gratings" if data is None else Path(data).name, **length, "width": width, "seeds": list(seeds)}


def _compare(worse: str, better: str, spreads: Mapping[str, Spread], split: str) -> Finding:
    """Compare the mean errors of two networks, with the spread over the seeds."""
    texts, means = [], []
    for name in (worse, better):
        errors = spreads[name].train_errors if split == "train" else spreads[name].test_errors
        means.append(float(np.mean(errors)))
        spread = f" ({100 * min(errors):.1f} to {100 * max(errors):.1f})" if len(errors) > 1 else ""
        texts.append(f"{100 * means[-1]:.1f}%{spread}")
    statement = f"{split} error of {worse} and {better}"
    return Finding(statement, f"{worse} > {better}", " and ".join(texts), means[0] > means[1])


def _train_all(
    runs: Sequence[NetworkRun],
    data: str | Path | None,
    work: str | Path | None,
    epochs: int,
    width: int,
    steps: int | None,
    progress: Progress | None,
) -> tuple[dict[str, Spread], dict[str, Chart], dict[str, Any]]:
    if data is None:
        if steps is None:
            raise AnalysisError("Name the images with data, or give steps to train on gratings.")
        return _race_all(runs, width, steps, progress)
    if work is None:
        raise AnalysisError("Name a folder with work, where the trainings are kept: they take hours.")
    records: list[TrainingRecord] = []
    for run in runs:
        records.append(train_network(run, data, work, epochs=epochs, width=width))
        if progress is not None:
            progress(len(records), len(runs))
    charts = {}
    for split in ("train", "test"):
        lines = {
            record.name: (
                [epoch.epoch for epoch in record.epochs],
                [1 - (epoch.train_accuracy if split == "train" else epoch.test_accuracy) for epoch in record.epochs],
            )
            for record in records
        }
        charts[f"{split}-error"] = Chart(
            title=f"{split.capitalize()} error, {Path(data).name}", x_label="epoch", y_label="error", lines=lines
        )
    return summarize(records), charts, {"records": [record.to_dict() for record in records]}


def _race_all(
    runs: Sequence[NetworkRun], width: int, steps: int, progress: Progress | None
) -> tuple[dict[str, Spread], dict[str, Chart], dict[str, Any]]:
    """Train all networks of each seed side by side on gratings; the training error is that of the last batches."""
    histories: dict[int, list[RaceStep]] = {}
    seeds = sorted({run.seed for run in runs})
    configs = {
        run.network: create_cifar_config(
            run.layers, shortcut=run.shortcut, num_classes=len(CLASSES), width=width, image_size=16
        )
        for run in runs
    }
    for index, seed in enumerate(seeds):
        histories[seed] = []
        for step in race(configs, steps=steps, seconds=None, evaluate_every=max(steps // 8, 1), seed=seed):
            histories[seed].append(step)
            if progress is not None:
                progress(index * steps + step.step, len(seeds) * steps)
    spreads = {}
    for name, config in configs.items():
        last = [next(step for step in reversed(history) if step.accuracies) for history in histories.values()]
        test = tuple(1 - (step.accuracies or {})[name] for step in last)
        tails = [history[-_TAIL:] for history in histories.values()]
        train = tuple(1 - float(np.mean([step.train_accuracies[name] for step in tail])) for tail in tails)
        spreads[name] = Spread(name, config.num_parameters, train, test)
    first = histories[seeds[0]]
    lines = {name: ([step.step for step in first], [step.losses[name] for step in first]) for name in configs}
    chart = Chart(title="Training loss on gratings", x_label="step", y_label="loss", lines=lines)
    numbers = {
        str(seed): [{"step": step.step, "losses": step.losses, "accuracies": step.accuracies} for step in history]
        for seed, history in histories.items()
    }
    return spreads, {"loss": chart}, {"seeds": numbers, "spreads": {n: s.to_dict() for n, s in spreads.items()}}


def _finish(
    claim: str,
    source: str,
    start: float,
    *,
    settings: Mapping[str, Any],
    findings: Sequence[Finding],
    numbers: Mapping[str, Any],
    charts: Mapping[str, Chart],
) -> Report:
    return Report(
        claim=claim,
        source=source,
        settings=settings,
        findings=findings,
        numbers=numbers,
        charts=charts,
        hardware=describe_hardware(),
        seconds=round(time.monotonic() - start, 1),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )
