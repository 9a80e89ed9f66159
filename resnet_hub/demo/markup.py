"""HTML of the page, from `templates/*.html`, in the visitor's language; Jinja escapes all text."""

from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import jinja2
from markupsafe import Markup

from resnet_hub.datasets.report import DatasetReport, format_bytes
from resnet_hub.demo.i18n import translate, translate_error
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Status
from resnet_hub.demo.space import is_zero_gpu
from resnet_hub.errors import ResNetHubError
from resnet_hub.images.load import load_image
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Epoch

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from resnet_hub.config import ResNetConfig
    from resnet_hub.datasets.dataset import ImageDataset

MAX_ROWS = 1000  # of a table
_LABELS_SHOWN = 5  # of a model
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["number"] = "{:,}".format


def render(template: str, request: gr.Request, **values: Any) -> str:
    """Render a template with `values`, and with `t`, which translates a message."""
    return TEMPLATES.get_template(template).render(values, t=partial(translate, request))


def render_text(text: str, role: str = "") -> str:
    """A paragraph. Screen readers announce it if its role is "status" or "alert"."""
    return Markup('<p role="{1}">{0}</p>' if role else "<p>{0}</p>").format(text, role)


def render_error(error: Exception, request: gr.Request) -> str:
    """The message of an error, for eyes and screen readers."""
    return render_text(translate_error(request, error), "alert")


def shorten_label(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:31]}…"


def render_model(config: "ResNetConfig", url: str | None, request: gr.Request) -> str:
    """The facts of a model, with a link to its page on the Hub if it has a `url`."""
    labels = ", ".join(map(shorten_label, config.labels[:_LABELS_SHOWN]))
    return render("model.html", request, config=config, url=url, labels=labels, labels_shown=_LABELS_SHOWN)


def render_report(report: DatasetReport, request: gr.Request) -> str:
    """A dataset report: findings, image sizes, images and bytes per class, unreadable images."""
    splits = list(dict.fromkeys(row.split for row in report.classes))
    row_of = {(row.label, row.split): row for row in report.classes}
    rows = []
    for label in report.labels[:MAX_ROWS]:
        per_split = [row_of[label, split] for split in splits]
        size = format_bytes(sum(row.bytes for row in per_split))
        rows.append([label, *(f"{row.images:,}" for row in per_split), size])
    unreadable = [(image.name, image.label, image.reason) for image in report.unreadable[:MAX_ROWS]]
    total = format_bytes(sum(row.bytes for row in report.classes))
    return render("report.html", request, report=report, size=total, splits=splits, rows=rows, unreadable=unreadable)


def render_progress(run: PageRun, status: Status, history: Sequence[Epoch], request: gr.Request) -> str:
    """The state of a run, in a few lines."""
    event, facts = status.event or {}, run.read_facts()
    reason = str(event.get("reason", ""))
    done, total, lines = 0.0, 0, [describe_best(history, request)]
    if status.state == "failed" and "not fit into memory" in reason and "job" not in facts:
        reason = translate(request, "memory_full")  # the library's advice names options that the page does not have
    if status.state in ("running", "stopping"):
        activity, done, total = _describe_event(run, event, request)
        lines.insert(0, activity)
    if status.state == "waiting":
        seconds = event.get("seconds_left")
        left = translate(request, "gpu_left", time=format_duration(seconds, request)) if seconds is not None else ""
        lines.insert(0, f"{left} {reason}".strip())
    values = {"status": status, "facts": facts, "reason": reason, "done": done, "total": total, "lines": lines}
    return render("progress.html", request, **values)


def describe_best(history: Sequence[Epoch], request: gr.Request) -> str:
    """The accuracy of the best epoch so far; empty before the first evaluation."""
    best = [epoch for epoch in history if epoch.best and epoch.accuracy is not None]
    return translate(request, "best", accuracy=f"{best[-1].accuracy:.1%}", epoch=best[-1].epoch) if best else ""


def _describe_event(run: PageRun, event: dict[str, Any], request: gr.Request) -> tuple[str, float, int]:
    """What the worker does now, how much of it is done, and out of how much."""
    kind = event.get("event")
    if kind == "Preparing":
        key = {"report": "checking", "images": "reading"}.get(event["what"], "features")
        text = translate(request, key, done=f"{event['done']:,}", total=f"{event['total']:,}")
        return text, event["done"], event["total"]
    if kind in ("TimeUp", "Finished", "Stopped", "Failed"):  # its process is about to end
        return translate(request, "ending"), 1, 1
    if kind != "Progress":
        return translate(request, "starting"), 0, 1
    has_run_dir = run.run_dir.exists()  # the run directory of a job is on the job's machine
    config = run.run_dir.config if has_run_dir else TrainConfig(**run.read_facts()["config"])
    epochs = config.resolved().epochs or 1
    parts = (
        translate(request, "at_epoch", epoch=event["epoch"], epochs=epochs),
        translate(request, "speed", speed=f"{event['images_per_second']:,.0f}"),
        translate(request, "left", time=format_duration(event["seconds_left"], request)),
    )
    return " · ".join(parts), event["epoch"] - 1 + event["step"] / event["steps"], epochs


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
def _load_samples(run: PageRun, indices: tuple[int, ...]) -> "list[Image.Image]":
    images = run.load_validation_images()
    return [_load_thumbnail(images, index, 160) for index in indices]


def _load_thumbnail(images: "ImageDataset", index: int, side: int) -> "Image.Image":
    image = load_image(images.sources[index], name=images.name(index))
    image.thumbnail((side, side))
    return image


def render_samples(run: PageRun, request: gr.Request) -> str:
    """A few validation images with the labels that the model predicts so far."""
    samples, captions = run.run_dir.read_samples(), []
    for sample in samples:
        key = "sample_right" if sample.label == sample.predicted else "sample_wrong"
        captions.append(translate(request, key, **sample._asdict() | {"score": f"{sample.score:.0%}"}))
    thumbnails: list[Image.Image] = []
    with suppress(ResNetHubError, OSError, ValueError, IndexError):  # such as a dataset that was deleted from the Hub
        thumbnails = _load_samples(run, tuple(sample.image_index for sample in samples)) if samples else []
    return render_images(list(zip(thumbnails, captions, strict=False)), request, "samples")


def render_images(images: "Sequence[tuple[Image.Image, str]]", request: gr.Request, title: str = "") -> str:
    """Small images in rows, each with its caption, below the message `title`. Empty if there are none."""
    captioned = [(_encode_data_url(image), caption) for image, caption in images]
    return render("images.html", request, images=captioned, title=title)


def _encode_data_url(image: "Image.Image") -> str:
    content = BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"


def render_run_link(run: PageRun, request: gr.Request) -> str:
    """How long the run is kept, and a link to it."""
    return render("run_link.html", request, run=run, is_zero_gpu=is_zero_gpu())


def render_metrics(run: PageRun, evaluation: dict[str, Any] | None, request: gr.Request) -> str:
    """The metrics of the model, and on which images they were measured; without an evaluation, that it is missing."""
    if evaluation is None:
        return render("metrics.html", request, evaluation=None, best=describe_best(run.run_dir.epochs(), request))
    metrics = [("accuracy_figure", "accuracy"), ("macro_f1", "macro_f1"), ("calibration", "calibration_error")]
    if len(evaluation["classes"]) > 5:
        metrics.append(("top5", "top5"))
    rows = [
        [row["label"], *(f"{row[key]:.1%}" for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for row in evaluation["classes"]
    ]
    split = run.run_dir.evaluation_split()
    return render("metrics.html", request, evaluation=evaluation, metrics=metrics, split=split, rows=rows)


def render_mistakes(evaluation: dict[str, Any], images: "ImageDataset", request: gr.Request) -> str:
    """The misclassified images with the highest scores, small."""
    mistakes = []
    for row in evaluation["worst"]:
        caption = translate(request, "mistake", **row | {"score": f"{row['score']:.0%}"})
        mistakes.append((_load_thumbnail(images, row["index"], 320), caption))
    return render_images(mistakes, request, "mistakes")
