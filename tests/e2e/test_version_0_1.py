"""A checkpoint folder and a run directory that version 0.1 wrote open and resume with today's code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from resnet_hub.checkpoints.model_card import Metric, add_int8_section, is_generated, read_metrics, set_repo_id
from resnet_hub.checkpoints.save import CALIBRATION_FILE, CARD_FILE, WEIGHTS_FILE
from resnet_hub.inference.classifier import Classifier
from resnet_hub.int8_calibration import CalibrationRecord
from resnet_hub.model import ResNet
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Finished, Started
from resnet_hub.training.loop import train
from resnet_hub.training.run_dir import RunDir

DATA = ROOT / "tests" / "data" / "v0.1"
EXPECTED = json.loads((DATA / "expected.json").read_text())  # what version 0.1 computed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files, in which nothing of the committed ones can be changed."""
    return Path(shutil.copytree(DATA, tmp_path / "v0.1"))


def test_the_checkpoint_gives_the_same_logits() -> None:
    model = ResNet.from_pretrained(DATA / "checkpoint")
    images = torch.linspace(-2, 2, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(model(images), torch.tensor(EXPECTED["logits"]), rtol=0, atol=1e-5)
    assert model.config.labels == ["red", "green", "blue"]


def test_the_int8_calibration_is_read_and_used() -> None:
    record = CalibrationRecord.from_json((DATA / "checkpoint" / CALIBRATION_FILE).read_bytes())
    assert (record.num_images, record.passed, record.data) == (30, True, "train split, 30 pictures")
    classify = Classifier.from_pretrained(DATA / "checkpoint", device="cpu", precision="int8")
    assert {answer["label"] for answer in classify(torch.zeros(3, 20, 20).byte().permute(1, 2, 0).numpy())} == {
        "red",
        "green",
        "blue",
    }


def test_the_card_counts_as_generated_and_is_refreshed(folder: Path) -> None:
    card = (folder / "checkpoint" / CARD_FILE).read_text()
    assert is_generated(card)
    assert read_metrics(card) == [Metric("accuracy", 0.5, "colours", "test")]
    named = set_repo_id(card, "user/colours", onnx=True)
    assert 'from_pretrained("user/colours")' in named and "onnxruntime.InferenceSession" in named
    record = CalibrationRecord.from_json((folder / "checkpoint" / CALIBRATION_FILE).read_bytes())
    assert add_int8_section(named, record).count("## int8") == 1
    assert not is_generated(card.replace("sorts", "puts"))


def test_the_card_stays_with_its_weights_and_goes_with_others(folder: Path) -> None:
    model = ResNet.from_pretrained(folder / "checkpoint")
    kept = (model.save_pretrained(folder / "same") / CARD_FILE).read_text()
    assert "# Colours" in kept and "50.00 %" in kept
    assert "## int8" not in kept  # its files are not saved along
    torch.nn.init.ones_(model.fc.bias)
    fresh = (model.save_pretrained(folder / "other") / CARD_FILE).read_text()
    assert "50.00 %" not in fresh and is_generated(fresh)
    edited = (folder / "checkpoint" / CARD_FILE).read_text().replace("sorts", "puts")
    model.card = edited
    carried = (model.save_pretrained(folder / "other") / CARD_FILE).read_text()
    assert "that puts pictures into" in carried and "model-index" not in carried


def test_the_run_resumes_to_its_end(folder: Path) -> None:
    config = TrainConfig(data=str(folder / "colours.zip"), base=str(folder / "checkpoint"), run=str(folder / "run"))
    assert RunDir(folder / "run").config.epochs == 3
    events = list(train(config))
    assert isinstance(events[-1], Finished), events[-1]
    (started,) = (event for event in events if isinstance(event, Started))
    assert (started.epoch, started.epochs) == (1, 3)
    history = RunDir(folder / "run").epochs()
    assert [epoch.epoch for epoch in history] == [epoch["epoch"] for epoch in EXPECTED["history"]]
    before = [epoch for epoch in EXPECTED["history"] if epoch["epoch"] <= started.epoch]
    for epoch, expected in zip(history, before, strict=False):  # later epochs draw other crops than version 0.1 did
        assert epoch.validation_loss == pytest.approx(expected["validation_loss"], rel=1e-3)
        assert epoch.accuracy == pytest.approx(expected["accuracy"])
    assert history[-1].validation_loss < before[-1]["validation_loss"]
    card = (folder / "run" / "model" / CARD_FILE).read_text()
    assert is_generated(card) and "## Results" in card
    assert (folder / "run" / "model" / WEIGHTS_FILE).is_file()
