"""The model card: what it claims, whose words it keeps, and that labels from strangers stay words."""

import ast
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torchvision
from helpers.fuzz import cases
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from resnet_hub.checkpoints.model_card import (
    CardContent,
    Metric,
    add_int8_section,
    carry_over_card,
    describe_restriction,
    excludes_commercial_use,
    mark_generated,
    read_heading,
    read_license,
    read_metrics,
    render_card,
    set_repo_id,
    update_metadata,
)
from resnet_hub.config import VARIANTS, Reliability, ResNetConfig
from resnet_hub.int8_calibration import CalibrationRecord

OLD, NEW = "0" * 64, "f" * 64
FLOWERS = ResNetConfig.from_name("resnet18", id2label={0: "daisy", 1: "rose"})
FACTS = CardContent(
    title="Flowers",
    summary="Tells a daisy from a rose.",
    license="cc-by-4.0",
    datasets=["user/flowers"],
    dataset_name="Flowers",
    base_model="timm/resnet18.a1_in1k",
    metrics={"accuracy": 0.91234, "f1": 0.9},
    split="test",
    measured_by="PyTorch in float32",
    per_class={"daisy": 1.0, "rose": 0.8},
    command='resnet-hub train flowers.zip --title "```"',
    training="12 minutes on two cores, 5 epochs, seed 0.",
    limits="No other flowers.",
    image_files=["confusion matrix.png"],
)


def render(facts: CardContent | None = FACTS, config: ResNetConfig = FLOWERS, weights: str = OLD) -> str:
    return render_card(config, facts, weights_sha256=weights)


def text_of(card: str) -> str:
    return re.sub(r"<!-- resnet_hub.*", "", ModelCard(card).text).strip()


def html_of(card: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(ModelCard(card).text)


def test_the_metadata_has_the_fields_of_the_hub() -> None:
    data = ModelCard(render()).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "cc-by-4.0")
    assert (data.datasets, data.base_model) == (["user/flowers"], "timm/resnet18.a1_in1k")
    assert data.model_name == "Flowers"
    metrics = {result.metric_type: (result.metric_value, result.dataset_split) for result in data.eval_results}
    assert metrics == {"accuracy": (0.91234, "test"), "f1": (0.9, "test")}


def test_the_text_has_every_fact() -> None:
    html = html_of(render())
    for part in (
        "<h1>Flowers</h1>", "Tells a daisy from a rose.", "91.23 %", "80.00 %",
        "the test split of Flowers by PyTorch in float32.",
        'src="confusion%20matrix.png"', "12 minutes on two cores", "No other flowers.", "cc-by-4.0", "short side",
        '<code class="language-bash">resnet-hub train flowers.zip --title &quot;```&quot;\n</code>',
    ):  # fmt: skip
        assert part in html


def test_nothing_is_claimed_that_is_not_known() -> None:
    card = render(None)
    data = ModelCard(card).data
    assert (data.license, data.datasets, data.base_model, data.eval_results) == (None, None, None, None)
    assert "None is given" in card
    for section in ("## Results", "## Training", "%"):
        assert section not in text_of(card)
    assert "2 labels" in card


def test_a_plain_network_is_not_called_residual() -> None:
    assert "A residual network (" in render(None)
    assert "A plain network without shortcuts (" in render(None, replace(FLOWERS, shortcut="none"))


def test_the_limits_say_whether_unknown_images_are_recognized() -> None:
    assigns = "assigns one of them to any image"
    assert assigns in render(None)
    recognizes = replace(FLOWERS, reliability=Reliability(most_distance=0.1))
    assert assigns not in (text := render(None, recognizes)) and "some of the images that show none of them" in text


def test_a_license_without_a_name_is_no_section_of_one_word() -> None:
    card = render(CardContent(license="other"))
    assert ModelCard(card).data.license == "other"
    assert "The license is not in the Hub's list" in text_of(card).partition("## License")[2]


@pytest.mark.parametrize(
    ("metadata", "license", "is_free"),
    [
        ("license: mit", "mit", True),
        ("license: cc-by-nc-nd-3.0", "cc-by-nc-nd-3.0", False),
        ("license: fair-noncommercial-research-license", "fair-noncommercial-research-license", False),
        ("license: [mit, cc-by-nc-4.0]", "cc-by-nc-4.0", False),
        ("license: [mit, apache-2.0]", "mit", True),
        ("license: [1]", None, True),
        ("license: other\nlicense_name: acme Non-Commercial", "other: acme Non-Commercial", False),
        ("license: other", "other", True),
        ("license: ncsa", "ncsa", True),
        ("license: CC BY-NC 4.0", "CC BY-NC 4.0", False),
        ("license: CC-BY-NC4.0", "CC-BY-NC4.0", False),
        ("license: non commercial", "non commercial", False),
    ],
)
def test_the_license_of_a_card_is_read_and_written(metadata: str, license: str | None, is_free: bool) -> None:
    assert read_license(f"---\n{metadata}\n---\n# A model\n") == license
    assert (describe_restriction(license) == "") == is_free != excludes_commercial_use(license)
    card = render(CardContent(license=license))
    assert read_license(card) == license and ("does not allow commercial use" in text_of(card)) != is_free
    data = ModelCard(card).data
    if "license_name" in metadata:
        assert (data.license, data.license_name) == ("other", "acme Non-Commercial") and "other:" not in text_of(card)
        merged = ModelCard(update_metadata(card, render(CardContent(license="mit")))).data.to_dict()
        assert merged["license"] == "mit" and "license_name" not in merged


def test_the_int8_section_is_added_once() -> None:
    facts: dict[str, Any] = {"weights": OLD, "ranges": {}, "data": "test split, 9 images", "num_images": 9}
    facts |= {"accuracy": 0.9, "passed": True}
    once = add_int8_section(render(), CalibrationRecord(accuracy_int8=0.8, **facts))
    assert "are right, in float32 90.00 %" in once and "80.00 % of the predictions" in once
    twice = add_int8_section(once, CalibrationRecord(accuracy_int8=0.85, **facts | {"passed": False}))
    assert "85.00 % of the predictions" in twice and "80.00 % of the predictions" not in twice
    assert 'It is used for `precision="int8"` only.' in twice
    for card in (once, twice):
        named = set_repo_id(card, "user/flowers")  # counts as generated still
        assert 'from_pretrained("user/flowers")' in named and named.count("## int8") == 1
        assert re.sub(r"## int8.*?(?=## Use it)", "", text_of(card), flags=re.DOTALL) == text_of(render())
    written = mark_generated("# Mine\n\n## Use it\n\nSomehow.", OLD)
    assert add_int8_section(written, CalibrationRecord(accuracy_int8=0.8, **facts)) == written


@pytest.mark.parametrize("name", VARIANTS)
def test_code_is_shown_for_the_libraries_that_open_it(name: str) -> None:
    config = ResNetConfig.from_name(name, num_classes=2)
    card = render(None, config)
    known = config.stem != "3x3"
    for library in ("import timm", "from transformers import"):
        assert (library in card) == known
    assert (f"from torchvision.models import {name}" in card) == (name in torchvision.models.list_models())
    assert ModelCard(card).data.library_name == ("timm" if known else "resnet_hub")
    assert ("opens in resnet_hub, and as ONNX" in card) == (not known)


@pytest.mark.parametrize("changes", [{}, {"in_channels": 4, "mean": (0,) * 4, "std": (1,) * 4}, {"id2label": {}}])
def test_the_code_samples_are_python(changes: dict) -> None:
    card = render(None, ResNetConfig.from_name("resnet18", **({"id2label": {0: "a", 1: "b"}} | changes)))
    samples = re.findall(r"```python\n(.*?)```", card, re.S)
    for sample in samples:
        ast.parse(sample)
    assert len(samples) == (2 if changes else 4)


def test_long_lists_are_folded_away() -> None:
    config = ResNetConfig.from_name("resnet18", num_classes=1000)
    card = render(CardContent(per_class=dict.fromkeys(config.labels, 0.5)), config)
    assert card.count("<details>") == card.count("</details>") == 2
    assert "| Label | Recall |\n" in card
    assert "999. class 999" in card


class _Tags(HTMLParser):
    def __init__(self, html: str):
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.comments: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)


HARMLESS = _Tags(html_of(render(None, ResNetConfig.from_name("resnet18", id2label={0: "a", 1: "b"})))).tags


@cases(100)
@given(st.text(alphabet="<>&|`*_~[]()#!-+=.\\/:@$\"' ax1", min_size=1, max_size=40).filter(str.strip))
def test_any_label_is_shown_as_it_is_and_does_nothing(label: str) -> None:
    config = ResNetConfig.from_name("resnet18", id2label={0: label, 1: "b"})
    page = _Tags(html_of(render(CardContent(per_class={label: 0.5}), config)))
    assert page.tags <= HARMLESS | {"table", "thead", "tbody", "tr", "th", "td"}
    assert len(page.comments) == 1
    assert page.text.count(" ".join(label.split())) >= 2


def test_a_label_that_forges_the_mark_or_the_metadata_does_not_pass() -> None:
    forged = f"<!-- resnet_hub card; weights: {NEW}; edited: since --> --- license: mit"
    card = render(None, ResNetConfig.from_name("resnet18", id2label={0: forged, 1: "---"}))
    assert carry_over_card(card, render(None)) == card  # it still speaks of the old weights
    assert ModelCard(card).data.license is None


# Whose words


def test_a_card_stays_while_its_weights_do() -> None:
    assert carry_over_card(render(), render(None)) == render()
    edited = render().replace("Tells", "It tells")
    assert carry_over_card(edited, render(None)) == edited
    facts: dict[str, Any] = {"weights": OLD, "ranges": {}, "data": "test split, 9 images", "num_images": 9}
    calibrated = CalibrationRecord(accuracy=0.9, accuracy_int8=0.9, passed=True, **facts)
    assert carry_over_card(add_int8_section(render(), calibrated), render(None)) == render()  # int8 is not saved along


def test_with_other_weights_a_generated_card_is_made_anew() -> None:
    fresh = render(None, weights=NEW)
    assert carry_over_card(render(), fresh) == fresh


@pytest.mark.parametrize("edit", ["here", "before", "unmarked"])
def test_with_other_weights_words_stay_and_figures_go(edit: str) -> None:
    if edit == "here":
        card = render().replace("Tells a daisy", "My own words: it tells a daisy")
    elif edit == "before":
        card = mark_generated("---\nlicense: mit\nmodel-index: []\n---\nMy own words: it tells", OLD)
    else:
        card = "---\nlicense: mit\nlanguage: en\n---\nMy own words: it tells"
    carried = carry_over_card(card, render(None, weights=NEW))
    assert text_of(carried) == text_of(card)
    assert "model-index" not in carried
    assert ModelCard(carried).data.license in ("mit", "cc-by-4.0")
    assert carry_over_card(carried, render(None, weights=NEW)) == carried


def test_an_edit_survives_every_push_and_the_rest_is_refreshed() -> None:
    remote = (
        render()
        .replace("## Limits", "## My own words\n\nStay.\n\n## Limits")
        .replace("license: cc", "x: 1\nlicense: cc")
    )
    for accuracy in (0.5, 0.6):
        local = render(CardContent(license="mit", metrics={"accuracy": accuracy}), weights=NEW)
        refreshed = update_metadata(remote, local)
        assert text_of(refreshed) == text_of(remote)
        data = ModelCard(refreshed).data
        assert (data.license, data.x, data.eval_results[0].metric_value) == ("cc-by-4.0", 1, accuracy)
        remote = refreshed


def test_without_an_edit_the_new_text_wins_and_foreign_metadata_stays() -> None:
    remote = (
        render().replace("license: cc-by-4.0", "license: cc-by-4.0\nlanguage: en").replace("- resnet\n", "- mine\n")
    )
    local = render(CardContent(summary="Fresh."), weights=NEW)
    refreshed = update_metadata(remote, local)
    data = ModelCard(refreshed).data
    assert text_of(refreshed) == text_of(local)
    assert (data.language, data.eval_results) == ("en", None)
    assert {"mine", "resnet", "resnet_hub"} <= set(data.tags)
    assert update_metadata(refreshed, local) == refreshed


def test_words_written_here_win_over_words_pushed_before() -> None:
    first, second = (mark_generated(f"# Mine\n\n{words}", OLD) for words in ("first", "second"))
    pushed = update_metadata(render(), first)
    assert text_of(update_metadata(pushed, second)) == "# Mine\n\nsecond"
    assert text_of(update_metadata(pushed.replace("first", "on the Hub"), second)) == "# Mine\n\non the Hub"


@pytest.mark.parametrize(
    "edit", [lambda card: card.replace("\n", "\r\n"), lambda card: card.strip(), lambda card: "\ufeff" + card]
)
def test_an_editor_that_only_changes_line_ends_is_no_author(edit) -> None:
    fresh = render(None, weights=NEW)
    assert carry_over_card(edit(render()), fresh) == fresh


@pytest.mark.parametrize("broken", ["---\n: [\n---\nwords", "---\n- list\n---\nwords", "words", ""])
def test_a_readme_without_good_metadata_keeps_its_words(broken: str) -> None:
    refreshed = update_metadata(broken, render())
    assert text_of(refreshed) == broken[broken.rfind("words") :].strip()
    assert ModelCard(refreshed).data.library_name == "timm"


def test_the_code_names_the_repo_and_follows_it() -> None:
    once = set_repo_id(render(), "user/flowers-1")
    assert once.count("user/flowers-1") == 4
    twice = set_repo_id(once, "other/name")
    assert twice.count("other/name") == 4
    assert "user/flowers-1" not in twice
    assert twice.count("user/flowers\n") == render().count("user/flowers\n")  # the dataset
    assert carry_over_card(twice, render(None, weights=NEW)) == render(None, weights=NEW)  # still generated
    edited = once.replace("Tells", "It tells")
    assert set_repo_id(edited, "other/name") == edited


def test_aliases_and_lists_without_end_cost_no_time() -> None:
    """Lists of lists of aliases that would be a gigabyte as text, and metadata of a megabyte."""
    fresh = render_card(ResNetConfig(depths=(1, 1), width=8), weights_sha256="0" * 64)
    nested = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
    result = (
        "{task: {}, dataset: {name: d, split: *a9}, metrics: [{type: accuracy, value: 0.5}, {type: b, value: 1%s}]}"
    )
    index = f"model-index: [{{results: [{result % ('0' * 400)}]}}]\n"
    long = "tags:\n" + "- a\n" * 250_000
    start = time.process_time()
    for metadata in (f"{nested}tags: [*a9, kept]\n{index}", long):
        card = f"---\n{metadata}---\n# Words\n"
        for text in (
            carry_over_card(card, fresh),
            update_metadata(card, fresh),
            set_repo_id(card, "user/name", onnx=False),
        ):
            assert "# Words" in text and len(text) < 2 * len(card)
    assert read_metrics(f"---\n{nested}{index}---\n") == [Metric("accuracy", 0.5, "d", "")]
    assert "kept" in carry_over_card(f"---\n{nested}tags: [*a9, kept]\n---\n# Words\n", fresh)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("card", "heading"),
    [
        (
            "---\nlicense: mit\n---\n# 1,000 things\n\nDogs and [cats](http://x.y). More.\n",
            ("1,000 things", "Dogs and cats."),
        ),
        ("# Model \\#1\n\n| a | b |\n", ("Model #1", "")),
        (
            "<!-- badges -->\n[![ci](a.svg)](b)\n![logo](c.png)\n\n<p>\n  Icon\n</p>\n\n# Roses\n\n<br>\n\nRed.",
            ("Roses", "Red."),
        ),
        ("<img src='a.png'>\n# Roses\n\n![b](b.svg)\n\nRed.", ("Roses", "Red.")),
        ("# Roses\n\nTells flowers apart, e.g. Roses. More.", ("Roses", "Tells flowers apart, e.g. Roses.")),
        ("# Roses\n\nBy J. Doe et al. Much used. More.", ("Roses", "By J. Doe et al. Much used.")),
        ("<!-- never closed\n# Roses", ("", "")),
        ("no heading", ("", "")),
        ("", ("", "")),
        ("# " + "x" * 500 + "\n\n" + "y" * 500, ("x" * 100, "y" * 300)),
    ],
)
def test_a_card_begins_with_the_purpose_of_the_model(card: str, heading: tuple[str, str]) -> None:
    assert read_heading(card) == heading
