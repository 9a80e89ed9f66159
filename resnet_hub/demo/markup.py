"""What the Train tab shows of data, a run and its result: HTML in the visitor's language, whatever is in it escaped."""

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
from resnet_hub.demo.predict import alert
from resnet_hub.demo.scheduler import Status
from resnet_hub.demo.space import is_zero_gpu
from resnet_hub.errors import ResNetHubError
from resnet_hub.training.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from resnet_hub.datasets.dataset import ImageDataset
    from resnet_hub.datasets.report import DatasetReport

MAX_ROWS = 1000  # of a table


def report(found: "DatasetReport", request: gr.Request) -> str:
    """What was found in a look at the data: pictures and bytes a class, findings, unreadable files."""
    from resnet_hub.datasets.report import format_bytes

    total = format_bytes(sum(row.bytes for row in found.classes))
    head = translate(request, "report_head", images=f"{found.images:,}", classes=f"{len(found.labels):,}", size=total)
    findings = [f'<li class="{finding.severity}">{escape(finding.message)}</li>' for finding in found.findings]
    sizes = f"<p>{escape(translate(request, 'report_sizes', **found.sizes))}</p>" if found.sizes else ""
    splits = list(dict.fromkeys(row.split for row in found.classes))
    counts = {(row.label, row.split): row for row in found.classes}
    rows = []
    for label in found.labels[:MAX_ROWS]:
        cells = [counts[label, split] for split in splits]
        rows.append([label, *(f"{row.images:,}" for row in cells), format_bytes(sum(row.bytes for row in cells))])
    columns = [translate(request, "class"), *(splits if len(splits) > 1 else [translate(request, "pictures")])]
    columns.append(translate(request, "file_size"))
    out = f'<h2 role="status">{escape(head)}</h2><ul>{"".join(findings)}</ul>{sizes}'
    out += _folded(translate(request, "pictures"), _table(columns, rows), opened=len(rows) <= 20)
    if found.unreadable:
        title = translate(request, "report_unreadable", images=f"{len(found.unreadable):,}")
        columns = [translate(request, key) for key in ("file", "class", "reason")]
        bad = [[picture.name, picture.label, picture.reason] for picture in found.unreadable[:MAX_ROWS]]
        out += _folded(title, _table(columns, bad))
    return out


def _folded(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{escape(title)}</summary>{content}</details>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def progress(run: PageRun, status: Status, history: Sequence[Any], request: gr.Request) -> str:
    """Where a run stands, in a few lines."""
    event, facts = status.event or {}, run.read_facts()
    lines, bar = [], ""
    if status.state == "failed":
        reason = str(event.get("reason", ""))
        full = "not fit into memory" in reason and "job" not in facts  # the library advises what the page has not
        lines.append(alert(translate(request, "memory_full") if full else reason))
    elif not ("job" in facts and status.state == "interrupted"):
        lines.append(
            f"<p><strong>{escape(translate(request, f'is_{status.state}', place=status.position))}</strong></p>"
        )
    if job := facts.get("job"):
        key = "job_alone" if status.state == "interrupted" else "job_at"
        lines.append(f"<p>{escape(translate(request, key, owner=job['owner']))} {anchor(job['url'])}</p>")
    if job and facts.get("ending") and status.is_active:
        lines.append(f"<p>{escape(translate(request, 'job_ending'))}</p>")
    if facts.get("time_up"):
        lines.append(f"<p>{escape(translate(request, 'time_up'))}</p>")
    if url := facts.get("pushed"):
        lines.append(f"<p>{escape(translate(request, 'pushed_at'))} {anchor(url)}</p>")
    if status.state in ("running", "stopping"):
        text, bar = _step_text(run, event, request)
        lines.append(f"<p>{escape(text)}</p>")
    if status.state == "waiting":
        left, reason = event.get("seconds_left"), str(event.get("reason", ""))
        told = reason if left is None else f"{translate(request, 'gpu_left', time=duration(left, request))} {reason}"
        lines.append(f"<p>{escape(told)}</p>")
    if best := _best(history, request):
        lines.append(f"<p>{escape(best)}</p>")
    return lines[0] + bar + "".join(lines[1:])


def _best(history: Sequence[Any], request: gr.Request) -> str:
    """The accuracy of the epoch that is kept so far, in a sentence; nothing where none was measured."""
    best = [epoch for epoch in history if epoch.best and epoch.accuracy is not None]
    return translate(request, "best", accuracy=f"{best[-1].accuracy:.1%}", epoch=best[-1].epoch) if best else ""


def _step_text(run: PageRun, event: dict[str, Any], request: gr.Request) -> tuple[str, str]:
    """What a worker does just now, and a bar of how far it is."""
    kind = event.get("event")
    if kind == "Preparing":
        key = {"report": "checking", "images": "reading"}.get(event["what"], "features")
        text = translate(request, key, done=f"{event['done']:,}", total=f"{event['total']:,}")
        return text, _bar(event["done"], event["total"])
    if kind in ("TimeUp", "Finished", "Stopped", "Failed"):  # its process is about to end
        return translate(request, "ending"), _bar(1, 1)
    if kind != "Progress":
        return translate(request, "starting"), _bar(0, 1)
    # The run directory of a job is on its machine.
    config = run.run_dir.config if run.run_dir.exists() else TrainConfig(**run.read_facts()["config"])
    epochs = config.resolved().epochs or 1
    parts = [
        translate(request, "at_epoch", epoch=event["epoch"], epochs=epochs),
        translate(request, "speed", speed=f"{event['images_per_second']:,.0f}"),
        translate(request, "left", time=duration(event["seconds_left"], request)),
    ]
    return " · ".join(parts), _bar(event["epoch"] - 1 + event["step"] / event["steps"], epochs)


def anchor(url: str) -> str:
    return f'<a href="{escape(url)}" target="_blank" rel="noopener">{escape(url)}</a>'


def _bar(done: float, total: float) -> str:
    return f'<progress value="{done:.3f}" max="{total}"></progress>'


def duration(seconds: float, request: gr.Request) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes:
        return translate(request, "minutes", minutes=f"{minutes:,}", seconds=rest)
    return translate(request, "seconds", seconds=rest)


def curve(history: Sequence[Any], request: gr.Request, *series: tuple[str, str]) -> "pd.DataFrame":
    """A chart's rows: of each series its key in `i18n`, and the field of an epoch that it shows."""
    import pandas as pd

    rows = [
        (epoch.epoch, getattr(epoch, field), translate(request, name))
        for name, field in series
        for epoch in history
        # A series that begins later is there from the start, without a value: a chart does not learn of new ones.
        if getattr(epoch, field) is not None or epoch is history[0]
    ]
    frame = pd.DataFrame(rows, columns=["epoch", "value", "series"])
    return frame.astype({"epoch": "float", "value": "float", "series": "str"})


@lru_cache(maxsize=16)
def _thumbnails(run: PageRun, places: tuple[int, ...]) -> "list[Image.Image]":
    """Small copies of held-out pictures."""
    from resnet_hub.images.load import load_image

    held_out = run.load_validation_images()
    pictures = [load_image(held_out.sources[place], name=held_out.name(place)) for place in places]
    for picture in pictures:
        picture.thumbnail((160, 160))
    return pictures


def samples(run: PageRun, request: gr.Request) -> str:
    """What the model makes of a few held-out pictures so far."""
    samples = run.run_dir.read_samples()
    captions = [
        translate(request, "sample_right" if sample.label == sample.predicted else "sample_wrong", **row)
        for sample in samples
        for row in [{**sample._asdict(), "score": f"{sample.score:.0%}"}]
    ]
    pictures: list[Image.Image] = []
    with suppress(ResNetHubError, OSError, ValueError, IndexError):  # a data set that left the Hub since, for one
        pictures = _thumbnails(run, tuple(sample.image_index for sample in samples)) if samples else []
    return film(list(zip(pictures, captions, strict=False)), translate(request, "samples"))


def film(pictures: "Sequence[tuple[Image.Image, str]]", title: str = "") -> str:
    """Small pictures in rows, each with its caption; nothing where there are none."""
    cells = []
    for picture, caption in pictures:
        content = BytesIO()
        picture.convert("RGB").save(content, "JPEG", quality=90)
        source = f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        cells.append(f'<figure><img src="{source}" alt="{escape(caption)}">{below}</figure>')
    head = f"<h2>{escape(title)}</h2>" if title else ""
    return f'{head}<div class="frames">{"".join(cells)}</div>' if cells else ""


def link(run: PageRun, request: gr.Request) -> str:
    """How long a run is kept, and the address that finds it again."""
    hint = escape(translate(request, "run_kept_zero" if is_zero_gpu() else "run_kept"))
    text = escape(translate(request, "run_link"))
    return f'<p>{hint}</p><p><a href="?run={run.id}">{text}</a></p>'


def figures(run: PageRun, evaluation: dict[str, Any] | None, request: gr.Request) -> str:
    """What the model was measured at, on which pictures; that it was not measured, where it was not."""
    if evaluation is None:
        return f"<p>{escape(_best(run.run_dir.epochs(), request))}</p><p>{escape(translate(request, 'unmeasured'))}</p>"
    rows = {"accuracy_figure": "accuracy", "macro_f1": "macro_f1", "calibration": "calibration_error"}
    if len(evaluation["classes"]) > 5:
        rows["top5"] = "top5"
    figures = {translate(request, key): f"{evaluation[field]:.2%}" for key, field in rows.items()}
    cells = [f"<div><dt>{escape(name)}</dt><dd>{value}</dd></div>" for name, value in figures.items()]
    measured = run.run_dir.evaluation_split()
    hint = translate(request, "result_split", images=f"{evaluation['num_images']:,}", split=measured.name)
    if measured.chose_epoch:
        hint += f" {translate(request, 'result_chosen')}"
    columns = [translate(request, key) for key in ("class", "precision", "recall", "macro_f1", "pictures")]
    columns[3] = "F1"
    scores = [
        [row["label"], *(f"{row[key]:.1%}" for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for row in evaluation["classes"]
    ]
    return f"<dl>{''.join(cells)}</dl><p>{escape(hint)}</p>{_table(columns, scores)}"


def mistakes(evaluation: dict[str, Any], measured: "ImageDataset", request: gr.Request) -> str:
    """The pictures that the model is surest and wrong about, small."""
    from resnet_hub.images.load import load_image

    found = []
    for row in evaluation["worst"]:
        picture = load_image(measured.sources[row["index"]], name=row["name"])
        picture.thumbnail((320, 320))
        found.append((picture, translate(request, "mistake", **{**row, "score": f"{row['score']:.0%}"})))
    return film(found, translate(request, "mistakes"))
