"""HTML of the Predict tab: a model, its labels, and the photo under its heat map."""

import html
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.checkpoints.model_card import read_heading, read_license
from resnet_hub.demo.i18n import translate, translate_label, translate_text
from resnet_hub.demo.licenses import describe_license
from resnet_hub.demo.markup import encode_jpeg, render, shorten_label

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from PIL import Image

    from resnet_hub.config import ResNetConfig
    from resnet_hub.inference.classifier import Classifier, Prediction

_MAX_CARD = 100_000  # characters
_LABELS_IN_SUMMARY, _LABELS_IN_FACTS = 4, 5  # of a model
_LABELS_SEARCHED = 5_000  # most that the page lists for its search
_FRONT_MATTER = re.compile(r"\A\s*---\s*\n.*?\n---\s*(\n|\Z)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_DETAILS = re.compile("<p>&lt;details&gt;&lt;summary&gt;([^<>]*)&lt;/summary&gt;</p>")  # as Markdown shows it
_VERDICTS = {"not sure": "not_sure", "none": "none_of_these"}  # messages


def render_summary(config: "ResNetConfig", model: str, title: str, card: str, query: str, request: gr.Request) -> str:
    """A model's title, purpose, license and size.

    Args:
        config: Its config.
        model: Its name in calls, which the live camera sends.
        title: Its name on the page, for a model whose card has no heading.
        card: Its model card.
        query: The query of a link that opens the page with this model; "" for the run of a visitor, whose id is secret.
        request: The request, for its language.
    """
    count = min(_LABELS_IN_SUMMARY, config.num_classes)  # from all over the list: neighbors are alike
    labels = [name_label(config.labels[i * config.num_classes // count], request) for i in range(count)]
    some, license = translate(request, "comma").join(labels), read_license(card)
    heading = read_heading(card[:_MAX_CARD]).title
    key = "purpose_many" if config.num_classes > _LABELS_IN_SUMMARY else "purpose"
    return render(
        "summary.html",
        request,
        model=model,
        title=translate_text(request, heading) if query and heading else title,
        purpose=translate(request, key, count=f"{config.num_classes:,}", some=some),
        license=describe_license(license, request),
        parameters=f"{config.num_parameters / 1e6:,.1f}",
        query=query,
    )


def render_model(config: "ResNetConfig", url: str | None, request: gr.Request) -> str:
    """The facts of a model, with a link to its page on the Hub if it has a `url`."""
    labels = ", ".join(map(shorten_label, config.labels[:_LABELS_IN_FACTS]))
    limits = {"labels_shown": _LABELS_IN_FACTS, "labels_searched": _LABELS_SEARCHED}
    return render("model.html", request, config=config, url=url, labels=labels, **limits)


def render_card(card: str, request: gr.Request) -> str:
    """A model card as HTML. Strangers write cards: no image is loaded; HTML, except folded parts, is text."""
    text = _COMMENT.sub("", _FRONT_MATTER.sub("", card[:_MAX_CARD], count=1)).strip()
    if not text:
        return f"<p>{html.escape(translate(request, 'no_card'))}</p>"
    markdown, environment = _get_markdown(), dict[str, Any]()
    tokens = markdown.parse(text, environment)
    for opening, heading in pairwise(tokens):
        if opening.type in ("heading_open", "th_open") and heading.children and len(heading.children) == 1:
            heading.children[0].content = translate_text(request, heading.content)
    shown = str(markdown.renderer.render(tokens, markdown.options, environment))
    folded = _DETAILS.sub(lambda match: f"<details><summary>{translate_text(request, match[1])}</summary>", shown)
    return folded.replace("<p>&lt;/details&gt;</p>", "</details>")


@cache
def _get_markdown() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")

    def show_alternative_text(_: Any, tokens: "Sequence[Token]", index: int, *__: Any) -> str:
        return f"<em>{html.escape(tokens[index].content)}</em>" if tokens[index].content else ""

    def open_in_new_tab(renderer: Any, tokens: "Sequence[Token]", index: int, options: Any, env: Any) -> str:
        tokens[index].attrSet("target", "_blank")
        tokens[index].attrSet("rel", "noopener nofollow")
        return str(renderer.renderToken(tokens, index, options, env))

    markdown.add_render_rule("image", show_alternative_text)
    markdown.add_render_rule("link_open", open_in_new_tab)
    return markdown


def name_label(label: str, request: gr.Request) -> str:
    """A label in the visitor's language, short enough for a caption."""
    return shorten_label(translate_label(request, label))


def describe_verdict(verdict: str, request: gr.Request) -> str:
    """The verdict of a prediction in words; empty if the model is sure."""
    return translate(request, _VERDICTS[verdict]) if verdict in _VERDICTS else ""


def describe_time(seconds: float, classifier: "Classifier", title: str, request: gr.Request) -> str:
    """The time that a prediction took, and what computed it."""
    device = f"{classifier.device.type.upper()} ({classifier.engine}, {classifier.precision})"
    return translate(request, "took", time=f"{seconds * 1000:.0f} ms", device=device, model=title)


def render_prediction(top: "Prediction", took: str, request: gr.Request, *, is_live: bool = False) -> str:
    """The most likely labels with bars, below the first one or a doubtful verdict, and the time taken.

    The labels are buttons, for their heat maps, unless the prediction `is_live`: one of many, or beside another.
    """
    rows = [entry | {"name": translate_label(request, entry["label"])} for entry in top]
    verdict = describe_verdict(top.verdict, request)
    return render("prediction.html", request, rows=rows, verdict=verdict, took=took, is_live=is_live)


def render_why(photo: "Image.Image", heat_map: "Image.Image", label: str, request: gr.Request) -> str:
    """A photo under the heat map of a label, with a slider for the strength of the heat map."""
    name = name_label(label, request)
    photo = photo.resize(heat_map.size) if photo.size != heat_map.size else photo
    return render("why.html", request, photo=encode_jpeg(photo), heat=encode_jpeg(heat_map), label=name)
