"""HTML and formats that several tabs share."""

import math
from base64 import b64encode
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import jinja2
from markupsafe import Markup

from resnet_hub.demo.i18n import translate, translate_error, translate_text
from resnet_hub.images.load import load_image

if TYPE_CHECKING:
    from PIL import Image

    from resnet_hub.datasets.dataset import ImageDataset

_QUALITY = 88  # of the JPEG copies in a page
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["number"] = "{:,}".format


def render(template: str, request: gr.Request, **values: Any) -> str:
    """Render a template with `values`, `t`, which translates a message, and `phrase`, for a text of the library."""
    translators = {"t": partial(translate, request), "phrase": partial(translate_text, request)}
    return TEMPLATES.get_template(template).render(values | translators)


def render_text(text: str, role: str = "") -> str:
    """A paragraph. Screen readers announce it if its role is "status" or "alert"."""
    return Markup('<p role="{1}">{0}</p>' if role else "<p>{0}</p>").format(text, role)


def render_hint(text: str) -> str:
    return Markup('<p class="hint">{}</p>').format(text)


def render_error(error: Exception, request: gr.Request) -> str:
    """The message of an error, for eyes and screen readers."""
    return render_text(translate_error(request, error), "alert")


def render_search_notice(matches: list[str] | None, request: gr.Request) -> str:
    """Says that the Hub did not respond a search for models, whose result is None then."""
    return render_text(translate(request, "search_failed"), "status") if matches is None else ""


def shorten_label(label: str) -> str:
    return label if len(label) <= 32 else f"{label[:31]}…"


def format_duration(seconds: float, request: gr.Request) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    if minutes:
        return translate(request, "minutes", minutes=f"{minutes:,}", seconds=seconds)
    return translate(request, "seconds", seconds=seconds)


def load_thumbnail(source: Any, side: int, name: str | None = None) -> "Image.Image":
    """A copy of an image with at most `side` pixels a side."""
    image = load_image(source, name=name, near=side)
    image.thumbnail((side, side))
    return image


def format_about(seconds: float, request: gr.Request) -> str:
    """An estimated time as a range of round numbers: other work on the machine makes it half as long again."""
    unit, key = (10, "about_seconds") if seconds < 50 else (60, "about_minutes")
    low = max(1, round(seconds / unit))
    high = max(low + 1, math.ceil(1.5 * seconds / unit))
    low, high = (10 * low, 10 * high) if unit == 10 else (low, high)
    return translate(request, key, low=f"{low:,}", high=f"{high:,}")


def encode_thumbnail(images: "ImageDataset", index: int, side: int) -> str:
    """A small copy of an image, as the source of an `img`."""
    return encode_jpeg(load_thumbnail(images.sources[index], side, images.name(index)))


def render_images(images: "Sequence[tuple[Image.Image, str]]", request: gr.Request, title: str = "") -> str:
    """Small images in rows, each with its caption, below the message `title`. Empty if there are none."""
    captioned = [(encode_jpeg(image), caption) for image, caption in images]
    return render("images.html", request, images=captioned, title=title)


def encode_jpeg(image: "Image.Image") -> str:
    """A copy of an image as the source of an `img`."""
    content = BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"
