"""The end of a run: the saved model is calibrated on its validation images, and its card says so."""

import re
from pathlib import Path

import torch
from helpers.data import save_base, write_zip
from PIL import Image
from safetensors.torch import load_file

from resnet_hub.config import Reliability
from resnet_hub.inference.classifier import Classifier
from resnet_hub.model import ResNet
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.finalize import CONFUSION, CURVES
from resnet_hub.training.loop import train
from resnet_hub.training.run_dir import RunDir


def test_the_saved_model_is_calibrated_once(tmp_path: Path) -> None:
    data, base = write_zip(tmp_path / "colors.zip", count=40), save_base(tmp_path / "base")
    config = TrainConfig(data=str(data), base=str(base), run=str(tmp_path / "run"), recipe="head", precision="fp32")
    list(train(config))
    run = RunDir(config.run)
    model, head = ResNet.from_pretrained(run.model), load_file(run.head)
    reliability = model.config.reliability
    assert reliability != Reliability() and reliability.most_distance is not None
    ratio = head["weight"] / model.get_parameter("fc.weight").detach()
    assert not torch.allclose(ratio, torch.ones_like(ratio))
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))  # one temperature for all labels
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"Temperature scaling by {float(ratio[0, 0]):.2f}, fitted on the \d\d validation images", card)
    assert "So few images make these values rough." in card and "calibration error" not in card
    for name in (CURVES, CONFUSION):
        with Image.open(run.model / name) as plot:
            assert min(plot.size) > 300 and f"]({name})" in card
    noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    assert Classifier(model)(noise).verdict in ("sure", "not sure", "none")

    weights = (run.model / "model.safetensors").read_bytes()
    run.evaluation.unlink()  # as a run that is resumed does
    list(train(config))
    assert (run.model / "model.safetensors").read_bytes() == weights
