"""HTML of the Train tab: the check of a dataset, the progress of a run, and its result."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.checkpoints.load import read_card
from resnet_hub.checkpoints.model_card import read_license
from resnet_hub.datasets.report import DatasetReport
from resnet_hub.demo.i18n import translate, translate_text
from resnet_hub.demo.licenses import describe_terms
from resnet_hub.demo.markup import (
    encode_thumbnail,
    format_duration,
    load_thumbnail,
    render,
    render_images,
    render_text,
    shorten_label,
)
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Status
from resnet_hub.demo.space import is_zero_gpu
from resnet_hub.demo.svg_charts import find_kept_epoch
from resnet_hub.errors import ResNetHubError, format_bytes
from resnet_hub.evaluation.metrics import compute_wilson_interval
from resnet_hub.training.config import read_settings
from resnet_hub.training.events import Epoch

if TYPE_CHECKING:
    from PIL import Image

    from resnet_hub.datasets.dataset import ImageDataset

MAX_ROWS = 1000  # of a table
FEW_TO_CALIBRATE = 50  # images; with fewer, scores and accuracy differ by chance alone
_LABELS_SHOWN = 5  # of a run


def render_report(report: DatasetReport, request: gr.Request) -> str:
    """A dataset report: findings, image sizes, images and bytes per class, unreadable images."""
    splits = list(dict.fromkeys(row.split for row in report.classes))
    row_of = {(row.label, row.split): row for row in report.classes}
    rows: list[list[str]] = []
    bars: list[int] = []
    for label in report.labels[:MAX_ROWS]:
        per_split = [row_of[label, split] for split in splits]
        size = format_bytes(sum(row.bytes for row in per_split))
        rows.append([label, *(f"{row.images:,}" for row in per_split), size])
        bars.append(sum(row.images for row in per_split))
    unreadable = [
        (image.name, image.label, translate_text(request, image.reason)) for image in report.unreadable[:MAX_ROWS]
    ]
    total = format_bytes(sum(row.bytes for row in report.classes))
    return render(
        "report.html", request, report=report, size=total, splits=splits, rows=rows, bars=bars, unreadable=unreadable
    )


def render_progress(run: PageRun, status: Status, history: Sequence[Epoch], request: gr.Request) -> str:
    """The state of a run, in a few lines."""
    event, facts = status.event or {}, run.read_facts()
    reason = translate_text(request, str(event.get("reason", "")))
    done, total, lines = 0.0, 0, [describe_best(history, request)]
    if status.state == "failed" and "not fit into memory" in str(event.get("reason")) and "job" not in facts:
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
    return translate(request, "best", accuracy=f"{best[-1].accuracy:.0%}", epoch=best[-1].epoch) if best else ""


def _describe_event(run: PageRun, event: dict[str, Any], request: gr.Request) -> tuple[str, float, int]:
    """The present phase of the worker, the amount that is done, and the total."""
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
    config = run.run_dir.config if has_run_dir else read_settings(run.read_facts()["config"])
    epochs = config.recorded().epochs or 1
    parts = (
        translate(request, "at_epoch", epoch=event["epoch"], epochs=epochs),
        translate(request, "speed", speed=f"{event['images_per_second']:,.0f}"),
        translate(request, "left", time=format_duration(event["seconds_left"], request)),
    )
    return " · ".join(parts), event["epoch"] - 1 + event["step"] / event["steps"], epochs


def render_samples(run: PageRun, request: gr.Request) -> str:
    """A few validation images with the labels that the model predicts so far."""
    samples, captions = run.run_dir.read_samples(), []
    for sample in samples:
        key = "sample_right" if sample.label == sample.predicted else "sample_wrong"
        captions.append(translate(request, key, **sample._asdict() | {"score": f"{sample.score:.0%}"}))
    thumbnails: list[Image.Image] = []
    with suppress(ResNetHubError, OSError, ValueError, IndexError):  # such as a dataset that was deleted from the Hub
        images, indices = run.load_validation_images(), [sample.image_index for sample in samples]
        thumbnails = [load_thumbnail(images.sources[index], 160, images.name(index)) for index in indices]
    return render_images(list(zip(thumbnails, captions, strict=False)), request, "samples")


def render_own_photos(run: PageRun, images: "ImageDataset | None", request: gr.Request) -> str:
    """The labels of the visitor's model, and photos that it was not trained on."""
    report = run.read_report()
    labels = ", ".join(map(shorten_label, report.labels[:_LABELS_SHOWN])) if report else run.title
    labels += " …" if report and len(report.labels) > _LABELS_SHOWN else ""
    shown = []
    if images is not None:
        with suppress(ResNetHubError, OSError, ValueError):
            for index, target in enumerate(images.targets):
                shown.append((encode_thumbnail(images, index, 160), images.labels[target]))
    return render("own_photos.html", request, labels=labels, images=shown)


def render_run_link(run: PageRun, status: Status, request: gr.Request) -> str:
    """What may be closed, the time until the run is deleted, and a link to it."""
    goes_on = status.is_active or status.state == "waiting"
    return render("run_link.html", request, run=run, goes_on=goes_on, is_zero_gpu=is_zero_gpu())


def render_metrics(run: PageRun, evaluation: dict[str, Any] | None, request: gr.Request) -> str:
    """The metrics of the model, and on which images they were measured; without an evaluation, that it is missing."""
    if evaluation is None:
        return render("metrics.html", request, evaluation=None, best=describe_best(run.run_dir.epochs(), request))
    confusion = evaluation["confusion"]
    rows = [
        [
            row["label"],
            translate(request, "count_of", correct=counts[index], total=sum(counts)),
            translate(request, "count_of", correct=counts[index], total=sum(others[index] for others in confusion)),
            f"{row['f1']:.0%}",
        ]
        for index, (row, counts) in enumerate(zip(evaluation["classes"], confusion, strict=True))
    ]
    split, history = run.run_dir.evaluation_split(), run.run_dir.epochs()
    percent = split.name.removesuffix("% held out")
    values = {
        "accuracy": format_accuracy(evaluation, request),
        "calibration": describe_calibration(evaluation, request),
        "split": split,
        "split_name": translate(request, "held_out", percent=percent) if percent != split.name else split.name,
        "rows": rows,
        "kept": find_kept_epoch(history) if len(history) > 1 else None,
        "epochs": history[-1].epoch if history else 0,
    }
    return render("metrics.html", request, evaluation=evaluation, **values)


def format_accuracy(evaluation: dict[str, Any], request: gr.Request) -> str:
    """The accuracy as a count, a percentage, and its 95% interval."""
    correct = sum(row[index] for index, row in enumerate(evaluation["confusion"]))
    return format_share(correct, evaluation["num_images"], request)


def format_share(correct: int, total: int, request: gr.Request) -> str:
    """A share of images, no more exact than their number allows, such as "33 of 40, 83%, likely 68 to 91%"."""
    if not total:
        return "–"
    low, high = compute_wilson_interval(correct, total)
    percent = int(100 * correct / total + 0.5)  # 82.5 is 83, as a reader rounds
    values = {"correct": f"{correct:,}", "total": f"{total:,}", "share": f"{percent}%"}
    return translate(request, "share_of", **values, low=f"{100 * low:.0f}", high=f"{high:.0%}")


def render_comparison(runs: Sequence[PageRun], request: gr.Request) -> str:
    """Runs side by side: their metrics and settings."""
    columns = [_describe_run(run, request) for run in runs]
    rows = [[translate(request, key), *(column[key] for column in columns)] for key in columns[0]]
    return render("comparison.html", request, titles=[run.title for run in runs], rows=rows)


def _describe_run(run: PageRun, request: gr.Request) -> dict[str, str]:
    """The metrics and settings of a run, by message."""
    evaluation, history = run.read_evaluation(), run.run_dir.epochs()
    config, report = run.read_facts().get("config", {}), run.read_report()
    recipe = config.get("recipe") or "finetune"
    return {
        "accuracy_figure": format_accuracy(evaluation, request) if evaluation else "–",
        "trust": describe_calibration(evaluation, request) if evaluation else "–",
        "class": ", ".join(map(shorten_label, report.labels[:20])) if report else "–",
        "images": f"{report.images:,}" if report else "–",
        "recipe": translate(request, f"recipe_{recipe}") if recipe in ("finetune", "head", "modern") else recipe,
        "base": Path(str(config.get("base") or config.get("architecture") or "–")).name,
        "epochs": f"{history[-1].epoch:,}" if history else "–",
        "time": format_duration(history[-1].seconds, request) if history else "–",
    }


def describe_calibration(evaluation: dict[str, Any], request: gr.Request) -> str:
    """The reliability of the scores: how much they differ from the accuracy."""
    points, images = 100 * evaluation["calibration_error"], evaluation["num_images"]
    key = "calibration_few" if images < FEW_TO_CALIBRATE else "calibration_good" if points < 5 else "calibration_off"
    return translate(request, key, points=f"{points:.0f}")


def render_terms(run: PageRun, request: gr.Request) -> str:
    """Whose work the model builds on, and what its license allows; nothing if it was trained from scratch."""
    base = run.read_facts().get("config", {}).get("base")
    if not base:
        return ""
    license = read_license(read_card(run.run_dir.model) or "")
    credit = translate(request, "credit", base=Path(base).name if base.startswith("weights/") else base)
    return render_text(f"{credit} {describe_terms(license, request)}")
