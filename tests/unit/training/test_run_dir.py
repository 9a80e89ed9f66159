"""The settings of a run and the run directory."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.data import encode_image, write_files

from resnet_hub.datasets.image_stream import open_stream
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.training.config import RECIPES, TrainConfig, command_line_options, is_hub_id, read_settings
from resnet_hub.training.events import Epoch
from resnet_hub.training.run_dir import RunDir

CONFIG = TrainConfig(data="flowers", run="runs/flowers")


def test_a_recipe_fills_only_fields_that_are_none() -> None:
    assert CONFIG.resolved().recipe == "modern"
    assert TrainConfig(data="a", run="b", base="c").resolved().recipe == "finetune"
    for recipe, row in RECIPES.items():
        base = "base" if recipe in ("finetune", "head") else None
        chosen = TrainConfig(data="a", run="b", base=base, recipe=recipe, batch_size=7).resolved()
        assert {key: getattr(chosen, key) for key in row} == row | {"batch_size": 7}
        assert chosen.resolved() == chosen


def test_processes_share_a_batch_equally_and_mixed_images_in_pairs() -> None:
    plain, mixed = (replace(CONFIG, batch_size=12, mixup=mixup).resolved() for mixup in (0.0, 0.2))
    for config, counts in ((plain, (1, 2, 3, 4, 6, 12)), (mixed, (1, 2, 3, 6))):
        for count in counts:
            config.check_processes(count)
    for config, count, multiple in ((plain, 5, 5), (mixed, 4, 8)):
        with pytest.raises(TrainingError, match=f"^{count} processes cannot share .* to a multiple of {multiple}, or"):
            config.check_processes(count)
    TrainConfig(data="a", run="b", base="c", recipe="head").resolved().check_processes(5)  # takes no steps


@pytest.mark.parametrize(("images", "epochs"), [(10, 10), (160, 10), (2000, 7), (2766, 5), (50_000, 3)])
def test_fewer_images_are_trained_for_more_epochs(images: int, epochs: int) -> None:
    config = TrainConfig(data="a", run="b", base="c").resolved()
    assert config.choose_epochs(images) == epochs
    assert replace(config, epochs=7).choose_epochs(images) == 7
    assert CONFIG.resolved().choose_epochs(images) == CONFIG.resolved().epochs == RECIPES["modern"]["epochs"]


@pytest.mark.parametrize(("image_size", "crop_size"), [(None, 160), (224, 160), (160, 160), (32, None)])
def test_the_crops_of_a_recipe_are_no_larger_than_the_images(image_size: int | None, crop_size: int | None) -> None:
    assert replace(CONFIG, recipe="a3", image_size=image_size).resolved().crop_size == crop_size
    assert replace(CONFIG, recipe="a3", image_size=image_size, crop_size=48).resolved().crop_size == 48


@pytest.mark.parametrize(
    ("base_size", "sizes"), [(32, (None, None)), (96, (144, 96)), (128, (192, 128)), (224, (None, None))]
)
def test_a_fine_tuning_sees_more_pixels_than_its_base(base_size: int, sizes: tuple[int | None, int | None]) -> None:
    config = TrainConfig(data="a", run="b", base="c").resolved()
    chosen = config.choose_sizes(base_size)
    assert (chosen.image_size, chosen.crop_size) == sizes
    for change in ({"image_size": 64}, {"crop_size": 64}, {"augmentation": "none"}, {"recipe": "head"}):
        changed = replace(config, **change)
        assert changed.choose_sizes(base_size) == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"recipe": "magic"},
            "Unknown recipe 'magic'; choose one of paper, paper-imagenet, modern, a3, finetune, head.",
        ),
        ({"recipe": "head"}, "The recipe 'head' starts from a trained model; name one as base."),
        ({"epochs": 0}, "epochs is 0; only the head of a base can be fitted without epochs."),
        ({"frozen_norm": True}, "frozen_norm keeps the statistics of a base; name one as base, or leave it out."),
        ({"frozen_stages": 2}, "frozen_stages are stages of a base; name one as base, or leave it out."),
        ({"base": "b", "frozen_stages": 4}, "frozen_stages is 4; expected 0 to 3."),
        ({"select": "acc"}, "select is 'acc'; choose one of accuracy, loss, last."),
        ({"balance": "class"}, "balance is 'class'; choose one of none, sampling, loss."),
        (
            {"base": "b", "architecture": "resnet50"},
            "The base b sets the architecture; leave out the architecture or the base.",
        ),
        ({"optimizer": "adamw"}, "nesterov is an option of sgd; leave it out, or choose sgd as optimizer."),
        (
            {"base": "b", "recipe": "head", "epochs": 5},
            "The recipe 'head' has no epochs; choose finetune, or leave out epochs.",
        ),
        (
            {"select": "last", "patience": 2},
            "patience needs a metric to compare epochs; set select to accuracy or loss, or",
        ),
        (
            {"recipe": "paper-imagenet", "select": "last"},
            "The schedule plateau needs a metric to compare epochs; set select to accuracy or loss.",
        ),
        ({"body_rate": 0.1}, "body_rate is relative to the new head of a base; name one as base, or leave it out."),
        (
            {"first_size": 32, "crop_size": 16},
            "first_size 32 is above the size of the crops, 16; choose a smaller one.",
        ),
        ({"first_size": 96, "image_size": 64}, "first_size 96 is above the size of the crops, 64"),
        (
            {"mixup": 0.2, "batch_size": 1},
            "mixup mixes the images of a batch, which has only one; leave it out, or raise batch_size.",
        ),
        ({"cutmix": 1.0, "batch_size": 1}, "cutmix mixes the images of a batch"),
        *(
            ({"base": "b", **change}, f"{[*change][-1]} has no effect if only the head is fitted; leave it out, or")
            for change in (
                {"recipe": "head", "mixup": 0.2},
                {"recipe": "head", "cutmix": 1.0},
                {"recipe": "head", "stochastic_depth": 0.1},
                {"recipe": "head", "schedule": "cosine"},
                {"recipe": "head", "ema": 0.9},
                {"epochs": 0, "label_smoothing": 0.1},
            )
        ),
        ({"batch_size": 0}, "batch_size is 0; expected 1 to 65536."),
        ({"learning_rate": math.nan}, "learning_rate is nan; expected 0 to 100."),
        ({"validation": 1.0}, "validation is 1.0; expected 0.01 to 0.9."),
    ],
)
def test_invalid_settings_raise(change: dict, message: str) -> None:
    with pytest.raises(TrainingError) as error:
        TrainConfig(**vars(CONFIG) | change).resolved()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "change",
    [
        {"base": "b", "recipe": "head", "augmentation": "none"},
        {"base": "b", "recipe": "head", "balance": "loss", "crop_size": 64, "select": "last"},
        {"base": "b", "epochs": 0},  # the other values are those of the recipe finetune
        {"recipe": "a3", "batch_size": 1},
        {"recipe": "a3", "batch_size": 1, "mixup": 0.0},
        {"first_size": 64, "crop_size": 64, "image_size": 32},
    ],
)
def test_what_a_recipe_sets_or_a_head_uses_is_accepted(change: dict) -> None:
    resolved = TrainConfig(**vars(CONFIG) | change).resolved()
    assert {key: getattr(resolved, key) for key in change} == change


def test_a_run_that_an_earlier_version_accepted_goes_on() -> None:
    recorded = TrainConfig(**vars(CONFIG) | {"base": "b", "recipe": "head", "mixup": 0.2})
    assert recorded.recorded().mixup == 0.2
    with pytest.raises(TrainingError, match="seed is -1"):
        replace(recorded, seed=-1).recorded()


def test_a_run_resumes_only_with_its_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = replace(CONFIG, seed=3).resolved()
    replace(CONFIG, seed=3, run="moved").check_same(recorded)
    for data in ("flowers", "data/flowers", "data/flowers.tar"):  # it does not exist, so it may have moved
        replace(CONFIG, seed=3, data="cats").check_same(replace(recorded, data=data))
    for hub in ("hf://datasets/user/flowers", "user/flowers"):  # a dataset on the Hub does not move
        with pytest.raises(TrainingError, match="has data"):
            replace(CONFIG, data="cats").check_same(replace(CONFIG, data=hub, data_revision="a" * 40))
    Path(CONFIG.data).mkdir()
    with pytest.raises(TrainingError) as error:
        replace(CONFIG, seed=3, data="cats").check_same(recorded)
    assert str(error.value).startswith(
        "The run runs/flowers has data 'flowers', not 'cats'; resume it with `resnet-hub train"
    )
    CONFIG.check_same(recorded)  # a field at its default accepts the recorded value
    with pytest.raises(TrainingError, match="has seed 3, not 0"):
        CONFIG.check_same(recorded, ["seed"])
    at = replace(recorded, data_revision="a" * 40)
    for revision in (None, "main", "a" * 40):  # the branch may have moved since, the run keeps its commit
        replace(recorded, data_revision=revision).check_same(at, ["data_revision"] * bool(revision))
    with pytest.raises(TrainingError, match=r"has data_revision 'aaaa.*, not 'bbbb"):
        replace(recorded, data_revision="b" * 40).check_same(at)


def test_the_fields_that_select_a_part_of_a_dataset_are_options_of_the_command() -> None:
    names = {"subset": "s", "train_split": "train[:10%]", "image_column": "i", "label_column": "l"}
    config = replace(CONFIG, data_revision="r", **names)
    assert config.data_names == {
        **{"subset": "s", "split": "train[:10%]", "image_column": "i", "label_column": "l", "revision": "r"}
    }
    options = ["--subset", "s", "--train-split", "train[:10%]", "--image-column", "i", "--label-column", "l"]
    *plain, base, none = command_line_options(CONFIG)
    assert command_line_options(config) == [*plain, *options, "--data-revision", "r", base, none]


def test_paths_are_stored_as_text() -> None:
    config = TrainConfig(data=Path("a"), run=Path("b"), base=Path("c"))  # type: ignore[arg-type]
    assert (config.data, config.run, config.base) == ("a", "b", "c")


def test_a_run_directory_returns_its_settings(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "deep" / "run")
    assert not run.exists()
    run.create(CONFIG)
    assert run.exists() and run.config == CONFIG


@pytest.mark.parametrize("content", ["", "[]", "{", '{"data": "a"}', '{"data": "a", "run": "b", "dye": 1}'])
def test_damaged_settings_raise(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(TrainingError, match="Cannot read the run in"):
        _ = RunDir(tmp_path).config


def test_the_history_has_the_last_line_of_each_epoch_and_no_torn_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first = Epoch(0, None, 1.2, 0.4, True, 0.0, 1.0)
    once, again = Epoch(1, 1.0, 0.9, 0.5, True, 0.1, 2.0), Epoch(1, 1.0, 0.9, 0.5, True, 0.1, 3.0)
    for event in (first, once, again):
        run.append(event)
    with run.history.open("a") as file:
        file.write('{"epoch": 2, "train_lo')
    assert run.epochs() == [first, again]
    assert [json.loads(line)["epoch"] for line in run.history.read_text().splitlines()[:3]] == [0, 1, 1]
    run.append(third := again._replace(epoch=3))
    assert run.epochs() == [first, again, third]


def test_reading_a_run_needs_no_torch() -> None:
    script = "import sys, resnet_hub.training.run_dir; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_split_file_of_version_0_1_is_read(tmp_path: Path) -> None:
    content = {"pictures": {"train": 4}, "labels": ["a", "b"], "called": "25% held out", "split": "train"}
    content |= {"train": [0, 1, 2], "held_out": [3], "test": None}
    (tmp_path / "split.json").write_text(json.dumps(content))
    record = RunDir(tmp_path).read_split()
    assert (record.images, record.train.tolist(), record.validation) == ({"train": 4}, [0, 1, 2], [3])
    assert (record.validation_split, record.validation_name) == ("train", "25% held out")
    RunDir(tmp_path).write_split(record)
    assert RunDir(tmp_path).read_split() == record


def test_a_missing_folder_of_the_shelf_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("user/flowers") and not is_hub_id("weights/resnet18-tiny-imagenet")
    recorded = replace(CONFIG, base="weights/resnet18-tiny-imagenet")
    replace(CONFIG, base="other").check_same(recorded)
    CONFIG.check_same(recorded)


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = TrainConfig(data="~/data", run="~/runs/a", base=Path("~/base"))  # type: ignore[arg-type]
    assert (config.data, config.run, config.base) == tuple(str(tmp_path / name) for name in ("data", "runs/a", "base"))
    assert TrainConfig(data="hf://datasets/user/name", run="run").data == "hf://datasets/user/name"
    for label in ("a", "b"):
        write_files(tmp_path / "data" / label, {"1.png": encode_image(0, 0)})
    assert len(load_dataset("~/data")["train"]) == 2
    with pytest.raises(DataError, match="data cannot be read as a stream"):
        open_stream("~/data")
    with pytest.raises(DataError, match="There is no folder or file '~nobody-here/data'"):
        load_dataset("~nobody-here/data")


def test_settings_of_older_runs_are_read_under_their_names_of_today() -> None:
    config = read_settings({"data": "a", "run": "b", "colour": 0.1, "precision": "no"})
    assert (config.color, config.precision, config.optimizer) == (0.1, "fp32", "sgd")
