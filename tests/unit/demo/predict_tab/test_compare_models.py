"""Two models on one photo: what the panel says of their predictions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.data import save_base
from helpers.page import from_browser
from PIL import Image

from resnet_hub.config import Reliability
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.predict_tab.compare_models import ModelComparison
from resnet_hub.demo.predict_tab.model_picker import ModelPicker
from resnet_hub.model import ResNet


def save_model(folder: Path, label: int, threshold: float) -> None:
    """Save a model that gives every image one label, with nearly all of the score."""
    model = ResNet.from_pretrained(save_base(folder))
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.eye(2)[label] * 5)
    model.config = replace(model.config, reliability=Reliability(threshold=threshold))
    model.save_pretrained(folder)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_models_agree_only_if_both_are_sure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str) -> None:
    monkeypatch.setenv("RESNET_HUB_MODEL", "")
    monkeypatch.setenv("RESNET_HUB_BASE", "")
    for name, label, threshold in (("first", 0, 0.5), ("same", 0, 0.5), ("other", 1, 0.5), ("unsure", 0, 1.0)):
        save_model(tmp_path / "shelf" / name, label, threshold)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "photo.png")
    models = Models(tmp_path / "shelf")
    panel = ModelComparison(ModelPicker(models, DefaultModels(models, "first")))
    photo, texts = {"path": str(tmp_path / "photo.png"), "orig_name": "photo.png"}, MESSAGES[language]
    for other, said in (
        ("same", texts["models_agree"].format(label="a")),
        ("other", texts["models_differ"].format(first="a", second="b")),
        ("unsure", texts["models_unsure"]),
    ):
        shown = panel.compare(photo, "first", other, from_browser(language))
        assert f'class="verdict">{said}</p>' in shown
        assert (f"<h2>{texts['not_sure']}</h2>" in shown) == (other == "unsure")
