"""Images with a likely fault, and their corrections: leave one out, move it to another class, keep one of several."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import gradio as gr

from resnet_hub.datasets.dataset import ImageRef
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.errors import ResNetHubError

MAX_GROUPS, MAX_SHOWN_IMAGES = 12, 4  # of duplicates that are shown
_SIDE = 160  # pixels of a thumbnail
SCRIPT = """
  element.addEventListener("click", ({ target }) => {
    const button = target.closest("button[data-fix]");
    if (button) trigger("select", { index: 0, value: button.dataset.fix });
  });
"""


def write_fix(images: Sequence[ImageRef], label: str | None = None) -> str:
    """The value of a button that moves images to a class or, without one, leaves them out."""
    return json.dumps({"images": [[image.split, image.name] for image in images], "to": label})


def read_fix(value: object) -> dict[tuple[str, str], str | None]:
    """The corrections that `write_fix` wrote, by split and name; none of any other text."""
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        content = json.loads(str(value))
        to = content["to"]
        if to is None or isinstance(to, str):
            return {(str(split), str(name)): to for split, name in content["images"]}
    return {}


def render_duplicates(run: PageRun, request: gr.Request) -> str:
    """Images that look the same, side by side, those of several classes first."""
    report = run.read_stored_report()
    if report is None or not report.duplicates:
        return ""
    groups = sorted(report.duplicates, key=lambda group: len(group.labels), reverse=True)[:MAX_GROUPS]
    sources: dict[tuple[str, str], Any] = {}
    with suppress(ResNetHubError, OSError, ValueError):  # such as a dataset that was deleted from the Hub
        for split, images in run.load_dataset().items():
            sources |= {(split, images.name(index)): (images, index) for index in range(len(images))}
    shown = []
    for group in groups:
        figures = [_show(image, sources, request) for image in group.images[:MAX_SHOWN_IMAGES]]
        keep = translate(request, "keep_first")
        shown.append({"figures": figures, "fixes": [(keep, write_fix(group.images[1:]))]})
    hidden = len(report.duplicates) - len(groups)
    return markup.render("corrections.html", request, title="duplicates", groups=shown, hidden=hidden)


def _show(image: ImageRef, sources: Mapping[tuple[str, str], Any], request: gr.Request) -> dict[str, Any]:
    """An image of a group with its class and the button to leave it out."""
    source = ""
    with suppress(ResNetHubError, OSError, ValueError, KeyError):
        images, index = sources[image.split, image.name]
        source = markup.encode_thumbnail(images, index, _SIDE)
    fixes = [(translate(request, "leave_out"), write_fix([image]))]
    return {"source": source, "caption": image.label, "fixes": fixes}


def render_mistakes(run: PageRun, evaluation: dict[str, Any], request: gr.Request) -> str:
    """The misclassified images with the highest scores; a label that is wrong can be corrected."""
    split, images = run.run_dir.evaluation_split().split, run.load_evaluation_images()
    figures = []
    for row in evaluation["worst"]:
        image = ImageRef(split, row["label"], images.name(row["index"]))
        caption = translate(request, "mistake", **row | {"score": f"{row['score']:.0%}"})
        move = translate(request, "move_to", label=markup.shorten_label(row["predicted"]))
        fixes = [(move, write_fix([image], row["predicted"])), (translate(request, "leave_out"), write_fix([image]))]
        source = markup.encode_thumbnail(images, row["index"], 320)
        figures.append({"source": source, "caption": caption, "fixes": fixes})
    groups = [{"figures": figures, "fixes": []}] if figures else []
    return markup.render("corrections.html", request, title="mistakes", groups=groups, hidden=0)
