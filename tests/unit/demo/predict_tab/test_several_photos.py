"""Several photos at once: what is refused at the door."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from helpers.page import from_browser

from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.predict_tab import several_photos
from resnet_hub.demo.predict_tab.model_picker import ModelPicker
from resnet_hub.demo.predict_tab.several_photos import SeveralPhotos


@pytest.fixture
def several(tmp_path: Path) -> SeveralPhotos:
    models = Models(tmp_path)
    return SeveralPhotos(ModelPicker(models, DefaultModels(models, "")))


@pytest.mark.parametrize("limit", ["MAX_PHOTOS", "MAX_TOTAL_BYTES"])
def test_too_many_are_refused_before_any_is_read(
    limit: str, several: SeveralPhotos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(several_photos, limit, 1)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    photos = [{"path": str(tmp_path / "a.jpg"), "orig_name": "a.jpg"}] * 2
    for language, text in {"en": "Choose fewer.", "zh": "请少选一些"}.items():
        ((gallery, alert),) = several.classify_several(photos, "tiny", from_browser(language))
        assert gallery == "" and text in alert and 'role="alert"' in alert


def test_uploads_that_are_gone_are_named(several: SeveralPhotos) -> None:
    photos = [{"path": "/gone/a.jpg", "orig_name": "a.jpg"}]
    ((_, alert),) = several.classify_several(photos, "tiny", from_browser())
    assert 'role="alert"' in alert
    assert list(several.classify_several(None, "tiny", from_browser())) == [("", "")]


@pytest.mark.parametrize(("index", "path"), [(1, "b"), (2, None), (-1, None), ("1", None)])
def test_only_a_photo_of_the_gallery_is_opened(index: Any, path: str | None, several: SeveralPhotos) -> None:
    chosen = gr.SelectData(None, {"index": index, "value": ""})
    opened = several.open_photo([{"path": "a"}, {"path": "b"}], chosen)
    assert opened == path if path else not isinstance(opened, str)
