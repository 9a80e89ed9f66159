"""What the page shows of a model: its facts, its labels, and its card as text."""

import re
from html.parser import HTMLParser

from helpers.hostile import CARD
from helpers.page import from_browser

from resnet_hub.config import ResNetConfig
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.predict_tab import prediction_markup

EVIL = "<img src=x onerror=alert(1)>"


def test_the_facts_of_a_model_distinguish_a_crop_from_a_resize_of_both_sides() -> None:
    request = from_browser()
    cropped, squashed = (ResNetConfig.from_name("resnet18", num_classes=2, crop_mode=m) for m in ("center", "squash"))
    assert "224 × 224 pixels, 87.5% center crop" in prediction_markup.render_model(cropped, None, request)
    html = prediction_markup.render_model(squashed, None, request)
    assert "224 × 224 pixels, both sides resized" in html and "center crop" not in html


def test_the_line_of_a_model_names_labels_from_all_over_its_list() -> None:
    for classes, shown in ((0, []), (1, [0]), (3, [0, 1, 2]), (5, [0, 1, 2, 3]), (1000, [0, 250, 500, 750])):
        config = ResNetConfig(id2label={index: f"kind {index}" for index in range(classes)})
        html = prediction_markup.render_summary(config, "m", "Title", "", "", from_browser())
        assert re.findall(r"kind (\d+)", html) == [str(index) for index in shown]


def test_all_labels_of_a_model_can_be_searched() -> None:
    few, many, most = (ResNetConfig(id2label=dict(enumerate([EVIL, *map(str, range(n))]))) for n in (3, 999, 5000))
    html = prediction_markup.render_model(many, None, from_browser())
    assert html.count("<option") == 1000 and '<option value="998">' in html and EVIL not in html
    assert MESSAGES["en"]["search_labels"] in html
    assert all("<option" not in prediction_markup.render_model(config, None, from_browser()) for config in (few, most))


class Tags(HTMLParser):
    """The elements of a page, with the names and values of their attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def test_a_hostile_card_is_text() -> None:
    tags = Tags(prediction_markup.render_card(CARD, from_browser("zh"))).found
    allowed = {"h1", "p", "em", "strong", "a", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"}
    assert {tag for tag, _ in tags} <= allowed
    assert {name for _, attributes in tags for name in attributes} <= {"href", "title", "target", "rel"}
    assert [attributes["href"] for tag, attributes in tags if tag == "a"] == ["https://ok.example"]
    shown = prediction_markup.render_card(CARD, from_browser("zh"))
    assert "<summary>5 个标签</summary>" in shown and "{{ 7 * 7 }}" in shown
