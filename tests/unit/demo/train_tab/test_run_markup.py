"""What the page shows of data and runs: whole, bounded, and none of it as markup of somebody else's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.page import from_browser
from markupsafe import escape
from PIL import Image

from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.report import ClassCount, DatasetReport, Finding, UnreadableImage
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.runs.run import PageRun
from resnet_hub.demo.runs.scheduler import Status
from resnet_hub.demo.train_tab import run_markup
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
    assert "<td>dog</td><td>3</td><td>2 kB</td>" in shown
    same = replace(make_report(["cat", "dog"]), sizes={"width": (160, 160, 160), "height": (213, 213, 213)})
    assert "All images have 160 × 213 pixels." in run_markup.render_report(same, from_browser())
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


def test_samples_are_shown_as_long_as_the_images_exist(
    tmp_path: Path, run: PageRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(tmp_path / "data" / label / "1.jpg")
    images = load_dataset(tmp_path / "data")["train"]
    monkeypatch.setattr(RunDir, "read_samples", lambda run_dir: [Sample(0, "cat", "dog", 0.5)])
    monkeypatch.setattr(PageRun, "load_validation_images", lambda run: images)
    assert "<img" in run_markup.render_samples(run, from_browser())
    shutil.rmtree(tmp_path / "data")
    assert "<img" not in run_markup.render_samples(run, from_browser())


def test_a_link_leads_to_the_run(run: PageRun) -> None:
    shown = run_markup.render_run_link(run, Status("running"), from_browser())
    assert f'href="?run={run.id}"' in shown and f'data-copy="?run={run.id}" data-done="Link copied"' in shown
    assert "training continues" in shown
    ended = run_markup.render_run_link(run, Status("finished"), from_browser())
    assert "training continues" not in ended and "The link brings you back" in ended


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
        ("cc-by-nc-2.0", "terms_noncommercial"),
        ("acme-noncommercial", "terms_noncommercial"),
        (EVIL, "terms_other"),
        ("", "terms_unknown"),
    ],
)
def test_the_license_of_the_base_is_described_in_a_sentence(license: str, key: str, run: PageRun) -> None:
    assert run_markup.render_terms(run, from_browser()) == ""  # from scratch
    run.update_facts(config={"base": "weights/tiny"})
    run.run_dir.model.mkdir(parents=True)
    card = f"---\nlicense: {json.dumps(license)}\n---\n" if license else "# A model\n"
    (run.run_dir.model / "README.md").write_text(card)
    shown = run_markup.render_terms(run, from_browser())
    assert MESSAGES["en"]["credit"].format(base="tiny") in shown and EVIL not in shown
    assert str(escape(MESSAGES["en"][key].format(license=license))) in shown
