"""The plan of a run: its sizes follow from the dataset, the settings and the machine."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.data import encode_image
from helpers.hub_server import Repo
from helpers.shards import write_parquet
from PIL import Image

from resnet_hub import cli
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import DataError
from resnet_hub.model import ResNet
from resnet_hub.training import plan as plans
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.plan import plan_run
from resnet_hub.training.stream_sampler import BUFFER


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


def test_the_time_includes_the_start_the_fit_of_the_head_and_the_end(config: TrainConfig, tmp_path: Path) -> None:
    base = ResNet(ResNetConfig.from_name("resnet20", num_classes=2)).save_pretrained(tmp_path / "base")
    head = plan_run(TrainConfig(data=config.data, run=config.run, base=str(base), recipe="head"))
    forward = 1 / 3 / head.trained_per_second
    fitting = max(2 * 17 * forward, 17 / head.loaded_per_second)  # the images and their mirror images
    assert head.seconds == pytest.approx(plans._START_AND_END + fitting + 2 * 4 * forward, abs=0.1)
    tuned = plan_run(TrainConfig(data=config.data, run=config.run, base=str(base), epochs=50))
    assert tuned.seconds > plans._START_AND_END + 50 * 17 / tuned.trained_per_second


def test_a_dry_run_prints_the_plan_and_trains_nothing(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--data", config.data, "--run", config.run, "--architecture", "resnet20", "--image-size", "16"]
    assert cli.main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["base: none, random weights", "17 images of 2 classes, 4 to evaluate on"]
    assert lines[2].startswith("50 epochs of 1 steps: about ") and len(lines) == 8
    assert cli.main([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["train_images"] == 17
    assert not Path(config.run).exists()


SMALL = ("--architecture", "resnet20", "--image-size", "16")
REFUSED = {  # options, and the images of each class -> the error
    "one value a channel": (
        ("--architecture", "resnet18", "--image-size", "8", "--batch-size", "8", "--accumulate", "8"),
        (10, 10),
        "BatchNorm needs at least two values per channel: of the batch of 8, a chunk has one image",
    ),
    "precision": ((*SMALL, "--precision", "fp16"), (10, 10), "fp16 needs a GPU"),
    "tracker": ((*SMALL, "--log-to", "wandb"), (10, 10), "log_to is wandb, which is not installed"),
    "one class": (SMALL, (10,), "'0' is the only class with images"),
    "two images": (SMALL, (1, 1), "None of the 2 classes has two different images"),
    "run directory": ((*SMALL, "--run", "data"), (10, 10), "is in the run directory data"),
    "no steps": ((*SMALL, "--max-steps", "0"), (10, 10), "max_steps is 0; expected at least 1."),
    "duration": ((*SMALL, "--stop-after", "5x"), (10, 10), "'5x' is not a duration"),
    "limits": (
        (*SMALL, "--stop-after", "0", "--max-steps", "5"),
        (10, 10),
        "time_limit=0 evaluates the best model; max_steps stops without an evaluation. Set only one.",
    ),
}


@pytest.mark.parametrize(("options", "counts", "message"), REFUSED.values(), ids=REFUSED)
def test_a_dry_run_raises_the_errors_of_the_run(
    options: tuple[str, ...],
    counts: tuple[int, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for label, count in enumerate(counts):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "data" / str(label) / f"{number}.png").write_bytes(encode_image(label, number))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("resnet_hub.training.tracking.find_spec", lambda name: None)
    errors = []
    for is_dry in (True, False):
        assert cli.main(["train", "--data", "data", "--run", "run", *options, *["--dry-run"] * is_dry]) == 2
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1] and errors[0].startswith("error: ") and message in errors[0]
    assert not (tmp_path / "run" / "run.json").exists()


def test_of_several_processes_only_the_first_one_prints_the_plan(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert cli.main(["train", "--data", config.data, "--run", config.run, *SMALL, "--dry-run"]) == 0
    assert capsys.readouterr().out == ""


def test_a_sample_of_one_class_is_no_dataset_of_one(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_hub.datasets.image_stream.MAX_SAMPLED", 1)
    folder = write_parquet(tmp_path / "tables", 1, 300)
    assert plan_run(replace(config, data=str(folder))).train_images > 200
    with pytest.raises(DataError, match="is the only class with images"):
        plan_run(replace(config, data=str(folder), stream=True))


def test_tables_on_the_hub_are_planned_without_a_download(
    config: TrainConfig, tables: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    columns = {"image_column": "photo", "label_column": "kind"}
    config = replace(config, data="user/tables", subset="three", **columns)
    plan = plan_run(config)
    stored = [path.name for name in ("cache", "datasets") for path in (tmp_path / name).rglob("*")]
    assert not [name for name in stored if name.endswith((".parquet", ".arrow"))]
    splits = load_dataset("user/tables", subset="three", **columns)
    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("snapshots/**/*.parquet"))
    assert plan.dataset == 2 * size and plan.train_images == len(splits["train"]) - plan.validation_images
    prepared = plan_run(config)
    assert prepared.dataset == 0 and prepared[:8] == plan[:8]


def test_a_split_is_counted_by_the_sizes_of_its_files(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_hub.datasets.image_stream.MAX_SAMPLED", 10)
    folder = write_parquet(tmp_path / "tables", 1, 300)
    write_parquet(folder, 1, 100, split="validation", first=1000)
    plan = plan_run(replace(config, data=str(folder)))
    assert plan.train_images == 300 and 70 < plan.validation_images < 300  # the images are smaller than their rows
    assert plan.dataset == sum(path.stat().st_size for path in folder.iterdir())


def test_the_plan_of_a_stream_counts_its_buffers(config: TrainConfig, tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "tables", 2, 30)
    plan = plan_run(replace(config, data=str(folder), stream=True))
    encoded = sum(len(encode_image(number % 3, number)) for number in range(60))
    decoded = plan.validation_images * 3 * 16 * 16
    assert plan.in_memory == pytest.approx(encoded + 2 * encoded * BUFFER / 60 + decoded, rel=0.01)
    assert (plan.on_disk, plan.decoded_again, plan.dataset) == (0, 1, 0)


@pytest.mark.parametrize(("seconds", "expected"), [(1000, [4, 6, 6]), (0, [4])])
def test_steps_are_timed_in_the_precision_and_the_batch_of_the_run(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[int]
) -> None:
    resolved = replace(config, precision="bf16", batch_size=6).resolved()
    model, steps = ResNet(ResNetConfig.from_name("resnet20", image_size=16, num_classes=2)), []
    monkeypatch.setattr(plans, "_STEP_SECONDS", seconds)  # on a CPU
    model.register_forward_hook(lambda _, batches, logits: steps.append((len(batches[0]), logits.dtype)))
    assert plans._measure_steps(model, resolved, torch.device("cpu")) > 0
    assert steps == [(count, torch.bfloat16) for count in expected]
