"""The plan of a run: its sizes follow from the dataset, the settings and the machine."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from resnet_hub import cli
from resnet_hub.errors import DataError
from resnet_hub.training import plan as plans
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.plan import plan_run


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 256, (30, 60, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / label / f"{number}.jpg")
    (tmp_path / "data" / "b" / "bad.jpg").write_bytes(b"no image")
    settings = {"architecture": "resnet20", "image_size": 16, "epochs": 3, "batch_size": 4}
    return TrainConfig(data=str(tmp_path / "data"), run=str(tmp_path / "run"), **settings)  # type: ignore[arg-type]


def test_a_plan_has_the_sizes_of_the_images(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_run(config)
    assert (plan.train_images, plan.validation_images, plan.labels) == (17, 4, 2)
    assert (plan.epochs, plan.steps) == (3, 4)
    side = 16  # the short side of decoded images
    total = 21 * 3 * side * 2 * side
    assert (plan.in_memory, plan.on_disk, plan.decoded_again) == (total, 0, 0)
    assert plan.loaded_per_second > 1 and plan.trained_per_second > 1 and 0 < plan.seconds < 1000
    assert 1_000_000 < plan.files < 20_000_000 and not Path(config.run).exists()

    monkeypatch.setattr(plans, "measure_free_memory", lambda: total)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=plans.FREE_DISK + total // 4))
    part = plan_run(config)
    assert (part.in_memory, part.on_disk, part.decoded_again) == (total // 2, total // 4, 0.25)
    part = plan_run(replace(config, cache="none"))
    assert (part.in_memory, part.on_disk, part.decoded_again) == (0, 0, 1)
    with pytest.raises(DataError):
        plan_run(replace(config, data=config.data + "-absent"))


def test_a_dry_run_prints_the_plan_and_trains_nothing(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", config.data, "--run", config.run, "--architecture", "resnet20", "--image-size", "16"]
    assert cli.main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "17 images of 2 classes, 4 to evaluate on"
    assert lines[1].startswith("50 epochs of 1 steps: about ") and len(lines) == 6
    assert cli.main([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_images"] == 17
    assert not Path(config.run).exists()
