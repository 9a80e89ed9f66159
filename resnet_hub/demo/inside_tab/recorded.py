"""Recorded trainings and lesions of the CIFAR networks as HTML, and the paper's tables beside ours.

Without records a sentence has the command that makes them.
"""

import re
from collections.abc import Callable, Sequence
from statistics import mean

import gradio as gr
from markupsafe import Markup

from resnet_hub.analysis.cifar import TrainingRecord, average_errors, list_records
from resnet_hub.analysis.experiment_report import Chart
from resnet_hub.analysis.lesion_records import (
    LesionRecord,
    average_lesions,
    average_removal,
    average_reorder,
    group_by_network,
    list_lesions,
)
from resnet_hub.analysis.mean_curves import Curve
from resnet_hub.analysis.paper_tables import ErrorRow, compare_errors, compare_sizes
from resnet_hub.analysis.races import create_cifar_config
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate, translate_text
from resnet_hub.demo.svg_charts import make_chart, render_chart

_DEGRADATION = ("plain20", "plain56", "resnet20", "resnet56")
_FACTS = ("data", "hardware")
_SHORTCUTS = {"plain20": "none", "resnet20": "A", "resnet20-B": "B", "resnet20-C": "C"}

Groups = dict[str, list[TrainingRecord]]  # finished trainings of a network, one for each seed


def render_degradation(request: gr.Request) -> str:
    """Render figure 6 of the paper, recorded: errors over the epochs, to be played."""
    groups = _group(_DEGRADATION)
    return _render_player(groups, "degradation", _describe_degradation(groups, request), request)


def render_shortcuts(request: gr.Request) -> str:
    """Render the networks of 20 layers by their shortcuts: their sizes, and errors before and after the training."""
    groups = _group(tuple(_SHORTCUTS))
    rows = []
    for network, shortcut in _SHORTCUTS.items():
        config, group = create_cifar_config(20, shortcut=shortcut), groups.get(network, [])
        first = _format_errors([1 - record.epochs[0].test_accuracy for record in group], request)
        last = [_format_errors(errors, request) for errors in _list_last_errors(group)]
        name = translate(request, "inside_without_shortcuts") if shortcut == "none" else shortcut
        rows.append([f"{network} ({name})", f"{config.num_parameters:,}", first, *last])
    keys = ("inside_network", "parameters", "inside_error_before", "inside_train_error", "inside_test_error")
    table = _render_table(keys, rows, request)
    return f"{table}{_render_player(groups, 'shortcuts', translate(request, 'inside_shortcuts_note'), request)}"


def render_lesions(request: gr.Request) -> str:
    """Render the accuracy of the recorded networks without one block, without several, and in other orders."""
    groups = {name: group for name, group in group_by_network(list_lesions()).items() if name in _DEGRADATION}
    if not groups:
        return markup.render_text(translate(request, "inside_no_lesions"))
    order = [name for name in _DEGRADATION if name in groups]
    averages: tuple[tuple[str, Callable[[Sequence[LesionRecord]], Curve]], ...] = (
        ("inside_one_block", average_lesions),
        ("inside_removal", average_removal),
        ("inside_reorder", average_reorder),
    )
    charts = []
    for key, average in averages:
        curves = {name: average(groups[name]) for name in order}
        lines = {name: (curve.x, curve.y) for name, curve in curves.items()}
        bands = {name: (curve.low, curve.high) for name, curve in curves.items()}
        texts = (f"{key}_chart", f"{key}_axis", "accuracy_figure")
        chart = make_chart(request, *texts, lines, f"{key}_note", bands=bands)
        charts.append(render_chart(chart, request, y_range=(0, 1), percent=True))
    rows = []
    for name in order:
        studies = [record.study for record in groups[name]]
        accuracy = _format_errors([study.accuracy for study in studies], request)
        drop = _format_errors([study.mean_drop for study in studies], request)
        rows.append([name, accuracy, drop, f"{max(max(study.drops) for study in studies):.1%}"])
    keys = ("inside_network", "accuracy_figure", "inside_mean_cost", "inside_highest_cost")
    first = groups[order[0]][0]
    every = [record for name in order for record in groups[name]]
    sources = _render_sources(
        "inside_lesions_note", every, request, images=f"{first.study.num_images:,}", split=first.split
    )
    row = f'<div class="chart-row">{"".join(charts)}</div>'
    return f"{_render_table(keys, rows, request)}{row}{sources}"


def render_tables(request: gr.Request) -> str:
    """Render tables 6 and 1 of the paper beside ours."""
    rows = []
    for row in compare_errors(list_records()):
        paper = "–" if row.paper_error is None else f"{row.paper_error:.2%}{translate_text(request, row.paper_remark)}"
        parameters = "–" if row.paper_parameters is None else f"{row.paper_parameters}M"
        ours = _format_errors(row.test_errors, request, digits=2)
        rows.append([row.network, parameters, f"{row.num_parameters:,}", paper, ours, *_describe_run(row, request)])
    names = ("network", "paper_parameters", "our_parameters", "paper_error", "our_error", "data", "time", "command")
    errors = _render_table([f"inside_{name}" for name in names], rows, request, texts=3)
    sizes = [
        [
            row.network,
            f"{row.paper_multiply_adds / 1e9:.1f} × 10⁹",
            f"{row.multiply_adds / 1e9:.2f} × 10⁹",
            f"{row.num_parameters:,}",
        ]
        for row in compare_sizes()
    ]
    keys = ("inside_network", "inside_paper_multiply_adds", "inside_our_multiply_adds", "inside_our_parameters")
    sections = [
        *(_render_heading("inside_table_6", request), errors),
        markup.render_hint(translate(request, "inside_table_6_note")),
        *(_render_heading("inside_table_1", request), _render_table(keys, sizes, request)),
        markup.render_hint(translate(request, "inside_table_1_note")),
    ]
    return "".join(sections)


def _describe_run(row: ErrorRow, request: gr.Request) -> list[str]:
    """The data, the time on which hardware, and the command of the trainings of a network."""
    if not row.records:
        return ["–", "–", "–"]
    facts = _join_facts(row.records, request)
    time = translate(request, "inside_minutes_on", minutes=f"{row.minutes:.0f}", hardware=facts["hardware"])
    commands = markup.render("commands.html", request, commands=_list_commands(row.records))
    return [facts["data"], time, Markup(commands)]


def _join_facts(records: Sequence[TrainingRecord | LesionRecord], request: gr.Request) -> dict[str, str]:
    """The data and the hardware of records."""
    data, hardware = ({translate_text(request, getattr(record, name)) for record in records} for name in _FACTS)
    facts = {"data": sorted(data), "hardware": sorted(hardware)}
    return {name: translate(request, "semicolon").join(texts) for name, texts in facts.items()}


def _list_commands(records: Sequence[TrainingRecord | LesionRecord]) -> list[str]:
    """The commands of records; one with `--only` names all of its networks."""
    networks: dict[str, list[str]] = {}
    for record in records:
        template = re.sub(r"(?<= --only )\S+", "{}", record.command)
        networks.setdefault(template, []).append(record.name)
    return [template.replace("{}", " ".join(names)) for template, names in networks.items()]


def _render_sources(
    note: str, records: Sequence[TrainingRecord | LesionRecord], request: gr.Request, **values: object
) -> str:
    """The message `note` with the data and the hardware of records, above a list of their commands."""
    text = translate(request, note, **_join_facts(records, request), **values)
    return markup.render("sources.html", request, note=text, commands=_list_commands(records))


def _group(networks: Sequence[str]) -> Groups:
    groups: Groups = {network: [] for network in networks}
    for record in list_records():
        if record.is_finished and record.network in groups:
            groups[record.network].append(record)
    return {network: group for network, group in groups.items() if group}


def _list_last_errors(group: Sequence[TrainingRecord]) -> tuple[list[float], list[float]]:
    return [record.train_error for record in group], [record.test_error for record in group]


def _format_errors(values: Sequence[float], request: gr.Request, *, digits: int = 1) -> str:
    """A mean, and from where to where the seeds lie."""
    if not values:
        return translate(request, "inside_not_run")
    average, low, high = (f"{100 * value:.{digits}f}" for value in (mean(values), min(values), max(values)))
    if len(values) == 1:
        return f"{average}%"
    return translate(request, "inside_over_seeds", mean=average, low=low, high=high, seeds=len(values))


def _describe_degradation(groups: Groups, request: gr.Request) -> str:
    """What came out, if all four networks are there."""
    if len(groups) < len(_DEGRADATION):
        return translate(request, "inside_degradation_note")
    errors = {name: [mean(values) for values in _list_last_errors(group)] for name, group in groups.items()}
    values = {name: f"{test_error:.1%}" for name, (_, test_error) in errors.items()}
    is_worse = all(deep > shallow for deep, shallow in zip(errors["plain56"], errors["plain20"], strict=True))
    result = "inside_degradation_result" if is_worse else "inside_degradation_values"
    spread = "inside_seeds_note" if any(len(group) > 1 for group in groups.values()) else "inside_one_seed_note"
    return f"{translate(request, result, **values)} {translate(request, spread)}"


def _render_player(groups: Groups, claim: str, note: str, request: gr.Request) -> str:
    """Charts of the errors by epoch, mean and range over the seeds, with a slider that `inside.js` moves."""
    if len(groups) < 2:
        return markup.render_text(translate(request, f"inside_no_{claim}"))
    charts = [_create_chart(groups, split, request) for split in ("train", "test")]
    last = max(group[0].last.epoch for group in groups.values())
    rows = [[name, *(f"{mean(errors):.1%}" for errors in _list_last_errors(group))] for name, group in groups.items()]
    records = [record for group in groups.values() for record in group]
    return markup.render(
        "player.html",
        request,
        charts=[Markup(render_chart(chart, request, percent=True, is_played=True)) for chart in charts],
        last=last,
        rows=rows,
        note=note,
        origin=Markup(_render_sources("inside_recorded_note", records, request, claim=claim)),
    )


def _create_chart(groups: Groups, split: str, request: gr.Request) -> Chart:
    curves = {name: average_errors(group, split) for name, group in groups.items()}
    lines = {name: (curve.x, curve.y) for name, curve in curves.items()}
    bands = {name: (curve.low, curve.high) for name, curve in curves.items() if len(groups[name]) > 1}
    texts = (f"inside_{split}_error", "epoch_axis", "inside_error_axis")
    return make_chart(request, *texts, lines, bands=bands, log_y=True)  # from ninety percent to a few


def _render_table(keys: Sequence[str], rows: Sequence[Sequence[str]], request: gr.Request, *, texts: int = 0) -> str:
    """A table whose last `texts` columns hold texts, not numbers."""
    return markup.render("recorded_table.html", request, keys=keys, rows=rows, texts=texts)


def _render_heading(key: str, request: gr.Request) -> str:
    return Markup("<h3>{}</h3>").format(translate(request, key))
