"""HTML of the page, in the visitor's language and with all text escaped: models, reports, runs and their results."""

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.demo.i18n import translate
from resnet_hub.demo.page_run import PageRun
from resnet_hub.demo.scheduler import Status
from resnet_hub.demo.space import is_zero_gpu
from resnet_hub.errors import ResNetHubError
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Epoch

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from resnet_hub.datasets.dataset import ImageDataset
    from resnet_hub.datasets.report import DatasetReport
    from resnet_hub.inference.classifier import Classifier

MAX_ROWS = 1000  # of a table


def render_status(text: str) -> str:
    """A paragraph that screen readers announce."""
    return f'<p role="status">{escape(text)}</p>'


def render_alert(text: str) -> str:
    """An error, for eyes and screen readers."""
    return f'<p role="alert">{escape(text)}</p>'


def render_link(url: str) -> str:
    """A link that opens in a new tab."""
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'


def shorten_label(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:31]}…"


def render_model(classifier: "Classifier", url: str | None, request: gr.Request) -> str:
    """The facts of a model, with a link to its page on the Hub if it has a `url`."""
    config = classifier.config
    labels = ", ".join(shorten_label(label) for label in config.labels[:5])
    if config.num_classes > 5:
        labels = translate(request, "more", count=f"{config.num_classes:,}", some=labels)
    crop = f"{config.crop_pct * 100:.4g}"
    rows = {
        "architecture": config.architecture,
        "parameters": f"{config.num_parameters:,}",
        "labels": labels,
        "preprocessing": translate(
            request, "pixels", size=config.image_size, crop=crop, interpolation=config.interpolation
        ),
    }
    cells = [f"<dt>{escape(translate(request, key))}</dt><dd>{escape(value)}</dd>" for key, value in rows.items()]
    if url:
        cells.append(f"<dt>{escape(translate(request, 'card'))}</dt><dd>{render_link(url)}</dd>")
    return f"<dl>{''.join(cells)}</dl>"


def render_report(report: "DatasetReport", request: gr.Request) -> str:
    """A dataset report: findings, image sizes, images and bytes per class, unreadable images."""
    from resnet_hub.datasets.report import format_bytes

    total = format_bytes(sum(row.bytes for row in report.classes))
    counts = {"images": f"{report.images:,}", "classes": f"{len(report.labels):,}"}
    head = translate(request, "report_head", **counts, size=total)
    findings = [f'<li class="{finding.severity}">{escape(finding.message)}</li>' for finding in report.findings]
    sizes = f"<p>{escape(translate(request, 'report_sizes', **report.sizes))}</p>" if report.sizes else ""
    splits = list(dict.fromkeys(row.split for row in report.classes))
    row_of = {(row.label, row.split): row for row in report.classes}
    rows = []
    for label in report.labels[:MAX_ROWS]:
        per_split = [row_of[label, split] for split in splits]
        size = format_bytes(sum(row.bytes for row in per_split))
        rows.append([label, *(f"{row.images:,}" for row in per_split), size])
    columns = [translate(request, "class"), *(splits if len(splits) > 1 else [translate(request, "images")])]
    columns.append(translate(request, "file_size"))
    html = f'<h2 role="status">{escape(head)}</h2><ul>{"".join(findings)}</ul>{sizes}'
    html += _render_details(translate(request, "images"), _render_table(columns, rows), is_open=len(rows) <= 20)
    if report.unreadable:
        title = translate(request, "report_unreadable", images=f"{len(report.unreadable):,}")
        columns = [translate(request, key) for key in ("file", "class", "reason")]
        unreadable = [[image.name, image.label, image.reason] for image in report.unreadable[:MAX_ROWS]]
        html += _render_details(title, _render_table(columns, unreadable))
    return html


def _render_details(title: str, content: str, *, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{escape(title)}</summary>{content}</details>"


def _render_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def render_progress(run: PageRun, status: Status, history: Sequence[Epoch], request: gr.Request) -> str:
    """The state of a run, in a few lines."""
    event, facts = status.event or {}, run.read_facts()
    lines, bar = [], ""
    if status.state == "failed":
        reason = str(event.get("reason", ""))
        # The library's advice names options that the page does not have.
        is_memory = "not fit into memory" in reason and "job" not in facts
        lines.append(render_alert(translate(request, "memory_full") if is_memory else reason))
    elif not ("job" in facts and status.state == "interrupted"):
        state = translate(request, f"is_{status.state}", place=status.position)
        lines.append(f"<p><strong>{escape(state)}</strong></p>")
    if job := facts.get("job"):
        key = "job_alone" if status.state == "interrupted" else "job_at"
        lines.append(f"<p>{escape(translate(request, key, owner=job['owner']))} {render_link(job['url'])}</p>")
    if job and facts.get("ending") and status.is_active:
        lines.append(f"<p>{escape(translate(request, 'job_ending'))}</p>")
    if facts.get("time_up"):
        lines.append(f"<p>{escape(translate(request, 'time_up'))}</p>")
    if url := facts.get("pushed"):
        lines.append(f"<p>{escape(translate(request, 'pushed_at'))} {render_link(url)}</p>")
    if status.state in ("running", "stopping"):
        text, bar = _render_event(run, event, request)
        lines.append(f"<p>{escape(text)}</p>")
    if status.state == "waiting":
        seconds, text = event.get("seconds_left"), str(event.get("reason", ""))
        if seconds is not None:
            text = f"{translate(request, 'gpu_left', time=format_duration(seconds, request))} {text}"
        lines.append(f"<p>{escape(text)}</p>")
    if best := _describe_best(history, request):
        lines.append(f"<p>{escape(best)}</p>")
    return lines[0] + bar + "".join(lines[1:])


def _describe_best(history: Sequence[Epoch], request: gr.Request) -> str:
    """The accuracy of the best epoch so far; empty before the first evaluation."""
    best = [epoch for epoch in history if epoch.best and epoch.accuracy is not None]
    return translate(request, "best", accuracy=f"{best[-1].accuracy:.1%}", epoch=best[-1].epoch) if best else ""


def _render_event(run: PageRun, event: dict[str, Any], request: gr.Request) -> tuple[str, str]:
    """What the worker does now, and a progress bar."""
    kind = event.get("event")
    if kind == "Preparing":
        key = {"report": "checking", "images": "reading"}.get(event["what"], "features")
        text = translate(request, key, done=f"{event['done']:,}", total=f"{event['total']:,}")
        return text, _render_bar(event["done"], event["total"])
    if kind in ("TimeUp", "Finished", "Stopped", "Failed"):  # its process is about to end
        return translate(request, "ending"), _render_bar(1, 1)
    if kind != "Progress":
        return translate(request, "starting"), _render_bar(0, 1)
    has_run_dir = run.run_dir.exists()  # that of a job is on its machine
    config = run.run_dir.config if has_run_dir else TrainConfig(**run.read_facts()["config"])
    epochs = config.resolved().epochs or 1
    parts = [
        translate(request, "at_epoch", epoch=event["epoch"], epochs=epochs),
        translate(request, "speed", speed=f"{event['images_per_second']:,.0f}"),
        translate(request, "left", time=format_duration(event["seconds_left"], request)),
    ]
    return " · ".join(parts), _render_bar(event["epoch"] - 1 + event["step"] / event["steps"], epochs)


def _render_bar(done: float, total: float) -> str:
    return f'<progress value="{done:.3f}" max="{total}"></progress>'


def format_duration(seconds: float, request: gr.Request) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    if minutes:
        return translate(request, "minutes", minutes=f"{minutes:,}", seconds=seconds)
    return translate(request, "seconds", seconds=seconds)


def make_curves(history: Sequence[Epoch], request: gr.Request, *series: tuple[str, str]) -> "pd.DataFrame":
    """The rows of a chart.

    Args:
        history: The epochs.
        request: The request, for its language.
        series: Of each curve the key of its name in the messages, and the field of `Epoch` that it shows.

    Returns:
        A table with the columns epoch, value and series.
    """
    import pandas as pd

    rows = [
        (epoch.epoch, getattr(epoch, field), translate(request, name))
        for name, field in series
        for epoch in history
        # A series that begins later has a first row without a value: a chart does not notice new series.
        if getattr(epoch, field) is not None or epoch is history[0]
    ]
    frame = pd.DataFrame(rows, columns=["epoch", "value", "series"])
    return frame.astype({"epoch": "float", "value": "float", "series": "str"})


@lru_cache(maxsize=16)
def _load_thumbnails(run: PageRun, indices: tuple[int, ...]) -> "list[Image.Image]":
    """Small copies of validation images."""
    from resnet_hub.images.load import load_image

    images = run.load_validation_images()
    thumbnails = [load_image(images.sources[index], name=images.name(index)) for index in indices]
    for thumbnail in thumbnails:
        thumbnail.thumbnail((160, 160))
    return thumbnails


def render_samples(run: PageRun, request: gr.Request) -> str:
    """A few validation images with the labels that the model predicts so far."""
    samples = run.run_dir.read_samples()
    captions = [
        translate(
            request,
            "sample_right" if sample.label == sample.predicted else "sample_wrong",
            **{**sample._asdict(), "score": f"{sample.score:.0%}"},
        )
        for sample in samples
    ]
    thumbnails: list[Image.Image] = []
    with suppress(ResNetHubError, OSError, ValueError, IndexError):  # such as a dataset that was deleted from the Hub
        thumbnails = _load_thumbnails(run, tuple(sample.image_index for sample in samples)) if samples else []
    return render_images(list(zip(thumbnails, captions, strict=False)), translate(request, "samples"))


def render_images(images: "Sequence[tuple[Image.Image, str]]", title: str = "") -> str:
    """Small images in rows, each with its caption. Empty if there are none."""
    cells = []
    for image, caption in images:
        content = BytesIO()
        image.convert("RGB").save(content, "JPEG", quality=90)
        source = f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        cells.append(f'<figure><img src="{source}" alt="{escape(caption)}">{below}</figure>')
    head = f"<h2>{escape(title)}</h2>" if title else ""
    return f'{head}<div class="frames">{"".join(cells)}</div>' if cells else ""


def render_run_link(run: PageRun, request: gr.Request) -> str:
    """How long the run is kept, and a link to it."""
    hint = escape(translate(request, "run_kept_zero" if is_zero_gpu() else "run_kept"))
    text = escape(translate(request, "run_link"))
    return f'<p>{hint}</p><p><a href="?run={run.id}">{text}</a></p>'


def render_metrics(run: PageRun, evaluation: dict[str, Any] | None, request: gr.Request) -> str:
    """The metrics of the model, and on which images they were measured; without an evaluation, that it is missing."""
    if evaluation is None:
        best = _describe_best(run.run_dir.epochs(), request)
        return f"<p>{escape(best)}</p><p>{escape(translate(request, 'unmeasured'))}</p>"
    fields = {"accuracy_figure": "accuracy", "macro_f1": "macro_f1", "calibration": "calibration_error"}
    if len(evaluation["classes"]) > 5:
        fields["top5"] = "top5"
    metrics = {translate(request, key): f"{evaluation[field]:.2%}" for key, field in fields.items()}
    cells = [f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in metrics.items()]
    evaluated = run.run_dir.evaluation_split()
    hint = translate(request, "result_split", images=f"{evaluation['num_images']:,}", split=evaluated.name)
    if evaluated.chose_epoch:
        hint += f" {translate(request, 'result_chosen')}"
    names = [translate(request, key) for key in ("class", "precision", "recall", "images")]
    rows = [
        [row["label"], *(f"{row[key]:.1%}" for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for row in evaluation["classes"]
    ]
    table = _render_table([*names[:3], "F1", names[3]], rows)
    return f"<dl>{''.join(cells)}</dl><p>{escape(hint)}</p>{table}"


def render_mistakes(evaluation: dict[str, Any], images: "ImageDataset", request: gr.Request) -> str:
    """The misclassified images with the highest scores, small."""
    from resnet_hub.images.load import load_image

    mistakes = []
    for row in evaluation["worst"]:
        image = load_image(images.sources[row["index"]], name=row["name"])
        image.thumbnail((320, 320))
        mistakes.append((image, translate(request, "mistake", **{**row, "score": f"{row['score']:.0%}"})))
    return render_images(mistakes, translate(request, "mistakes"))
