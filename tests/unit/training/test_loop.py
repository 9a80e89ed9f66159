"""Training runs: their events and files, their options, and that interruptions do not change the weights."""

import copy
import errno
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.data import NAMED, write_tables, zip_files
from helpers.hub_server import Repo
from helpers.shards import write_parquet
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_hub import cli
from resnet_hub.checkpoints.model_card import read_license
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.report import DatasetReport, create_report
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.images.load import load_image
from resnet_hub.inference.classifier import Classifier
from resnet_hub.model import ResNet
from resnet_hub.training.augmentation import preview_augmentation
from resnet_hub.training.config import RECIPES, Phase, ResolvedTrainConfig, TrainConfig
from resnet_hub.training.events import (
    Checked,
    Epoch,
    Event,
    Failed,
    Finished,
    OutOfMemory,
    Preparing,
    Progress,
    Started,
    Stopped,
)
from resnet_hub.training.finalize import is_finalized
from resnet_hub.training.loop import Trainer, train
from resnet_hub.training.optimizer import update_average
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.schedule import image_size
from resnet_hub.training.stochastic_depth import add_stochastic_depth
from resnet_hub.training.train_step import TrainStep, compute_loss

KILLS = int(os.environ.get("RESNET_HUB_KILLS", "4"))  # of each optimizer
COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noisy colors, 24 images each: learned in a few steps, not at once."""
    folder, noise = tmp_path_factory.mktemp("colors"), np.random.default_rng(0)
    for label, color in COLORS.items():
        (folder / label).mkdir()
        for number in range(24):
            pixels = np.clip(noise.normal(color, 90, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number:02}.png")
    return folder


def create_config(colors: Path, run: Path) -> TrainConfig:
    settings: dict[str, Any] = {"architecture": "resnet20", "image_size": 16, "epochs": 2, "batch_size": 16}
    return TrainConfig(data=str(colors), run=str(run), precision="fp32", checkpoint_seconds=0, **settings)


@pytest.fixture
def config(colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setattr("resnet_hub.training.events.PROGRESS_SECONDS", 0.0)  # an event per step, and per image
    monkeypatch.setattr("resnet_hub.evaluation.plots.DPI", 20)  # of plots that nobody looks at
    return create_config(colors, tmp_path / "run")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with random weights: its features are good enough to tell colors apart."""
    torch.manual_seed(0)
    config = ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=16, crop_pct=1.0, id2label={0: "a", 1: "b"})
    folder = tmp_path_factory.mktemp("base") / "model"
    ResNet(config).save_pretrained(folder)
    return folder


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def skip_to_started(events: Iterator[Event]) -> Started:
    return next(event for event in events if isinstance(event, Started))


def set_up(config: ResolvedTrainConfig, run: RunDir) -> Trainer:
    trainer = Trainer(config, run)
    list(trainer.set_up())
    return trainer


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(RunDir(config.run).model / "model.safetensors")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# -- events, files and options -----------------------------------------------------------------------------------------


def test_a_run_yields_events_and_saves_a_model_that_loads(config: TrainConfig) -> None:
    events = list(train(config))
    (started,) = [event for event in events if isinstance(event, Started)]
    assert started.labels == ["blue", "green", "red"]
    assert (started.train_images, started.validation_images) == (57, 15)
    assert set(kinds(events)) == {"Checked", "Started", "Preparing", "Progress", "Epoch", "Saved", "Finished"}
    finished = events[-1]
    assert isinstance(finished, Finished)
    model = ResNet.from_pretrained(finished.model)
    assert model.config.labels == ["blue", "green", "red"]
    assert model.config.image_size == 16
    history = RunDir(config.run).epochs()
    assert history == [event for event in events if isinstance(event, Epoch)]
    assert [event.epoch for event in history] == [1, 2]
    assert finished.accuracy == max(event.accuracy or 0 for event in history)


def test_progress_counts_steps_and_the_rate_follows_its_schedule(config: TrainConfig) -> None:
    steps = [event for event in train(replace(config, warmup=0.5)) if isinstance(event, Progress)]
    assert [(event.epoch, event.step) for event in steps] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    rates = [event.learning_rate for event in steps]
    assert rates[0] == 0 and max(rates) == rates[3] == pytest.approx(RECIPES["modern"]["learning_rate"])
    assert all(event.images_per_second > 0 and event.steps == 3 for event in steps)


def test_the_paper_divides_the_rate_by_ten_twice(config: TrainConfig) -> None:
    paper = replace(config, recipe="paper", epochs=4, select="last")
    rates = [event.learning_rate for event in train(paper) if isinstance(event, Progress)]
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 3 + [0.001] * 3)


def test_training_learns(config: TrainConfig) -> None:
    finished = list(train(replace(config, epochs=8, learning_rate=0.1, augmentation="none")))[-1]
    assert isinstance(finished, Finished) and finished.accuracy >= 0.8


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(config: TrainConfig, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        list(train(replace(config, run=str(tmp_path / name), seed=seed)))
    one, same, other = (weights(replace(config, run=str(tmp_path / name))) for name in ("one", "same", "other"))
    assert equal(one, same)
    assert not equal(one, other)


def test_invalid_settings_raise_before_the_run_starts(config: TrainConfig, tmp_path: Path) -> None:
    for name, (value, message) in {
        "epochs": (-1, "epochs is -1"),
        "recipe": ("magic", "Unknown recipe 'magic'"),
        "batch_size": (0, "batch_size is 0"),
        "label_smoothing": (2.0, "label_smoothing is 2.0"),
    }.items():
        with pytest.raises(TrainingError, match=message):
            list(train(replace(config, **{name: value})))
    for alone in ({"recipe": "head"}, {"frozen_norm": True}, {"frozen_stages": 1}):
        with pytest.raises(TrainingError, match="name one as base"):
            list(train(replace(config, **alone)))
    with pytest.raises(DataError):
        list(train(replace(config, data=str(tmp_path / "nowhere"))))
    gray = ResNetConfig(depths=(1,), width=8, stem="3x3", in_channels=1, mean=(0.5,), std=(0.5,), id2label={0: "a"})
    ResNet(gray).save_pretrained(tmp_path / "gray")
    with pytest.raises(TrainingError, match="gray takes 1 channels, images have 3"):
        list(train(replace(config, base=str(tmp_path / "gray"), architecture="resnet18")))
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        list(train(replace(config, precision="fp16")))
    assert not RunDir(config.run).folder.exists()
    Path(config.run).write_text("a file in its place")
    with pytest.raises(TrainingError, match="Cannot write the run"):
        list(train(config))


def test_a_failed_start_does_not_affect_a_later_one(config: TrainConfig) -> None:
    """A start that failed leaves the split of other settings in the directory."""
    for seed in (1, 0):
        skip_to_started(train(replace(config, seed=seed)))
        RunDir(config.run).settings.unlink()
    split = RunDir(config.run).split.read_text()
    shutil.rmtree(config.run)
    skip_to_started(train(config))
    assert RunDir(config.run).split.read_text() == split


def test_every_option_reaches_the_weights(config: TrainConfig, tmp_path: Path) -> None:
    """Each setting changes the weights."""
    changes: list[dict[str, Any]] = [
        {},
        {"label_smoothing": 0.1},
        {"mixup": 0.5},
        {"cutmix": 1.0},
        {"erasing": 1.0},
        {"augmentation": "crop"},
        {"augmentation": "none"},
        {"augmentation": "crop", "first_size": 8},
        {"first_size": 8},
        {"augmentation": "crop", "crop_size": 8},
        {"crop_size": 8},
        {"crop_pct": 0.5},
        {"ema": 0.0},
        {"clip": 0.01},
        {"momentum": 0.5},
        {"optimizer": "adamw", "nesterov": False, "learning_rate": 1e-3},
        {"nesterov": False},
        {"weight_decay": 0.1},
        {"warmup": 0.0},
        {"schedule": "constant"},
        {"balance": "sampling"},
    ]
    trained = []
    for index, change in enumerate(changes):
        run = replace(config, run=str(tmp_path / str(index)), epochs=1, select="last", checkpoint_seconds=60, **change)
        *_, last = train(run, phase="train")  # its evaluation would take longer than the training
        assert isinstance(last, Stopped) and last.trained, change
        trained.append(weights(run)["layer1.0.conv1.weight"])
    for index, change in enumerate(changes[1:], start=1):
        assert not torch.equal(trained[0], trained[index]), change


def test_images_grow_over_the_epochs_up_to_the_size_of_the_network(config: TrainConfig) -> None:
    config = replace(config, image_size=48, first_size=16, epochs=7, crop_pct=1.0)
    assert [image_size(16, 48, epoch, 7) for epoch in range(7)] == [16, 16, 16, 32, 32, 48, 48]
    assert {image_size(None, 48, epoch, 7) for epoch in range(7)} == {48}
    assert isinstance(list(train(replace(config, epochs=3)))[-1], Finished)
    kept = ResNet.from_pretrained(RunDir(config.run).model).config
    assert (kept.image_size, kept.crop_pct) == (48, 1.0)


def test_a_fine_tuned_model_sees_more_pixels_than_its_crops_had(config: TrainConfig, tmp_path: Path) -> None:
    labels = {0: "a", 1: "b"}
    ResNet(ResNetConfig(depths=(1, 1), width=8, image_size=96, id2label=labels)).save_pretrained(tmp_path / "larger")
    config = TrainConfig(data=config.data, base=str(tmp_path / "larger"), run=config.run, epochs=1)
    assert isinstance(list(train(config))[-1], Finished)
    recorded = RunDir(config.run).config
    assert (recorded.image_size, recorded.crop_size) == (144, 96)
    assert ResNet.from_pretrained(RunDir(config.run).model).config.image_size == 144
    assert isinstance(list(train(replace(config, data="", base=None)))[-1], Finished)  # finished already


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of the compiler
def test_compiled_steps_give_the_same_weights_and_a_missing_compiler_a_message(
    config: TrainConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, base=str(base), architecture="resnet18", epochs=1, select="last")
    compiled = replace(config, run=str(tmp_path / "compiled"), compile=True)
    assert isinstance(list(train(config))[-1], Finished)
    assert isinstance(list(train(compiled))[-1], Finished)
    for key, value in weights(config).items():
        torch.testing.assert_close(weights(compiled)[key], value, rtol=1e-3, atol=1e-4)

    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.fx_graph_cache", False)
    monkeypatch.setattr("torch._functorch.config.enable_autograd_cache", False)
    *_, last = train(replace(compiled, run=str(tmp_path / "none"), image_size=24))
    assert isinstance(last, Failed)
    assert "without compile" in last.reason


@pytest.mark.parametrize("select", ["last", "accuracy"])
def test_a_model_with_infinite_weights_is_not_saved(
    config: TrainConfig, select: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_epoch = Trainer._end_epoch

    def spoil_weights(trainer: Trainer) -> Epoch:
        if trainer.position.epoch == 1:
            for model in (trainer.state.model, trainer.state.evaluated_model):
                torch.nn.init.constant_(model.get_parameter("fc.bias"), torch.nan)
        return end_epoch(trainer)

    monkeypatch.setattr(Trainer, "_end_epoch", spoil_weights)
    *_, last = train(replace(config, epochs=3, select=select))
    assert isinstance(last, Failed) and "The loss became nan in epoch 2" in last.reason
    assert all(value.isfinite().all() for value in weights(config).values())
    assert [epoch.epoch for epoch in RunDir(config.run).epochs()] == [1]


def test_the_card_of_a_stopped_run_is_not_that_of_the_base(config: TrainConfig, tmp_path: Path) -> None:
    base = tmp_path / "base"
    written = "# Ships\n\nFinds ships, 93% of them."
    written = f"---\nlicense: cc-by-nc-4.0\n---\n\n{written}"
    ResNet(ResNetConfig.from_name("resnet20", id2label={0: "ship", 1: "sea"})).save_pretrained(base, card=written)
    run = RunDir(config.run)
    for event in train(replace(config, base=str(base), architecture="resnet18", recipe="finetune", epochs=50)):
        if isinstance(event, Progress):
            run.stop.touch()
    assert isinstance(event, Stopped)
    card = (run.model / "README.md").read_text()
    assert "ships" not in card and read_license(card) == "cc-by-nc-4.0"


def test_balancing_samples_rare_classes_more_often(config: TrainConfig, colors: Path, tmp_path: Path) -> None:
    rare = tmp_path / "rare"
    for label, count in (("blue", 20), ("red", 4)):
        (rare / label).mkdir(parents=True)
        for file in sorted((colors / label).iterdir())[:count]:
            (rare / label / file.name).write_bytes(file.read_bytes())
    rare_config = replace(config, data=str(rare), epochs=1).resolved()
    trainer = set_up(rare_config, RunDir(config.run))
    assert trainer.class_weights[1] / trainer.class_weights[0] == pytest.approx(16 / 3)
    balanced = replace(config, data=str(rare), balance="sampling", batch_size=8).resolved()
    trainer = set_up(balanced, RunDir(config.run))
    drawn = torch.cat([trainer.targets[trainer.sampler.shuffle(epoch)] for epoch in range(20)])
    assert 0.4 < float(drawn.float().mean()) < 0.6


def test_accumulated_steps_give_the_weights_of_whole_batches(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    """The BatchNorm statistics are those of the base; otherwise they would differ with the batch."""
    whole = replace(
        config, base=str(base), architecture="resnet18", image_size=None, select="last", balance="loss", mixup=0.2
    )
    parts = replace(whole, run=str(tmp_path / "parts"), accumulate=3)
    for run in (whole, parts):
        assert isinstance(list(train(run))[-1], Finished)
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[key], value, rtol=1e-4, atol=1e-5)
    for one, other in zip(RunDir(whole.run).epochs()[1:], RunDir(parts.run).epochs()[1:], strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-4)


def test_samples_are_predictions_of_the_saved_model(config: TrainConfig) -> None:
    finished = list(train(replace(config, select="last")))[-1]
    assert isinstance(finished, Finished)
    run = RunDir(config.run)
    samples = run.read_samples()
    assert [sample.label for sample in samples] == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2
    held_out = load_dataset(config.data)["train"].subset(run.read_split().validation)
    classify = Classifier.from_pretrained(finished.model)
    for sample in samples:
        (best,) = classify(held_out.sources[sample.image_index], top_k=1)
        assert best["label"] == sample.predicted and best["score"] == pytest.approx(sample.score, abs=1e-5)
        assert held_out.labels[held_out.targets[sample.image_index]] == sample.label
    assert RunDir(config.run + "-absent").read_samples() == []


def test_the_preview_shows_the_images_of_training(config: TrainConfig, base: Path) -> None:
    images = load_dataset(config.data)["train"].subset(range(8))
    plain = preview_augmentation(replace(config, augmentation="none"), images)
    for image, path in zip(plain, images.sources, strict=True):
        assert image.size == (16, 16)
        np.testing.assert_allclose(np.asarray(image), np.asarray(Image.open(path)), atol=1)
    for change in (
        {},
        {"mixup": 1.0},
        {"erasing": 1.0},
        {"base": str(base), "architecture": "resnet18", "image_size": 24},
    ):
        drawn = preview_augmentation(replace(config, **change), images)
        assert all(
            np.asarray(one).tobytes() != np.asarray(two).tobytes() for one, two in zip(drawn, plain, strict=True)
        )
        assert drawn[0].size == (change.get("image_size", 16),) * 2
    (cut,) = preview_augmentation(
        replace(config, augmentation="none", image_size=12, crop_pct=0.75), images.subset([0])
    )
    np.testing.assert_allclose(np.asarray(cut), np.asarray(Image.open(images.sources[0]))[2:14, 2:14], atol=1)


def test_select_chooses_the_saved_epoch_and_patience_ends_a_run(
    config: TrainConfig, base: Path, tmp_path: Path
) -> None:
    last = list(train(replace(config, epochs=3, select="last", run=str(tmp_path / "last"))))[-1]
    assert isinstance(last, Finished) and last.epoch == 3
    by_loss = replace(config, epochs=3, select="loss", run=str(tmp_path / "loss"))
    finished = list(train(by_loss))[-1]
    history = RunDir(by_loss.run).epochs()
    assert isinstance(finished, Finished)
    assert finished.epoch == min(history, key=lambda event: event.validation_loss or math.inf).epoch
    still = replace(
        config, base=str(base), architecture="resnet18", image_size=None, epochs=20, learning_rate=0.0, patience=1
    )
    events = list(train(replace(still, run=str(tmp_path / "still"))))
    assert [event.epoch for event in events if isinstance(event, Epoch)] == [0, 1]


# -- from a base ---------------------------------------------------------------------------------------------------


def test_a_head_is_fitted_to_the_base(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    first = replace(config, base=str(base), architecture="resnet18", recipe="head", epochs=None, image_size=None)
    events = list(train(first))
    assert [event.epoch for event in events if isinstance(event, Epoch)] == [0]
    assert isinstance(events[-1], Finished) and events[-1].accuracy > 0.7
    assert any(isinstance(event, Preparing) and event.what == "features" for event in events)
    body = {key: value for key, value in weights(first).items() if not key.startswith("fc.")}
    kept = {key: value for key, value in load_file(base / "model.safetensors").items() if not key.startswith("fc.")}
    assert equal(body, kept)

    again = replace(first, run=str(tmp_path / "again"))
    list(train(again))
    assert equal(weights(first), weights(again))


def test_finetuning_starts_from_the_fitted_head(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    events = list(train(replace(config, base=str(base), architecture="resnet18", image_size=None, select="last")))
    assert [event.epoch for event in events if isinstance(event, Epoch)] == [0, 1, 2]
    body, kept = weights(config), load_file(base / "model.safetensors")
    assert not torch.equal(body["conv1.weight"], kept["conv1.weight"])
    assert torch.equal(body["layer2.0.bn1.running_mean"], kept["layer2.0.bn1.running_mean"])
    assert RECIPES["finetune"]["frozen_norm"]

    part = replace(config, base=str(base), architecture="resnet18", image_size=None, run=str(tmp_path / "part"))
    list(train(replace(part, frozen_stages=2, frozen_norm=False, select="last")))
    body = weights(part)
    frozen = [key for key in kept if key.startswith(("conv1.", "bn1.", "layer1."))]
    assert all(torch.equal(body[key], kept[key]) for key in frozen)
    assert not torch.equal(body["layer2.0.conv1.weight"], kept["layer2.0.conv1.weight"])
    assert not torch.equal(body["layer2.0.bn1.running_mean"], kept["layer2.0.bn1.running_mean"])


def test_the_card_states_the_license_of_the_base_and_keeps_edits(
    config: TrainConfig, base: Path, tmp_path: Path
) -> None:
    licensed = tmp_path / "licensed"
    shutil.copytree(base, licensed)
    card = "---\nlicense: cc-by-nc-4.0\n---\n\n# Base\n"
    (licensed / "README.md").write_text(card)
    head = replace(config, base=str(licensed), architecture="resnet18", recipe="head", epochs=None, image_size=None)
    list(train(head))
    path = RunDir(config.run).model / "README.md"
    text = path.read_text()
    assert "It started from the weights of licensed, whose card states the license: cc-by-nc-4.0." in text
    assert "\nlicense: cc-by-nc-4.0\n" in text
    path.write_text(text + "\nMy own words.\n")
    assert isinstance(list(train(head))[-1], Finished)
    assert "My own words." in path.read_text()


def test_a_finished_run_is_known_by_the_digest_of_its_weights(config: TrainConfig, tmp_path: Path) -> None:
    list(train(replace(config, epochs=1)))
    run = RunDir(config.run)
    card = run.model / "README.md"
    card.write_text(card.read_text() + "\nMy own words.\n")
    for path in run.model.iterdir():  # as after a copy that keeps no times
        os.utime(path, (time.time() + 100,) * 2)
    assert is_finalized(run)
    list(train(TrainConfig(data="", run=config.run)))
    assert "My own words." in card.read_text()
    evaluation = json.loads(run.evaluation.read_text())
    for content, expected in (
        (evaluation | {"weights_sha256": "0" * 64}, False),
        ({key: value for key, value in evaluation.items() if key != "weights_sha256"}, True),  # of an older version
        ([], False),
    ):
        run.evaluation.write_text(json.dumps(content))
        assert is_finalized(run) is expected
    run.evaluation.unlink()
    assert not is_finalized(run)


def change_pixel(path: Path) -> None:
    with Image.open(path) as image:
        changed = image.convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(path)


def swap_images(path: Path) -> None:
    other = path.with_name("05.png")
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def replace_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("change", [change_pixel, swap_images, replace_bytes])
def test_a_resumed_run_notices_that_images_were_replaced(
    change: Callable[[Path], None], config: TrainConfig, colors: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(colors, tmp_path / "data")
    config = replace(config, data=str(data))
    skip_to_started(train(config))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "data")
    original = (data / "red/07.png").read_bytes()
    change(data / "red/07.png")
    with pytest.raises(DataError, match=r"changed since the run began: other images are in train\. Restore them, or"):
        list(train(config))
    change(data / "red/07.png")
    if (data / "red/07.png").read_bytes() == original:
        skip_to_started(train(config))
    shutil.rmtree(data)
    skip_to_started(train(replace(config, data=archive)))  # moved, and in a ZIP now


def test_a_run_can_stop_before_its_first_step(
    config: TrainConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = replace(config, base=str(base), architecture="resnet18", recipe="head", epochs=None, image_size=None)
    monkeypatch.setattr("resnet_hub.training.linear_probe._BATCH", 32)  # two batches
    phases: dict[str, Phase] = {"report": "all", "images": "prepare", "features": "all"}
    for what, phase in phases.items():
        events = []
        for event in train(replace(head, run=str(tmp_path / what)), phase=phase):
            events.append(event)
            if isinstance(event, Preparing) and event.what == what:
                RunDir(tmp_path / what).stop.touch()
        assert isinstance(events[-1], Stopped), what
        assert [event.done for event in events[:-1] if isinstance(event, Preparing) and event.what == what][1:] == []
        assert isinstance(list(train(replace(head, run=str(tmp_path / what))))[-1], Finished)


def test_the_card_names_the_images_of_the_evaluation(config: TrainConfig) -> None:
    list(train(config))
    card = (RunDir(config.run).model / "README.md").read_text()
    assert re.search(r"Evaluated on 15 images of the 20% held out split of colors\d+ by PyTorch in float32\. ", card)
    assert "The epoch to keep was chosen on the same images" in card
    rows = re.findall(r"^\| (\w+) \| [\d.]+ % \| (\d+) \| (\d+) \|$", card, re.MULTILINE)
    assert rows == [(label, "19", "5") for label in COLORS]


@pytest.mark.parametrize("names", [("train", "test"), ("train", "validation", "test")])
def test_the_epoch_is_not_chosen_on_the_test_split(
    names: tuple[str, ...], config: TrainConfig, colors: Path, tmp_path: Path
) -> None:
    for path in sorted(colors.rglob("*.png")):
        number = int(path.stem)
        split = "test" if number < 4 else names[1] if number < 9 else "train"
        target = tmp_path / "data" / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    splits = {name: len(images) for name, images in load_dataset(tmp_path / "data").items()}
    config = replace(config, data=str(tmp_path / "data"))
    for select in ("accuracy", "last"):
        run = RunDir(tmp_path / select)
        started = skip_to_started(train(replace(config, run=str(run.folder), select=select)))
        finished = list(train(replace(config, run=str(run.folder), select=select)))[-1]
        assert isinstance(finished, Finished)
        evaluation = json.loads(run.evaluation.read_text())
        assert evaluation["num_images"] == splits["test"]
        card = (run.model / "README.md").read_text()
        assert f"{splits['test']} images of the test split" in card and "epoch to keep was chosen" not in card
        if "validation" in names or select == "last":  # no epoch is chosen on the test split: no image is held out
            assert started.train_images == splits["train"]
        else:
            assert started.train_images + started.validation_images == splits["train"]
            assert started.split == "20% held out"


def test_a_matching_report_is_not_created_again(
    config: TrainConfig, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(colors, tmp_path / "data")
    config = replace(config, data=str(data))
    (data / "red" / "23.png").write_bytes(b"no image")
    report, run = create_report(load_dataset(data)), RunDir(config.run)
    inspected: list[object] = []

    def iterate_report(splits: object) -> Generator[tuple[int, int], None, DatasetReport]:
        inspected.append(splits)
        yield 1, 72
        return report

    monkeypatch.setattr("resnet_hub.training.split.iterate_report", iterate_report)
    run.folder.mkdir()
    run.report.write_text(report.to_json())
    started = skip_to_started(train(config))
    assert started.train_images + started.validation_images == 71 and not inspected
    for number, text in enumerate(("no report", replace(report, labels=("a", "b", "c")).to_json())):
        other = RunDir(tmp_path / str(number))
        other.folder.mkdir()
        other.report.write_text(text)
        list(train(replace(config, run=str(other.folder))))
        assert len(inspected) == number + 1


# -- interruptions -----------------------------------------------------------------------------------------------------


def test_a_stopped_run_resumes_to_the_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    unbroken = replace(config, run=str(tmp_path / "unbroken"))
    list(train(unbroken))
    events: list[Event] = []
    for event in train(config):
        events.append(event)
        if isinstance(event, Progress) and event.epoch == 1 and event.step == 2:
            RunDir(config.run).stop.touch()
    assert isinstance(events[-1], Stopped) and (events[-1].epoch, events[-1].step) == (0, 3)
    state = RunDir(config.run).state
    with safe_open(state, "pt") as file:  # with the names of states that older versions saved
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        position = file.metadata()
    assert any(key.endswith(".momentum_buffer") for key in tensors)
    older = {re.sub(r"^optimizer\.(\d+)\.momentum_buffer$", r"momentum.\1", key): tensors[key] for key in tensors}
    save_file(older, state, metadata=position)
    more = list(train(config))
    assert isinstance(more[-1], Finished)
    assert equal(weights(config), weights(unbroken))


def test_workers_and_the_cache_do_not_change_the_weights(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = replace(config, image_size=24, augmentation="crop", erasing=0.5, mixup=0.2)
    choices: list[dict[str, Any]] = [
        {"workers": 1, "cache": "none"},
        {"workers": 3, "cache": "memory"},
        {"workers": 2, "cache": "disk"},
        {"cache": "auto"},
    ]
    for number, choice in enumerate(choices):
        run = replace(mixed, run=str(tmp_path / str(number)), **choice)
        on_disk = False
        for event in train(run):
            on_disk = on_disk or (isinstance(event, Epoch) and (RunDir(run.run).images / "pixels").exists())
        assert isinstance(event, Finished)
        assert on_disk == (choice["cache"] == "disk") and not RunDir(run.run).images.exists()
    assert all(equal(weights(run), weights(replace(mixed, run=str(tmp_path / str(n))))) for n in range(3))

    # resumed with other workers and another cache; what the disk has no space for is decoded again
    for event in train(replace(mixed, cache="disk", workers=1)):
        if isinstance(event, Progress) and (event.epoch, event.step) == (1, 2):
            RunDir(config.run).stop.touch()
    assert isinstance(event, Stopped) and (RunDir(config.run).images / "pixels").exists()
    monkeypatch.setattr("resnet_hub.training.image_cache.FREE_DISK", 2**60)
    assert isinstance(list(train(replace(mixed, workers=4)))[-1], Finished)
    assert RunDir(config.run).config.workers == 4 and RunDir(config.run).config.cache == "disk"
    assert equal(weights(config), weights(run))


@pytest.mark.parametrize(
    ("data", "run", "message"),
    [
        ("data", "data", "is in the run directory"),
        ("data", "data/../data/", "is in the run directory"),
        ("data", "link", "is in the run directory"),
        ("data/images", "data", "is in the run directory"),
        ("data", "data/red", "is a folder of the dataset"),
        ("data", "data/notes", "is a folder of the dataset"),
    ],
)
def test_a_run_is_not_written_among_its_images(
    data: str, run: str, message: str, config: TrainConfig, colors: Path, tmp_path: Path
) -> None:
    shutil.copytree(colors, tmp_path / "data")
    shutil.copytree(colors / "red", tmp_path / "data" / "images" / "red")
    (tmp_path / "data" / "notes").mkdir()
    (tmp_path / "data" / "notes" / "a.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TrainingError, match=message):
        next(train(replace(config, data=f"{tmp_path}/{data}", run=f"{tmp_path}/{run}")))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_inside_its_dataset_is_left_out_and_resumes(config: TrainConfig, colors: Path, tmp_path: Path) -> None:
    data = shutil.copytree(colors, tmp_path / "data")
    (data / "empty").mkdir()
    for run in ("run", "runs/deep", "empty"):
        inside = replace(config, data=str(data), run=str(data / run))
        assert isinstance(list(train(inside, max_steps=2))[-1], Stopped)
        first, *_, last = train(inside)
        assert isinstance(first, Started) and isinstance(last, Finished), last
        assert (first.labels, first.epoch) == (["blue", "green", "red"], 0)


def test_a_sample_of_a_large_dataset_is_checked_and_unreadable_images_are_replaced_later(
    config: TrainConfig, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(colors, tmp_path / "data")
    monkeypatch.setattr("resnet_hub.training.split.MAX_CHECKED", 30)
    checked = np.random.default_rng(0).choice(72, 30, replace=False)
    later, without_header = [index for index in range(72) if index not in checked][:2]
    images = load_dataset(data)["train"]
    content = images.read(later)
    Path(images.sources[later]).write_bytes(content[:-20])
    Path(images.sources[without_header]).write_bytes(b"no image")
    config = replace(config, data=str(data), validation=0.5, select="last")
    run = RunDir(config.run)
    events = list(train(config, max_steps=1))
    (checked_first,) = (event for event in events if isinstance(event, Checked))
    assert checked_first.unreadable == 1
    assert f"sample could not be read and stayed unused: {images.name(without_header)}." in str(checked_first.findings)
    split = run.read_split()
    assert len(split.validation) == 30
    assert sorted([*split.train, *split.validation]) == [index for index in range(72) if index != without_header]
    *_, checked_last, finished = train(config)
    assert isinstance(finished, Finished) and isinstance(checked_last, Checked)
    assert (finished.unreadable, checked_last.unreadable) == (2, 2)
    message = f"1 image of the training could not be read and stayed unused: {images.name(later)}."
    assert checked_last.findings[0]["message"] == message
    assert "2 images (unreadable)" in (run.model / "README.md").read_text(encoding="utf-8")


def test_a_head_is_fitted_to_a_large_zip_with_an_unreadable_image(
    config: TrainConfig, colors: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is not in the sample that is checked; in a ZIP, reading it as bytes fails too."""
    monkeypatch.setattr("resnet_hub.training.split.MAX_CHECKED", 30)
    checked = np.random.default_rng(0).choice(72, 30, replace=False)
    unchecked = next(index for index in range(72) if index not in checked)
    names = [f"{label}/{number:02}.png" for label in COLORS for number in range(24)]
    data = zip_files(tmp_path / "data.zip", {name: (colors / name).read_bytes() for name in names})
    damage_in_zip(data, (colors / names[unchecked]).read_bytes())
    head = replace(config, data=str(data), base=str(base), architecture="resnet18", recipe="head", select="last")
    *_, finished = train(replace(head, epochs=None, image_size=None))
    assert isinstance(finished, Finished) and finished.unreadable == 1


def damage_in_zip(path: Path, content: bytes) -> None:
    """Change a byte of a file stored in a ZIP, so that its checksum is wrong."""
    archive = bytearray(path.read_bytes())
    archive[archive.index(content) + len(content) // 2] ^= 255
    path.write_bytes(archive)


def test_the_first_image_may_be_unreadable(config: TrainConfig, colors: Path, tmp_path: Path) -> None:
    names = [f"{label}/{number:02}.png" for label in COLORS for number in range(24)]
    data = zip_files(tmp_path / "data.zip", {name: (colors / name).read_bytes() for name in names})
    damage_in_zip(data, (colors / names[0]).read_bytes())
    list(train(replace(config, data=str(data)), max_steps=1))
    *_, finished = train(replace(config, data=str(data)))  # the digests of the split are compared
    assert isinstance(finished, Finished) and finished.unreadable == 1


def test_a_table_may_mix_paths_and_bytes(config: TrainConfig, colors: Path, tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    (tmp_path / "data").mkdir()
    files = [colors / label / f"{number:02}.png" for label in COLORS for number in range(24)]
    rows = [{"bytes": path.read_bytes(), "path": None} for path in files]
    for number, (row, path) in enumerate(zip(rows, files, strict=True)):
        if number % 2 == 0:
            shutil.copy(path, tmp_path / "data" / f"{number}.png")
            row |= {"bytes": None, "path": str(tmp_path / "data" / f"{number}.png")}
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(COLORS))})
    table = Dataset.from_dict({"image": rows, "label": [n // 24 for n in range(72)]}, features=features)
    table.to_parquet(tmp_path / "data" / "train.parquet")
    *_, stopped = train(replace(config, data=str(tmp_path / "data")), max_steps=1)
    assert isinstance(stopped, Stopped)


@pytest.mark.parametrize("with_base", [True, False])
def test_a_run_stops_after_its_steps_without_an_evaluation_and_resumes(
    config: TrainConfig, base: Path, tmp_path: Path, with_base: bool
) -> None:
    """Of a base, the fitted head is evaluated: with a rate that ruins the weights it stays the best, also resumed."""
    if with_base:
        config = replace(config, base=str(base), architecture="resnet18", image_size=None, learning_rate=1.0, clip=0.0)
    unbroken = replace(config, run=str(tmp_path / "unbroken"))
    list(train(unbroken))
    first = [0] if with_base else []
    for steps, position, epochs in ((2, (0, 2), first), (2, (0, 2), []), (3, (0, 3), []), (4, (1, 1), [1])):  # of six
        events = list(train(config, max_steps=steps))
        assert events[-1] == Stopped(*position, is_at_limit=True)
        assert [event.epoch for event in events if isinstance(event, Epoch)] == epochs
    assert not RunDir(config.run).evaluation.exists()
    assert isinstance(list(train(config, max_steps=1000))[-1], Finished)
    assert equal(weights(config), weights(unbroken))
    with pytest.raises(TrainingError, match="max_steps is 0"):
        list(train(config, max_steps=0))


def test_the_phase_evaluate_takes_no_step(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for event in train(replace(config, epochs=9)):
        if isinstance(event, Epoch):
            RunDir(config.run).stop.touch()
    state = RunDir(config.run).state.read_bytes()
    monkeypatch.setattr(TrainStep, "run", None)  # such as one that does not fit into memory
    events = list(train(replace(config, epochs=9), phase="evaluate"))
    assert kinds(events) == ["Started", "TimeUp", "Finished"]
    card = (RunDir(config.run).model / "README.md").read_text()
    assert re.search(r"\d epochs? of 9 in", card) and RunDir(config.run).state.read_bytes() == state


def test_a_run_resumes_after_data_and_base_have_moved(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    tuned = replace(config, base=str(base), architecture="resnet18", image_size=None)
    unbroken = replace(tuned, run=str(tmp_path / "unbroken"))
    list(train(unbroken))
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(config.data, old / "colors")
    shutil.copytree(base, old / "base")
    moved = replace(tuned, data=str(old / "colors"), base=str(old / "base"))
    for event in train(moved):
        if isinstance(event, Progress):
            RunDir(config.run).stop.touch()
    with pytest.raises(TrainingError, match=r"has data .*, not"):
        list(train(replace(moved, data=str(new / "colors"))))
    old.rename(new)
    with pytest.raises(TrainingError, match=r"The data of the run, .*colors, is gone; name its new path as data"):
        list(train(replace(moved, data="")))
    with pytest.raises(DataError):
        list(train(moved))
    again = replace(moved, data=str(new / "colors"), base=str(new / "base"))
    assert isinstance(list(train(again))[-1], Finished)
    assert (RunDir(config.run).config.data, RunDir(config.run).config.base) == (again.data, again.base)
    assert equal(weights(config), weights(unbroken))
    other = shutil.copytree(new / "colors", tmp_path / "other")
    (other / "red" / "00.png").unlink()
    shutil.rmtree(new)
    with pytest.raises(DataError, match="changed since the run began"):
        list(train(replace(again, data=str(other))))


def test_a_run_resumes_after_its_base_has_left_the_shelf(
    config: TrainConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, "weights/resnet18-tiny-imagenet")
    tuned = replace(config, base="weights/resnet18-tiny-imagenet", architecture="resnet18", image_size=None)
    unbroken = replace(tuned, run=str(tmp_path / "unbroken"))
    list(train(unbroken))
    for event in train(tuned):
        if isinstance(event, Progress):
            RunDir(config.run).stop.touch()
    assert isinstance(event, Stopped)
    shutil.rmtree("weights")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the Hub cannot be reached
    assert isinstance(list(train(TrainConfig(data="", run=config.run)))[-1], Finished)
    assert equal(weights(config), weights(unbroken))
    card = (RunDir(config.run).model / "README.md").read_text()
    assert "It started from the weights of resnet18-tiny-imagenet." in card and "base_model" not in card


@pytest.mark.parametrize("labels", [["a", "b"], ["blue", "green", "red"]])
def test_a_run_stopped_before_its_first_evaluation_resumes_without_its_base(
    config: TrainConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ResNet.from_pretrained(base)
    model.reset_head(labels)
    model.save_pretrained("weights/tiny", card="---\nlicense: cc-by-nc-4.0\n---\n\n# Base\n")
    tuned = replace(config, base="weights/tiny", architecture="resnet18", image_size=None, epochs=1)
    list(train(replace(tuned, run=str(tmp_path / "unbroken"))))
    *_, last = train(tuned, phase="prepare")
    assert isinstance(last, Stopped) and not RunDir(config.run).state.exists()
    shutil.rmtree("weights")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the Hub cannot be reached
    *_, last = train(TrainConfig(data="", run=config.run))
    assert isinstance(last, Finished), last
    assert equal(weights(config), weights(replace(config, run=str(tmp_path / "unbroken"))))
    card = (RunDir(config.run).model / "README.md").read_text()
    assert "\nlicense: cc-by-nc-4.0\n" in card and "weights of tiny, whose card states the license" in card


@pytest.mark.parametrize("with_base", [True, False])
def test_a_run_in_phases_ends_with_the_weights_of_an_uninterrupted_one(
    config: TrainConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_base: bool
) -> None:
    if with_base:
        config = replace(config, base=str(base), architecture="resnet18", image_size=None)
    unbroken = replace(config, run=str(tmp_path / "unbroken"))
    list(train(unbroken))
    monkeypatch.setattr("resnet_hub.training.linear_probe._BATCH", 32)  # two batches
    run, kind = RunDir(config.run), "images"
    first = list(train(config, phase="prepare"))
    names = kinds([event for event in first if not (isinstance(event, Preparing) and event.what == "report")])
    assert names == ["Started", "Checked", "Preparing", "Preparing", "Stopped"] and not run.state.exists()
    calls = 0
    while True:
        events = list(train(config, phase="train", time_limit=1e-9))  # one batch of features, or one step
        calls += 1
        assert not any(isinstance(event, Preparing) and event.what == kind for event in events)
        assert isinstance(events[-1], Stopped) and not any(isinstance(event, Finished) for event in events)
        if events[-1].trained:
            break
        assert run.features.exists() == (with_base and calls == 1)
    assert calls >= 6 and not run.evaluation.exists()
    last = list(train(config))
    assert kinds(last) == ["Started", "Finished"]
    assert equal(weights(config), weights(unbroken)) and run.evaluation.exists()
    assert not run.images.exists() and not run.features.exists()


def test_a_run_at_its_time_limit_is_evaluated_and_resumes_to_the_same_weights(
    config: TrainConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = replace(config, run=str(tmp_path / "unbroken"), epochs=3)
    list(train(unbroken))
    config = replace(config, epochs=3)
    run = RunDir(config.run)
    names: list[str] = []
    for step in range(1, 9):  # of nine, three an epoch: a step each time
        events = list(train(config, time_limit=1e-9))
        names += kinds(events)
        assert kinds(events)[-2:] == ["Epoch", "Finished"] if step < 3 else kinds(events)[-1] == "Finished"
        assert "TimeUp" in kinds(events) and "Stopped" not in kinds(events)
        finished, history = events[-1], run.epochs()
        assert isinstance(finished, Finished)
        assert history[-1].epoch == step // 3 and history[-1].accuracy is not None
        evaluation = json.loads(run.evaluation.read_text())
        assert evaluation["accuracy"] == pytest.approx(finished.accuracy)
        card = (run.model / "README.md").read_text()
        assert re.search(
            rf"{step // 3} epochs? of 3 in .* the weights kept are those of epoch {finished.epoch}\.", card
        )
    assert names.count("Finished") == names.count("TimeUp") == 8
    *_, last = train(config, time_limit=1000)
    assert isinstance(last, Finished) and equal(weights(config), weights(unbroken))
    assert run.epochs()[1:] == [
        event._replace(seconds=resumed.seconds)
        for event, resumed in zip(RunDir(unbroken.run).epochs(), run.epochs()[1:], strict=True)
    ]
    assert "3 epochs in" in (run.model / "README.md").read_text()

    based = replace(config, architecture="resnet18", base=str(base), run=str(tmp_path / "based"))
    events = list(train(based, time_limit=1e-9))  # the head is fitted nevertheless
    assert [event.epoch for event in RunDir(based.run).epochs()] == [0] and kinds(events)[-1] == "Finished"
    stopped = train(replace(config, run=str(tmp_path / "stopped")), time_limit=1e-9)
    for event in stopped:  # a run that is asked to stop is not evaluated
        if isinstance(event, Preparing):
            RunDir(tmp_path / "stopped").stop.touch()
    assert isinstance(event, Stopped)


def test_a_resumed_run_reads_the_same_commit_of_a_hub_dataset(
    config: TrainConfig, tables: Repo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = tables.refs["main"]
    config = replace(config, data="user/tables", data_revision="main", checkpoint_seconds=3600, **NAMED)
    events = train(config)
    next(event for event in events if isinstance(event, Progress))
    events.close()  # type: ignore[attr-defined]
    assert vars(RunDir(config.run).config) == vars(replace(config.resolved(), data_revision=commit))
    tables.commit("main", write_tables(tmp_path / "later", 2), "Nearly nothing")
    *_, last = train(config)  # the same command
    assert isinstance(last, Finished), last
    words = ["evaluate", last.model, "--data", "user/tables", "--image-column", "photo", "--label-column", "kind"]
    assert cli.main([*words, "--subset", "three", "--data-revision", commit, "--split", "train[:-1]"]) == 0
    assert capsys.readouterr().out.startswith("35 images of the split train[:-1]")
    assert cli.main([*words, "--subset", "two"]) == 0
    assert "no images of blue" in (said := capsys.readouterr().out) and said.startswith("4 images of the split train")
    with pytest.raises(TrainingError, match=f"has data_revision '{commit}', not '{tables.refs['main']}'"):
        list(train(replace(config, data_revision=tables.refs["main"])))
    with pytest.raises(TrainingError, match="has subset 'three', not 'two'"):
        list(train(replace(config, subset="two")))


def test_closing_the_generator_saves_the_training_state(config: TrainConfig, tmp_path: Path) -> None:
    adamw = {"optimizer": "adamw", "nesterov": False, "learning_rate": 1e-3}
    config = replace(config, checkpoint_seconds=3600, select="last", **adamw)
    unbroken = replace(config, run=str(tmp_path / "unbroken"))
    list(train(unbroken))
    running = train(config)
    for event in running:
        if isinstance(event, Progress) and event.epoch == 2:
            break
    running.close()
    started, *_ = more = list(train(config))
    assert isinstance(started, Started) and started.epoch == 1 and isinstance(more[-1], Finished)
    assert equal(weights(config), weights(unbroken))


_RUNNER = """
import dataclasses, json, os, signal, sys, time
from resnet_hub import cli
from resnet_hub.training import events
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.loop import train
events.PROGRESS_SECONDS = 0.0
# all that a run imports, before it is forked
import accelerate, datasets
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
        for event in train(TrainConfig(**request["config"])):
            pass
        os._exit(0)
    if request["seconds"] is not None:
        time.sleep(request["seconds"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def runner() -> Iterator[Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _RUNNER], env=environment, **pipes) as runner:
        yield runner
        assert runner.stdin
        runner.stdin.close()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    optimizer: Literal["sgd", "adamw"], config: TrainConfig, runner: Any, tmp_path: Path
) -> None:
    chosen: dict[str, Any] = {"learning_rate": 1e-3, "nesterov": False} if optimizer == "adamw" else {}
    config = replace(config, optimizer=optimizer, epochs=10, **chosen)

    def request(config: TrainConfig, seconds: float | None) -> int:
        runner.stdin.write(json.dumps({"config": vars(config), "seconds": seconds}) + "\n")
        runner.stdin.flush()
        return int(runner.stdout.readline())

    moments = random.Random(0)
    unbroken, killed = (replace(config, run=str(tmp_path / name)) for name in ("unbroken", "killed"))
    start = time.monotonic()
    assert request(unbroken, None) == 0
    length = time.monotonic() - start
    kills = 0
    for _ in range(KILLS):
        kills += request(killed, moments.uniform(0.03, 0.15) * length) == -signal.SIGKILL
        if RunDir(killed.run).model.exists():  # the saved model is complete at every moment
            ResNet.from_pretrained(RunDir(killed.run).model)
    assert request(killed, None) == 0
    assert kills >= 0.75 * KILLS
    assert equal(weights(unbroken), weights(killed))
    assert [event[:5] for event in RunDir(unbroken.run).epochs()] == [
        event[:5] for event in RunDir(killed.run).epochs()
    ]


def test_one_call_trains_in_a_run_directory(config: TrainConfig) -> None:
    first = train(config)
    assert any(isinstance(event, Progress) for event in first)  # suspended after a step
    with pytest.raises(TrainingError, match=f"in use by process {os.getpid()} on host {socket.gethostname()}"):
        next(iter(train(config)))
    assert isinstance(list(train(config, force_unlock=True))[-1], Finished)
    finished = weights(config)
    first.close()  # it may not write its state over that of the other
    assert equal(finished, weights(config)) and isinstance(list(train(config))[-1], Finished)


def test_an_infinite_loss_fails_and_keeps_the_last_state(config: TrainConfig) -> None:
    list(train(config))
    good = weights(config)
    facts = json.loads(RunDir(config.run).settings.read_text())
    facts |= {"epochs": 40, "learning_rate": 100.0, "schedule": "constant", "weight_decay": 1.0}
    RunDir(config.run).settings.write_text(json.dumps(facts))
    events = list(train(TrainConfig(data="", run=config.run)))
    assert isinstance(events[-1], Failed) and "learning_rate" in events[-1].reason
    assert all(value.isfinite().all() for value in weights(config).values() if value.is_floating_point())
    assert good.keys() == weights(config).keys()


def test_a_full_disk_fails_and_keeps_the_last_state(config: TrainConfig) -> None:
    """A limit on the file size simulates the disk."""
    list(train(replace(config, epochs=1)))
    script = f"""
import resource
from resnet_hub.training.loop import train
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.run_dir import RunDir
run = RunDir({config.run!r})
size = run.state.stat().st_size
facts = run.settings.read_text()
run.settings.write_text(facts.replace('"epochs": 1', '"epochs": 2'))
for event in train(TrainConfig(data="", run={config.run!r})):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
print(event)
"""
    before = RunDir(config.run).state.read_bytes()
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Failed(reason='The disk of" in result.stdout and "the last training state is kept" in result.stdout
    assert RunDir(config.run).state.read_bytes() == before


def test_a_disk_that_is_full_before_the_first_state_leaves_nothing_to_resume(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("resnet_hub.training.state.TrainingState.save", fail)
    words = ["train", "--data", config.data, "--architecture", "resnet20", "--image-size", "16", "--epochs", "1"]
    assert cli.main(words) == 2
    folder = Path("runs") / Path(config.data).name
    assert f"error: The disk of {folder} is full; free some space and start again.\n" in capsys.readouterr().err
    assert not folder.exists()


def test_a_test_split_that_vanishes_is_named(config: TrainConfig, colors: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        shutil.copytree(colors, tmp_path / "data" / split)
    run = train(replace(config, data=str(tmp_path / "data"), epochs=1))
    skip_to_started(run)
    shutil.rmtree(tmp_path / "data" / "test")
    *_, last = run
    assert isinstance(last, Failed)
    assert last.reason.startswith("None of the 72 images (test) can be read. Cannot read test/blue/00.png:")


def test_a_damaged_state_fails_with_its_path(config: TrainConfig) -> None:
    list(train(config))
    RunDir(config.run).state.write_bytes(b"no state")
    events = list(train(config))
    assert isinstance(events[-1], Failed) and "state.safetensors" in events[-1].reason


# -- precision and processes -------------------------------------------------------------------------------------------


def test_half_precision_gives_nearly_the_same_loss(config: TrainConfig, tmp_path: Path) -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        run = replace(config, run=str(tmp_path / precision), precision=precision, epochs=1, learning_rate=0.01)
        assert isinstance(list(train(run))[-1], Finished)
        assert all(value.dtype in (torch.float32, torch.int64) for value in weights(run).values())
        losses.append(RunDir(run.run).epochs()[0].train_loss)
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_the_saved_model_is_evaluated_in_float32(config: TrainConfig) -> None:
    run = replace(config, precision="bf16", epochs=1, learning_rate=0.01, ema=0.0)
    finished = list(train(run))[-1]
    held_out = load_dataset(run.data)["train"].subset(RunDir(run.run).read_split().validation)
    assert isinstance(finished, Finished)
    images = torch.from_numpy(np.stack([load_image(path) for path in held_out.sources])).permute(0, 3, 1, 2) / 255
    model = ResNet.from_pretrained(finished.model).eval().requires_grad_(False)
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.config.mean, model.config.std))
    loss = torch.nn.functional.cross_entropy(model((images - mean) / std), torch.from_numpy(held_out.targets))
    assert finished.loss == pytest.approx(float(loss), rel=1e-5)


def test_a3_resumes_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    """LAMB counts its steps outside of what other optimizers save."""
    whole = replace(config, run=str(tmp_path / "whole"), recipe="a3", crop_size=16, crop_pct=1.0)
    list(train(whole))
    for steps in (1, 4, None):
        list(train(replace(whole, run=config.run), max_steps=steps))
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(config).items())
    resolved = whole.resolved()
    assert (resolved.optimizer, resolved.loss, resolved.rand_augment, resolved.cutmix) == ("lamb", "binary", 6, 1)


def test_binary_loss_counts_both_classes_of_a_mixed_image(config: TrainConfig) -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([[0.7, 0.3, 0], [0, 0.9, 0.1], [1, 0, 0], [0, 0.5, 0.5]])
    present = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1]])
    scores = logits.sigmoid()
    expected = -torch.where(present > 0, scores, 1 - scores).log().mean()
    found = compute_loss(logits, targets, None, replace(config, loss="binary").resolved())
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_the_learning_rate_falls_on_plateaus(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.training.loop._PLATEAU", 2)
    monkeypatch.setattr("resnet_hub.training.validation_set.ValidationSet.evaluate", lambda *_: (1.0, 0.5))
    paper = replace(config, recipe="paper-imagenet", epochs=6)
    list(train(paper, max_steps=13))
    rates = [event.learning_rate for event in train(paper) if isinstance(event, Progress)]
    history = [event.learning_rate for event in RunDir(config.run).epochs()]
    assert history == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert rates[-1] == pytest.approx(0.001)


def test_stochastic_depth_skips_blocks_in_training_only_and_resumes(config: TrainConfig, tmp_path: Path) -> None:
    model = ResNet(ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=16, id2label={0: "a", 1: "b"}))
    images, names = torch.randn(200, 3, 16, 16), set(model.state_dict())
    expected = model.eval()(images)
    add_stochastic_depth(model, 0.5)
    assert torch.equal(model(images), expected) and set(model.state_dict()) == names
    skipped: list[torch.Tensor] = []
    for block in (model.layer1[0], model.layer2[0]):
        block.bn2.register_forward_hook(lambda _, __, residual: skipped.append((residual == 0).flatten(1).all(1)))
    model.train()(images)
    assert [float(rows.float().mean()) for rows in skipped] == pytest.approx([0.25, 0.5], abs=0.12)

    whole = replace(config, run=str(tmp_path / "whole"), stochastic_depth=0.5)
    list(train(whole))
    for steps in (1, 4, None):
        list(train(replace(whole, run=config.run), max_steps=steps))
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(config).items())
    plain = replace(config, run=str(tmp_path / "plain"))
    list(train(plain))
    assert not torch.equal(weights(plain)["conv1.weight"], weights(whole)["conv1.weight"])


def test_losses_and_metrics_go_to_tensorboard(config: TrainConfig) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    list(train(replace(config, log_to="tensorboard"), max_steps=1))
    history = [event for event in train(replace(config, log_to="tensorboard")) if isinstance(event, Epoch)]
    found: dict[str, list[tuple[int, float]]] = {}
    for folder in {path.parent for path in Path(config.run, "logs").rglob("events.out.*")}:
        reader = EventAccumulator(str(folder)).Reload()
        for name in reader.Tags()["scalars"]:
            found.setdefault(name, []).extend((one.step, one.value) for one in reader.Scalars(name))
    assert [value for _, value in sorted(found["accuracy"])] == pytest.approx([event.accuracy for event in history])
    assert len(found["loss"]) == 2 * found["accuracy"][0][0] and found["loss"][0][0] == 1
    assert str(config.data) not in "".join(path.read_text() for path in Path(config.run, "logs").rglob("hparams.yml"))


class CountingMode(TorchDispatchMode):
    """Counts the values that are read from tensors, for which a step would wait on a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"clip": 1.0, "optimizer": "adamw", "nesterov": False}])
def test_steps_read_no_value_from_the_device(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr("resnet_hub.training.events.PROGRESS_SECONDS", 3600)
    steps, epoch = [], Trainer._train_epoch

    def count_values(self: Trainer, loading: Any) -> Any:
        events = []
        with CountingMode() as mode:
            events = list(epoch(self, loading))
        steps.append((self.position.step, mode.count))
        yield from events
        return False

    monkeypatch.setattr(Trainer, "_train_epoch", count_values)
    assert isinstance(list(train(replace(config, checkpoint_seconds=3600, **settings)))[-1], Finished)
    assert [count for _, count in steps] == [1, 1] and min(step for step, _ in steps) > 2  # the loss of the epoch


def test_the_average_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    model = ResNet(ResNetConfig(depths=(1,), width=4, stem="3x3", image_size=8, id2label={0: "a", 1: "b"}))

    def average(old: torch.Tensor, new: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        return old.lerp(new, 1 - min(0.9, (1 + int(count)) / (10 + int(count)))) if old.is_floating_point() else new

    ours, theirs = copy.deepcopy(model), torch.optim.swa_utils.AveragedModel(model, avg_fn=average, use_buffers=True)
    for count in range(4):
        model(torch.randn(2, 3, 8, 8)).sum().backward()
        torch.nn.init.normal_(model.conv1.weight)
        update_average(ours, model, 0.9, count)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("keeps_norm", [True, False])
def test_a_step_that_does_not_fit_is_repeated_in_smaller_parts(
    config: TrainConfig, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_norm: bool
) -> None:
    start = replace(config, epochs=1, select="last")
    if keeps_norm:  # that of the base
        start = replace(start, base=str(base), architecture="resnet18", image_size=None)
    whole = replace(start, run=str(tmp_path / "whole"))
    list(train(whole))
    cross_entropy, sizes = torch.nn.functional.cross_entropy, []

    def fit_four(logits: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        if "label_smoothing" in options and logits.requires_grad:  # of a step
            sizes.append(len(logits))
            if len(logits) > 4:
                raise full
        return cross_entropy(logits, *arguments, **options)

    monkeypatch.setattr("resnet_hub.training.train_step.F.cross_entropy", fit_four)
    full: Exception = torch.OutOfMemoryError("CUDA out of memory.")
    events = list(train(start, max_steps=2))
    assert [event for event in events if isinstance(event, OutOfMemory)] == [
        OutOfMemory(2, keeps_norm),
        OutOfMemory(4, keeps_norm),
    ]
    full = AssertionError("a resumed run begins with the parts that fit")
    assert isinstance(list(train(start))[-1], Finished) and sizes[-1] == 4
    if keeps_norm:
        for name, value in weights(whole).items():
            torch.testing.assert_close(weights(start)[name], value, rtol=1e-4, atol=1e-5)
    in_parts = replace(start, run=str(tmp_path / "parts"), accumulate=4)
    list(train(in_parts))
    assert equal(weights(start), weights(in_parts))  # with BatchNorm's statistics, which the errors did not move


def test_only_forward_and_backward_are_repeated(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainStep, "_update_weights", Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory.")))
    events = list(train(config))
    assert isinstance(events[-1], Failed) and not any(isinstance(event, OutOfMemory) for event in events)


@pytest.mark.parametrize("reason", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "MPS backend out of memory (MPS"])
def test_an_evaluation_that_does_not_fit_is_done_in_parts(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    whole = replace(config, run=str(tmp_path / "whole"), epochs=1)
    expected = [event.validation_loss for event in train(whole) if isinstance(event, Epoch)]
    forward = ResNet.forward

    def fit_three(model: ResNet, images: torch.Tensor) -> torch.Tensor:
        if not model.training and len(images) > 3:
            raise RuntimeError(reason)
        return forward(model, images)

    with monkeypatch.context() as full:
        full.setattr(ResNet, "forward", fit_three)
        events = list(train(replace(config, epochs=1), max_steps=10, phase="train"))
    assert [event.validation_loss for event in events if isinstance(event, Epoch)] == pytest.approx(expected)


def test_a_step_of_one_image_that_does_not_fit_fails(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(TrainStep, "_add_gradients", fail)
    events = list(train(config))
    assert [event.parts for event in events if isinstance(event, OutOfMemory)] == [2, 4, 8, 16]
    assert isinstance(events[-1], Failed) and "does not fit into memory" in events[-1].reason


def launch_two(arguments: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Runs a program in two processes that compute together on CPUs, as `accelerate launch` does."""
    # `--cpu` would silently start one process; with `--multi_gpu` and no GPU there are two, on gloo.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    launch += ["--log_dir", str(folder / "logs"), "--tee", "3", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [sys.executable, *launch], env=environment, capture_output=True, text=True, timeout=500, check=False
    )


_TOGETHER = """
import json, os, runpy, sys
from pathlib import Path
import torch
from resnet_hub.training import loader, validation_set
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.loop import train
folder, load_image, decoded = Path(sys.argv[1]), loader.load_image, []
evaluate, buffers = validation_set.ValidationSet.evaluate, []
def evaluate_and_note(self, model):
    result = evaluate(self, model)
    buffers[:] = [float(buffer.double().sum()) for buffer in model.buffers()]
    return result
validation_set.ValidationSet.evaluate = evaluate_and_note
loader.load_image = lambda *arguments, **named: (decoded.append(named["name"]), load_image(*arguments, **named))[1]
sys.argv[1:] = json.loads((folder / "words.json").read_text())
try:  # first: the command itself starts the group of processes
    runpy.run_module("resnet_hub", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
for name in ("images", "stream"):
    decoded.clear()
    buffers.clear()
    for event in train(TrainConfig(**json.loads((folder / f"{name}.json").read_text()))):
        pass
    backend = torch.distributed.distributed_c10d._get_default_group()._get_backend(torch.device("cpu"))
    noted = {"last": type(event).__name__, "decoded": decoded, "buffers": buffers}
    noted["timeout"] = str(backend.options._timeout)
    (folder / f"{name}-{os.environ['RANK']}.json").write_text(json.dumps(noted))
"""


@pytest.fixture(scope="module")
def together(colors: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of three runs of two processes, which are started once: they take longer to start than to train."""
    folder = tmp_path_factory.mktemp("together")
    shards = {"data": str(write_parquet(folder / "shards", 3, 24)), "stream": True}
    for name, settings in {"images": {}, "stream": shards}.items():
        counted = replace(create_config(colors, folder / name), epochs=1, batch_size=8, validation=1 / 3, select="last")
        (folder / f"{name}.json").write_text(json.dumps(vars(replace(counted, **settings))))
    words = ["train", "--data", str(colors), "--base", str(base), "--run", str(folder / "two"), "--epochs", "2"]
    words += ["--seed", "3", "--batch-size", "16", "--precision", "fp32", "--select", "last"]
    (folder / "words.json").write_text(json.dumps(words))
    (folder / "together.py").write_text(_TOGETHER)
    done = launch_two([str(folder / "together.py"), str(folder)], folder)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(path.parent.name for path in folder.glob("logs/*/*/*/stdout.log")) == ["0", "1"]
    return folder


@pytest.mark.parametrize("stream", [False, True])
def test_two_processes_decode_each_image_once(together: Path, stream: bool) -> None:
    name = "stream" if stream else "images"
    one, other = (json.loads((together / f"{name}-{rank}.json").read_text()) for rank in (0, 1))
    assert [one["last"], other["last"]] == ["Finished", "Finished"]
    # Each process has its own statistics of BatchNorm, but both evaluate the model that is saved.
    assert one["buffers"] == other["buffers"] != []
    # The second process waits while the first one checks a dataset, which may take hours.
    assert [one["timeout"], other["timeout"]] == ["1 day, 0:00:00"] * 2
    # Six steps of eight images, and a third of 72 to validate on; the samples of the first process are kept by then.
    assert len({*one["decoded"], *other["decoded"]}) >= (72 if not stream else 68)
    assert len(one["decoded"]) + len(other["decoded"]) - 72 <= 6


def test_two_processes_give_the_metrics_of_one(config: TrainConfig, base: Path, together: Path) -> None:
    """The global batch is the same, and BatchNorm keeps the statistics of the base, as equal weights need."""
    one = replace(config, base=str(base), architecture="resnet18", image_size=None, select="last", seed=3)
    list(train(one))
    two = replace(one, run=str(together / "two"))
    alone, together_weights = weights(one), weights(two)
    for key, value in alone.items():
        torch.testing.assert_close(together_weights[key], value, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(RunDir(one.run).epochs(), RunDir(two.run).epochs(), strict=True):
        assert theirs.validation_loss == pytest.approx(mine.validation_loss, rel=1e-4)
        if mine.epoch:
            assert theirs.train_loss == pytest.approx(mine.train_loss, rel=1e-4)


def test_a_missing_package_of_the_extra_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.training.loop.find_spec", lambda name: None if name == "torchvision" else object())
    config = TrainConfig(data="missing", run=tmp_path / "run", rand_augment=5.0)
    with pytest.raises(TrainingError, match=r"Training needs torchvision\. .*pip install 'resnet_hub\[train\]'"):
        next(train(config))
