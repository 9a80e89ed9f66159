"""The experiments on networks that are trained: lesions, degradation, shortcuts, and the tables of the paper.

Each returns a `Report`, of new measurements or of recorded ones.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np

from resnet_hub.analysis.cifar import (
    EPOCHS,
    NetworkRun,
    Spread,
    TrainingRecord,
    average_errors,
    summarize,
    train_network,
)
from resnet_hub.analysis.claims import HE, VEIT, Progress, finish_report
from resnet_hub.analysis.experiment_report import Chart, Finding, Report
from resnet_hub.analysis.labeled_images import load_labeled_images, name_dataset
from resnet_hub.analysis.lesion_records import (
    LesionRecord,
    average_lesions,
    average_removal,
    average_reorder,
    group_by_network,
    measure_lesions,
)
from resnet_hub.analysis.mean_curves import Curve, average_by_x
from resnet_hub.analysis.paper_tables import compare_errors, compare_sizes
from resnet_hub.analysis.races import CLASSES, RaceStep, create_cifar_config, race
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet

_MAX_DROP = 0.05  # mean accuracy that one block of a deep residual network may cost
_DEEP = 27  # blocks, those of ResNet-56; the paper has 54, and of few blocks each matters
_MIN_LOSS = 0.8  # share of its accuracy above chance that a plain network loses with one block
_TAIL = 20  # steps whose batches give the training error of a race
_SAME_SIZE = 0.03  # relative difference of multiply-adds that the paper's two digits allow


def reproduce_lesion(
    models: Mapping[str, ResNet],
    data: str | Path,
    *,
    images: int | None = 1000,
    draws: int = 5,
    curves: bool = True,
    split: str | None = None,
    names: Mapping[str, Any] | None = None,
    jpeg_quality: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Remove each block of networks, then several, and swap blocks; measure the accuracy.

    Args:
        models: The networks by name, plain or residual.
        data: Labeled images, as `load_dataset` takes them.
        images: How many of them to draw; None: all.
        draws: Random choices for each point of the curves.
        curves: Whether to measure the curves too, which takes longer than the rest.
        split: As in `load_labeled_images`.
        names: Further arguments of `load_dataset`.
        jpeg_quality: If set, the images are encoded again first, as for the recorded networks.
        seed: Of all choices.
        progress: Called with the networks done and their total.
    """
    start, records = time.monotonic(), list[LesionRecord]()
    source = {"data": name_dataset(data, jpeg_quality), "split": split or ""}
    selection: dict[str, Any] = {"count": images, "split": split, "names": names, "seed": seed}
    selection["jpeg_quality"] = jpeg_quality
    for name, model in models.items():
        labeled = load_labeled_images(model.config, data, **selection)
        records.append(measure_lesions(name, model, labeled, draws=draws, curves=curves, seed=seed, **source))
        if progress is not None:
            progress(len(records), len(models))
    settings = {"models": list(models), **source, "images": images, "draws": draws, "seed": seed}
    return _report_lesions(records, settings, start)


def report_lesions(records: Sequence[LesionRecord]) -> Report:
    """Report recorded lesions, by network over its seeds.

    Raises:
        AnalysisError: There are no records.
    """
    if not records:
        raise AnalysisError("No lesions are recorded here. Measure them: name models with --model, without --recorded.")
    return _report_lesions(records, {"recorded": [record.name for record in records]} | _join_sources(records), 0.0)


def _report_lesions(records: Sequence[LesionRecord], settings: Mapping[str, Any], start: float) -> Report:
    groups = group_by_network(records)
    return finish_report(
        "lesion",
        f"{VEIT}, section 4",
        start,
        settings=settings,
        findings=[_judge_lesions(name, group) for name, group in groups.items()],
        numbers={record.name: record.to_dict() for record in records},
        charts=_chart_lesions(groups, _join_sources(records)["data"]),
        origin=None if start else _describe_origin(records, [record.seconds for record in records]),
    )


def _join_sources(records: Sequence[LesionRecord] | Sequence[TrainingRecord]) -> dict[str, str]:
    return {"data": "; ".join(dict.fromkeys(record.data for record in records))}


def _describe_origin(
    records: Sequence[LesionRecord] | Sequence[TrainingRecord], seconds: Sequence[float]
) -> dict[str, Any]:
    """The hardware, the seconds and the day of recorded measurements together, as fields of `Report`."""
    hardware = "; ".join(dict.fromkeys(record.hardware for record in records))
    return {"hardware": hardware, "seconds": round(sum(seconds), 1), "date": max(record.date for record in records)}


def _judge_lesions(name: str, records: Sequence[LesionRecord]) -> Finding:
    """The mean over the blocks of what a block's removal costs, with its spread over the seeds."""
    studies = [record.study for record in records]
    drops, worst = [study.mean_drop for study in studies], max(max(study.drops) for study in studies)
    drop, accuracy = float(np.mean(drops)), float(np.mean([study.accuracy for study in studies]))
    spread = f" ({_span(drops)} over {len(drops)} seeds)" if len(drops) > 1 else ""
    measured = f"{100 * drop:.1f} points of {100 * accuracy:.1f} on average{spread}, {100 * worst:.1f} at most"
    statement = f"{name}: a block's removal costs"
    is_plain, chance = records[0].shortcut == "none", 1 / records[0].num_classes
    expected = "nearly all accuracy" if is_plain else f"at most {100 * _MAX_DROP:.0f} points"
    if accuracy <= chance:
        return Finding(statement, expected, measured, None, "no better than chance with all blocks")
    if not is_plain and (blocks := len(studies[0].lesions)) < _DEEP:
        return Finding(statement, "no figure", measured, None, f"{blocks} blocks, of the paper's 54")
    if not is_plain:
        return Finding(statement, expected, measured, drop <= _MAX_DROP)
    lost = drop / (accuracy - chance)
    return Finding(statement, expected, measured, lost >= _MIN_LOSS, f"{lost:.0%} of what is above chance")


def _span(shares: Sequence[float]) -> str:
    return f"{100 * min(shares):.1f} to {100 * max(shares):.1f}"


def _chart_lesions(groups: Mapping[str, Sequence[LesionRecord]], data: str) -> dict[str, Chart]:
    kinds = {
        "one-block": (
            average_lesions,
            "Accuracy without one block",
            "removed block, from the input to the output",
            "A deep residual network hardly misses most blocks; a shallow or a plain one needs each.",
        ),
        "removal": (
            average_removal,
            "Accuracy without several random blocks",
            "number of removed blocks",
            "The accuracy of a residual network falls smoothly.",
        ),
        "reorder": (
            average_reorder,
            "Accuracy with blocks in another order",
            "Kendall's tau: 1 is the trained order",
            "The more pairs of blocks are swapped, the lower tau and, smoothly, the accuracy of a residual network.",
        ),
    }
    charts = {}
    for key, (average, title, x_label, note) in kinds.items():
        curves = {name: curve for name, group in groups.items() if (curve := average(group)).x}
        if curves:
            charts[key] = Chart(
                title=f"{title}, {data}",
                x_label=x_label,
                y_label="accuracy",
                lines={name: (curve.x, curve.y) for name, curve in curves.items()},
                bands={name: (curve.low, curve.high) for name, curve in curves.items()},
                note=note,
            )
    return charts


class TrainingOptions(TypedDict, total=False):
    """Options of the claims on trainings; by default networks train on gratings that are made up, for `steps`."""

    data: str | Path | None  # labeled images with a split to test on
    work: str | Path | None  # the folder of the trainings, which resumes them; needed with `data`
    epochs: int  # of a training on `data`
    width: int  # channels of the first stage
    command: str  # for the records: repeats the trainings
    steps: int | None  # of a training on gratings
    records: Sequence[TrainingRecord] | None  # recorded trainings, which are reported in place of new ones
    progress: Progress | None  # called with the trainings done and their total


def reproduce_degradation(
    layers: tuple[int, int] = (20, 56), *, seeds: Sequence[int] = (0,), **options: Unpack[TrainingOptions]
) -> Report:
    """Train plain and residual networks of two depths, and compare their errors.

    Args:
        layers: The lower and the higher number of layers.
        seeds: Seeds of the trainings.
        options: See `TrainingOptions`.
    """
    runs = [NetworkRun(count, shortcut, seed) for seed in seeds for count in layers for shortcut in ("none", "A")]
    training = _train_all(runs, **options)
    shallow, deep = layers
    findings = [
        _compare(f"plain{deep}", f"plain{shallow}", training.spreads, "train"),
        _compare(f"plain{deep}", f"plain{shallow}", training.spreads, "test"),
        _compare(f"plain{deep}", f"resnet{deep}", training.spreads, "test"),
    ]
    if training.has_images:  # gratings are too easy to need the deeper network
        findings.append(_compare(f"resnet{shallow}", f"resnet{deep}", training.spreads, "test"))
    note = (
        "In the paper the deeper plain network has the higher error, on training images too, and the deeper residual "
        "network the lower."
    )
    return _report_training("degradation", f"{HE}, figure 6 and table 6", training, findings, note)


def reproduce_shortcuts(layers: int = 20, *, seeds: Sequence[int] = (0,), **options: Unpack[TrainingOptions]) -> Report:
    """Train networks with shortcuts A, B, C and none, and compare parameters and errors.

    Args:
        layers: Of each network.
        seeds: Seeds of the trainings.
        options: See `TrainingOptions`.
    """
    runs = [NetworkRun(layers, shortcut, seed) for seed in seeds for shortcut in ("none", "A", "B", "C")]
    training = _train_all(runs, **options)
    plain, a, b, c = names = [NetworkRun(layers, shortcut).network for shortcut in ("none", "A", "B", "C")]
    # gratings are too easy to separate A, B, C
    pairs = [(plain, a), (a, b), (b, c)] if training.has_images else [(plain, a)]
    findings = [_compare(worse, better, training.spreads, "test") for worse, better in pairs]
    if all(name in training.spreads for name in names):
        counts = [training.spreads[name].num_parameters for name in names]
        grows = counts[0] == counts[1] < counts[2] < counts[3]
        text = " ".join(f"{count:,}" for count in counts)
        findings.append(Finding("parameters of none, A, B, C", "none = A < B < C", text, grows))
    note = (
        "In the paper's table 3 A, B and C lie within a point of each other: with few seeds their order may be chance."
    )
    return _report_training("shortcuts", f"{HE}, section 3.3 and table 3", training, findings, note)


def reproduce_tables(records: Sequence[TrainingRecord]) -> Report:
    """Put the paper's table 6, and the multiply-adds of its table 1, beside recorded trainings and our networks.

    Args:
        records: Of trainings; networks without one are named as not run.
    """
    start, findings, errors = time.monotonic(), list[Finding](), compare_errors(records)
    for row in errors:
        table = "figure 6" if row.paper_parameters is None else "table 6"
        paper = "no figure" if row.paper_error is None else f"{row.paper_error:.2%}{row.paper_remark}"
        measured = "not run here"
        if row.records:
            spread = f" ({_span(row.test_errors)} over {len(row.records)} seeds)" if len(row.records) > 1 else ""
            measured = f"{np.mean(row.test_errors):.2%}{spread}, {row.minutes:.0f} minutes"
        findings.append(Finding(f"{row.network}: test error, {table}", paper, measured, None))
    for row in errors:
        if row.paper_parameters is not None:
            holds = f"{row.num_parameters / 1e6:.{2 if row.paper_parameters < 1 else 1}f}" == f"{row.paper_parameters}"
            texts = f"{row.paper_parameters} million", f"{row.num_parameters:,}"
            findings.append(Finding(f"{row.network}: parameters, table 6", *texts, holds))
    sizes = compare_sizes()
    for size in sizes:
        holds = abs(size.multiply_adds / size.paper_multiply_adds - 1) <= _SAME_SIZE
        texts = f"{size.paper_multiply_adds / 1e9:.1f} billion", f"{size.multiply_adds / 1e9:.2f} billion"
        findings.append(Finding(f"{size.network}: multiply-adds, table 1", *texts, holds))
    run = [record for row in errors for record in row.records]
    return finish_report(
        "tables",
        f"{HE}, tables 1 and 6",
        start,
        settings=_join_sources(run) if run else {"data": "none recorded"},
        findings=findings,
        numbers={"commands": {record.name: record.command for record in run}, "sizes": [vars(size) for size in sizes]},
        charts={},
        origin=_describe_origin(run, [record.last.seconds for record in run]) if run else None,
    )


class _Training(NamedTuple):
    """The results of trainings of several networks."""

    spreads: dict[str, Spread]
    charts: dict[str, Chart]
    numbers: dict[str, Any]
    settings: dict[str, Any]
    has_images: bool  # else gratings
    start: float
    origin: dict[str, Any] | None  # of recorded trainings


def _report_training(claim: str, source: str, training: _Training, findings: Sequence[Finding], note: str) -> Report:
    return finish_report(
        claim,
        source,
        training.start,
        settings=training.settings,
        findings=findings,
        numbers=training.numbers,
        charts={name: replace(chart, note=f"{note} {chart.note}".strip()) for name, chart in training.charts.items()},
        origin=training.origin,
    )


def _compare(worse: str, better: str, spreads: Mapping[str, Spread], split: str) -> Finding:
    """Compare the mean errors of two networks, with the spread over the seeds."""
    statement, expected = f"{split} error of {worse} and {better}", f"{worse} > {better}"
    if missing := [name for name in (worse, better) if name not in spreads]:
        return Finding(statement, expected, f"no record of {' and '.join(missing)}", None)
    texts, means, all_errors = [], [], []
    for name in (worse, better):
        errors = spreads[name].train_errors if split == "train" else spreads[name].test_errors
        all_errors.append(errors)
        means.append(round(float(np.mean(errors)), 9))
        texts.append(f"{100 * means[-1]:.1f}%" + (f" ({_span(errors)})" if len(errors) > 1 else ""))
    holds, remark = means[0] > means[1], ""
    if means[0] < means[1]:
        remark = "the reverse was measured"
    elif not holds:
        remark = "no difference"
    elif min(all_errors[0]) <= max(all_errors[1]):
        remark = "but the seeds overlap"
    elif min(map(len, all_errors)) == 1:
        remark = "one seed"
    return Finding(statement, expected, " and ".join(texts), holds, remark)


def _train_all(
    runs: Sequence[NetworkRun],
    data: str | Path | None = None,
    work: str | Path | None = None,
    epochs: int = EPOCHS,
    width: int = 16,
    command: str = "",
    steps: int | None = None,
    records: Sequence[TrainingRecord] | None = None,
    progress: Progress | None = None,
) -> _Training:
    """Train networks on images or gratings, or take their records."""
    start, seeds, networks = time.monotonic(), sorted({run.seed for run in runs}), {run.network for run in runs}
    if records is not None:
        finished = [record for record in records if record.network in networks and record.is_finished]
        if not finished:
            raise AnalysisError(
                f"No training of {', '.join(sorted(networks))} is recorded here. Leave out --recorded to train them."
            )
        recorded: dict[str, Any] = {"recorded": [record.name for record in finished]} | _join_sources(finished)
        origin = _describe_origin(finished, [record.last.seconds for record in finished])
        return _collect(finished, recorded, start, origin)
    if data is None:
        if steps is None:
            raise AnalysisError("Name the images with data, or give steps to train on gratings.")
        settings: dict[str, Any] = {"data": "gratings", "steps": steps, "width": width, "seeds": seeds}
        return _Training(*_race_all(runs, width, steps, progress), settings, False, start, None)
    if work is None:
        raise AnalysisError("The trainings take hours. Set work to a folder for their states.")
    name, trained = name_dataset(data), list[TrainingRecord]()
    for run in runs:
        trained.append(train_network(run, data, work, epochs=epochs, width=width, command=command, data_name=name))
        if progress is not None:
            progress(len(trained), len(runs))
    return _collect(trained, {"data": name, "epochs": epochs, "width": width, "seeds": seeds}, start, None)


def _collect(
    records: Sequence[TrainingRecord], settings: dict[str, Any], start: float, origin: dict[str, Any] | None
) -> _Training:
    groups: dict[str, list[TrainingRecord]] = {}
    for record in records:
        groups.setdefault(record.network, []).append(record)
    charts = {}
    for split, name in (("train", "Training"), ("test", "Test")):
        curves = {network: average_errors(group, split) for network, group in groups.items()}
        title = f"{name} error, {_join_sources(records)['data']}"
        charts[f"{split}-error"] = _chart_seeds(title, "epoch", "error", curves, max(map(len, groups.values())))
    numbers = {"records": [record.to_dict() for record in records]}
    return _Training(summarize([*records]), charts, numbers, settings, True, start, origin)


def _chart_seeds(title: str, x_label: str, y_label: str, curves: Mapping[str, Curve], seeds: int) -> Chart:
    """Means over the seeds of each network, and their range as bands if there are several."""
    return Chart(
        title=title,
        x_label=x_label,
        y_label=y_label,
        lines={name: (curve.x, curve.y) for name, curve in curves.items()},
        bands={name: (curve.low, curve.high) for name, curve in curves.items()} if seeds > 1 else {},
        note="Lines are means over the seeds, bands their range." if seeds > 1 else "",
    )


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
    steps_of_seeds = [*zip(*histories.values(), strict=True)]
    losses = {n: {group[0].step: [step.losses[n] for step in group] for group in steps_of_seeds} for n in configs}
    curves = {name: average_by_x(values) for name, values in losses.items()}
    chart = _chart_seeds("Training loss on gratings", "step", "loss", curves, len(seeds))
    numbers = {
        str(seed): [{"step": step.step, "losses": step.losses, "accuracies": step.accuracies} for step in history]
        for seed, history in histories.items()
    }
    return spreads, {"loss": chart}, {"seeds": numbers, "spreads": {n: s.to_dict() for n, s in spreads.items()}}
