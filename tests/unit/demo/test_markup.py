"""What the page shows of data and runs: whole, bounded, and none of it as markup of somebody else's."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.hostile import CARD
from helpers.page import from_browser
from markupsafe import escape
from PIL import Image

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.report import ClassCount, DatasetReport, Finding, UnreadableImage
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.predict_tab import prediction_markup
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Status
from resnet_hub.demo.train_tab import run_markup
from resnet_hub.errors import DataError
from resnet_hub.training.events import Epoch, Sample
from resnet_hub.training.run_dir import RunDir

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def run(tmp_path: Path) -> PageRun:
    run = PageRun("A" * 32, tmp_path)
    run.update_facts(data=EVIL)
    return run


def make_report(labels: list[str]) -> DatasetReport:
    return DatasetReport(
        labels=tuple(labels),
        classes=tuple(ClassCount("train", label, 3, 2048) for label in labels),
        sizes={},
        unreadable=(UnreadableImage("train", labels[0], EVIL, EVIL),),
        duplicates=(),
        skipped={},
        findings=(Finding("warning", "few", EVIL),),
    )


def test_a_report_escapes_names_of_files_and_classes() -> None:
    shown = run_markup.render_report(make_report([EVIL, "dog"]), from_browser())
    assert EVIL not in shown and shown.count("&lt;img src=x onerror=alert(1)&gt;") == 6
    assert "<td>dog</td><td>3</td><td>2.0 KB</td>" in shown
    many = run_markup.render_report(
        make_report([str(number) for number in range(run_markup.MAX_ROWS + 50)]), from_browser()
    )
    assert many.count("<tr>") == run_markup.MAX_ROWS + 1 + 2  # its head, and the table of the unreadable


@pytest.mark.parametrize("language", MESSAGES)
def test_the_status_of_a_run_is_in_the_language_of_its_visitor(language: str, run: PageRun) -> None:
    text, request = MESSAGES[language], from_browser(language)
    history = [Epoch(0, None, 1.0, 0.5, True, 0.1, 1.0), Epoch(1, 0.9, 1.1, 0.4, False, 0.1, 2.0)]
    shown = run_markup.render_progress(run, Status("queued", position=3), history, request)
    assert text["is_queued"].format(place=3) in shown
    assert text["best"].format(accuracy="50%", epoch=0) in shown
    for what, key in {"report": "checking", "images": "reading", "features": "features"}.items():
        event = {"event": "Preparing", "what": what, "done": 1200, "total": 4800}
        shown = run_markup.render_progress(run, Status("running", event=event), [], request)
        assert text[key].format(done="1,200", total="4,800") in shown
        assert '<progress value="1200.000" max="4800">' in shown
    failed = run_markup.render_progress(run, Status("failed", event={"event": "Failed", "reason": EVIL}), [], request)
    assert EVIL not in failed and "&lt;img" in failed


def test_a_thumbnail_is_decoded_near_its_size_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (2000, 1000)).save(tmp_path / "data" / label / "1.jpg")
    images = load_dataset(tmp_path / "data")["train"]
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr("PIL.Image.Image.thumbnail", lambda image, size: sizes.append(image.size))
    markup.encode_thumbnail(images, 0, 160)
    assert sizes == [(500, 250)]
    run = PageRun("A" * 32, tmp_path)
    monkeypatch.setattr(RunDir, "read_samples", lambda run_dir: [Sample(0, "cat", "dog", 0.5)])
    monkeypatch.setattr(PageRun, "load_validation_images", lambda run: images)
    assert "<img" in run_markup.render_samples(run, from_browser())
    shutil.rmtree(tmp_path / "data")
    assert "<img" not in run_markup.render_samples(run, from_browser())


def test_images_and_addresses_are_escaped_too(run: PageRun) -> None:
    shown = markup.render_images([(Image.new("RGBA", (4, 4)), EVIL)], from_browser(), "samples")
    assert EVIL not in shown and len(re.findall('<img src="data:image/jpeg;base64,', shown)) == 1
    assert shown.count("&lt;img") == 2 and MESSAGES["en"]["samples"] in shown
    assert markup.render_images([], from_browser()) == ""
    assert 'href="https://x/&#34;onclick"' in markup.render("pushed.html", from_browser(), url='https://x/"onclick')
    assert EVIL not in markup.render_text(EVIL, "alert") and EVIL not in markup.render_error(DataError(EVIL), None)
    assert f'href="?run={run.id}"' in run_markup.render_run_link(run, from_browser())


def test_the_facts_of_a_model_distinguish_a_crop_from_a_resize_of_both_sides() -> None:
    request = from_browser()
    cropped, squashed = (ResNetConfig.from_name("resnet18", num_classes=2, crop_mode=m) for m in ("center", "squash"))
    assert "224 × 224 pixels, 87.5% centre crop" in prediction_markup.render_model(cropped, None, request)
    html = prediction_markup.render_model(squashed, None, request)
    assert "224 × 224 pixels, both sides resized" in html and "centre crop" not in html


def test_all_labels_of_a_model_can_be_searched() -> None:
    few, many, most = (ResNetConfig(id2label=dict(enumerate([EVIL, *map(str, range(n))]))) for n in (3, 999, 5000))
    html = prediction_markup.render_model(many, None, from_browser())
    assert html.count("<option") == 1000 and '<option value="998">' in html and EVIL not in html
    assert MESSAGES["en"]["search_labels"] in html
    assert all("<option" not in prediction_markup.render_model(config, None, from_browser()) for config in (few, most))


@pytest.mark.parametrize(
    ("correct", "total", "words"),
    [
        (33, 40, "33 of 40, 83%, likely 68 to 91%"),
        (8, 8, "8 of 8, 100%, likely 68 to 100%"),
        (0, 5, "0 of 5, 0%, likely 0 to 43%"),
        (0, 0, "–"),
    ],
)
def test_an_accuracy_of_few_images_has_its_uncertainty(correct: int, total: int, words: str) -> None:
    assert run_markup.format_share(correct, total, from_browser()) == words


@pytest.mark.parametrize(
    ("error", "images", "key"),
    [(0.2, 32, "calibration_few"), (0.02, 200, "calibration_good"), (0.2, 200, "calibration_off")],
)
def test_calibration_is_described_in_a_sentence(error: float, images: int, key: str) -> None:
    for language, texts in MESSAGES.items():
        evaluation = {"calibration_error": error, "num_images": images}
        shown = run_markup.describe_calibration(evaluation, from_browser(language))
        assert shown == texts[key].format(points=f"{100 * error:.0f}")


@pytest.mark.parametrize(
    ("license", "key"),
    [
        ("Apache-2.0", "terms_free"),
        ("cc-by-nc-4.0", "terms_noncommercial"),
        (EVIL, "terms_other"),
        ("", "terms_unknown"),
    ],
)
def test_the_licence_of_the_base_is_described_in_a_sentence(license: str, key: str, run: PageRun) -> None:
    assert run_markup.render_terms(run, from_browser()) == ""  # from scratch
    run.update_facts(config={"base": "weights/tiny"})
    run.run_dir.model.mkdir(parents=True)
    card = f"---\nlicense: {json.dumps(license)}\n---\n" if license else "# A model\n"
    (run.run_dir.model / "README.md").write_text(card)
    shown = run_markup.render_terms(run, from_browser())
    assert MESSAGES["en"]["credit"].format(base="tiny") in shown and EVIL not in shown
    assert str(escape(MESSAGES["en"][key].format(license=license))) in shown


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
