"""Markup that all tabs share: images and messages, and none of it as markup of somebody else's."""

import re
from pathlib import Path

import pytest
from helpers.page import from_browser
from PIL import Image

from resnet_hub.datasets.load import load_dataset
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.errors import DataError

EVIL = "<img src=x onerror=alert(1)>"


def test_a_thumbnail_is_decoded_near_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (2000, 1000)).save(tmp_path / "data" / label / "1.jpg")
    images = load_dataset(tmp_path / "data")["train"]
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr("PIL.Image.Image.thumbnail", lambda image, size: sizes.append(image.size))
    markup.encode_thumbnail(images, 0, 160)
    assert sizes == [(500, 250)]


def test_images_and_addresses_are_escaped_too() -> None:
    shown = markup.render_images([(Image.new("RGBA", (4, 4)), EVIL)], from_browser(), "samples")
    assert EVIL not in shown and len(re.findall('<img src="data:image/jpeg;base64,', shown)) == 1
    assert shown.count("&lt;img") == 2 and MESSAGES["en"]["samples"] in shown
    assert markup.render_images([], from_browser()) == ""
    assert 'href="https://x/&#34;onclick"' in markup.render("pushed.html", from_browser(), url='https://x/"onclick')
    assert EVIL not in markup.render_text(EVIL, "alert") and EVIL not in markup.render_error(DataError(EVIL), None)
