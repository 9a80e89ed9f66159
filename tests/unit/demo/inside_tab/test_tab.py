"""The handlers of the Inside tab on tiny models: lesions, paths, records, and what programs send."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.page import from_browser

from resnet_hub.config import ResNetConfig
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.inside_tab import paths_markup
from resnet_hub.demo.inside_tab import tab as tab_module
from resnet_hub.demo.inside_tab.tab import InsideTab
from resnet_hub.demo.models import Models
from resnet_hub.demo.predict_tab.tab import EXAMPLES
from resnet_hub.model import ResNet

LABELS = {0: "cat", 1: "dog", 2: "<b>ship</b>"}


def chosen(*names: Any) -> Any:
    return SimpleNamespace(value=list(names))


@pytest.fixture
def inside(tmp_path: Path) -> InsideTab:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"depths": (2, 2), "width": 8, "stem": "3x3", "image_size": 32, "id2label": LABELS}
    ResNet(ResNetConfig(**settings)).save_pretrained(tmp_path / "tiny")
    ResNet(ResNetConfig(**settings, shortcut="none")).save_pretrained(tmp_path / "plain")
    return InsideTab(Models(tmp_path))


def test_a_block_is_shown_step_by_step(inside: InsideTab) -> None:
    answers = list(inside.show_block(None, "tiny", from_browser(), chosen("layer2.0")))
    assert [[bool(text) for text in answer] for answer in answers] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert len(list(inside.show_block(None, "tiny", from_browser(), chosen("stem")))) == 1


def test_blocks_that_do_not_exist_are_left_out(inside: InsideTab) -> None:
    assert list(inside.show_block(None, "tiny", from_browser(), chosen("layer9.9", 3, None))) == []
    assert list(inside.show_block(None, "tiny", from_browser(), SimpleNamespace(value="stem"))) == []  # type: ignore[arg-type]
    assert "0 of 4 blocks" in inside.switch_blocks(None, "tiny", from_browser(), chosen("layer9.9", {"a": 1}))


def test_a_lesion_shows_both_scores_and_leaves_the_model_as_it_was(inside: InsideTab) -> None:
    classifier = inside.models.get("tiny")
    before = [entry["score"] for entry in classifier(EXAMPLES[0])]
    html = inside.switch_blocks(None, "tiny", from_browser(), chosen("layer1.0", "layer2.1"))
    assert "2 of 4 blocks are off" in html and "&lt;b&gt;ship" in html and "<b>ship" not in html
    assert html.count("%") == 6
    assert [entry["score"] for entry in classifier(EXAMPLES[0])] == pytest.approx(before, abs=1e-6)


def test_a_slow_or_missing_model_gets_a_sentence(inside: InsideTab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tab_module, "MAX_MULTIPLY_ADDS", 1e3)
    too_slow = MESSAGES["en"]["inside_too_slow"].format
    info, lesion = "resnet-hub info tiny --image PHOTO", "resnet-hub reproduce lesion --model tiny --data DATA"
    answers = list(inside.show_block(None, "tiny", from_browser(), chosen("layer1.0")))
    assert len(answers) == 2 and too_slow(command=info) in answers[-1][1]
    assert too_slow(command=lesion) in inside.switch_blocks(None, "tiny", from_browser(), chosen("layer1.0"))
    (answer,) = inside.show_paths(None, "tiny", from_browser())
    assert too_slow(command="resnet-hub reproduce paths --model tiny") in answer
    for html in (
        inside.switch_blocks(None, "../etc", from_browser(), chosen()),
        *inside.show_paths(None, "../etc", from_browser()),
        next(inside.show_block(None, "../etc", from_browser(), chosen("stem")))[0],
    ):
        assert 'role="alert"' in html and "neither in the list" in html


def test_commands_name_models_that_other_machines_know(inside: InsideTab) -> None:
    names = {name: inside.models.command_name(name) for name in ("tiny", "user/repo", "../etc")}
    assert names == {"tiny": "tiny", "user/repo": "user/repo", "../etc": "MODEL"}


def test_paths_of_residual_and_plain_networks(inside: InsideTab, monkeypatch: pytest.MonkeyPatch) -> None:
    first, residual = inside.show_paths(None, "tiny", from_browser())  # the lengths at once
    assert first.startswith("<div") and "<polyline" in first and MESSAGES["en"]["inside_computing_gradient"] in first
    assert "gradient for the photo" not in first and "Computing" not in residual
    assert "gradient for the photo" in residual and "a path passes 2 on average" in residual
    (plain,) = inside.show_paths(None, "plain", from_browser())
    assert MESSAGES["en"]["inside_paths_plain_note"] in plain and "gradient for the photo" not in plain
    monkeypatch.setattr(paths_markup, "MAX_MULTIPLY_ADDS", 1e3)
    (slow,) = inside.show_paths(None, "tiny", from_browser())
    assert MESSAGES["en"]["inside_paths_slow_note"] in slow and "gradient for the photo" not in slow


def test_a_photo_that_is_gone_is_an_error_to_read(inside: InsideTab, tmp_path: Path) -> None:
    photo = {"path": str(tmp_path / "gone.jpg"), "orig_name": "gone.jpg"}
    assert 'role="alert"' in inside.switch_blocks(photo, "tiny", from_browser(), chosen())


def test_the_number_of_paths_follows_the_work() -> None:
    assert paths_markup.choose_samples(10**6, 8) == 4
    assert paths_markup.choose_samples(18 * 10**8, 8) == 4  # ResNet-18
    assert paths_markup.choose_samples(12 * 10**9, 50) == 0
