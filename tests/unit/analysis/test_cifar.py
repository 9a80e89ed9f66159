"""The trainings of the CIFAR family: recorded, resumed after a kill, and summarized."""

import argparse
import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.data import encode_image

from resnet_hub.analysis.cifar import (
    RUNS,
    EpochRecord,
    NetworkRun,
    TrainingRecord,
    list_records,
    read_record,
    summarize,
    train_network,
    write_record,
)
from resnet_hub.analysis.labeled_images import encode_as_jpeg, name_dataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import AnalysisError, TrainingError
from resnet_hub.images.load import load_image
from resnet_hub.model import ResNet
from resnet_hub.training import events


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 12), ("test", 4)):
        for channel, label in enumerate(("red", "green")):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                (folder / split / label / f"{number}.png").write_bytes(encode_image(channel, number))
    return folder


def test_the_script_copies_a_dataset_as_jpeg_and_names_the_copy(data: Path, tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "cifar_runs.py"))
    copy = load_dataset(script["write_jpeg_copy"](str(data), tmp_path, 75))
    for split, images in load_dataset(data).items():
        assert copy[split].labels == images.labels and copy[split].targets.tolist() == images.targets.tolist()
        assert copy[split].read(3) == encode_as_jpeg(images, 75).read(3)
        assert load_image(copy[split].read(3)).size == load_image(images.read(3)).size
    start = "python scripts/cifar_runs.py --data"
    for jpeg_quality, words in ((None, "a/b"), (75, "a/b --jpeg-quality 75")):
        arguments = argparse.Namespace(data_name=name_dataset("a/b", jpeg_quality), epochs=6, width=16)
        assert script["format_command"](arguments) == f"{start} {words} --work runs/cifar"


class Killed(BaseException):
    pass


def test_a_killed_training_ends_as_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    run, settings = NetworkRun(8, "none", seed=2), {"epochs": 2, "width": 4, "command": "again", "data_name": "colors"}
    whole = train_network(run, data, tmp_path / "whole", **settings)
    assert [row.epoch for row in whole.epochs] == [0, 1, 2] and whole.is_finished
    assert (whole.name, whole.network, whole.data, whole.command) == ("plain8-seed2", "plain8", "colors", "again")
    assert ResNet.from_pretrained(tmp_path / "whole" / "runs" / run.name / "model").config.shortcut == "none"

    def kill(event: events.Event) -> None:
        if isinstance(event, events.Epoch) and event.epoch == 1:  # before the epoch is recorded
            raise Killed

    with pytest.raises(Killed):
        train_network(run, data, tmp_path / "killed", **settings, report=kill)
    assert [row.epoch for row in read_record(tmp_path / "killed" / "histories" / f"{run.name}.json").epochs] == [0]
    resumed = train_network(run, data, tmp_path / "killed", **settings)
    for one, other in zip(whole.epochs, resumed.epochs, strict=True):
        assert replace(one, seconds=0) == replace(other, seconds=0)

    seen: list[events.Event] = []
    assert train_network(run, data, tmp_path / "killed", **settings, report=seen.append) == resumed
    assert seen == []  # it is finished


def test_a_failed_training_has_a_reason(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="it needs one to train, one to test on"):
        train_network(NetworkRun(8, "A"), data / "test", tmp_path)


def test_names_and_order_of_the_runs() -> None:
    assert [run.name for run in RUNS[:6]] == [
        *("plain20-seed0", "resnet20-seed0", "plain56-seed0", "resnet56-seed0", "resnet20-B-seed0", "resnet20-C-seed0")
    ]
    assert len({run.name for run in RUNS}) == len(RUNS) == 12


def record(name: str, seed: int, accuracy: float, **changes: object) -> TrainingRecord:
    epoch = EpochRecord(
        epoch=1, train_loss=1.0, train_accuracy=accuracy + 0.1, test_loss=1.0, test_accuracy=accuracy,
        learning_rate=0.1, seconds=3.0,
    )  # fmt: skip
    values = {
        **{"name": f"{name}-seed{seed}", "network": name, "layers": 20, "shortcut": "A", "seed": seed},
        **{"num_parameters": 5, "command": "c", "data": "d", "hardware": "h", "torch": "t", "date": "2026-01-01"},
        **{"epochs": (epoch,), "is_finished": True},
    }
    return TrainingRecord(**values | changes)


def test_records_are_written_read_and_summarized(tmp_path: Path) -> None:
    records = [record("one", 0, 0.5), record("one", 1, 0.7), record("two", 0, 0.1, is_finished=False)]
    for entry in records:
        write_record(tmp_path / f"{entry.name}.json", entry)
    assert list_records(tmp_path) == records
    (spread,) = summarize(records).values()
    assert spread.test_errors == pytest.approx((0.5, 0.3))
    assert spread.to_dict()["mean_train_error"] == pytest.approx(0.3)
    assert list_records(tmp_path / "none") == []
    (tmp_path / "bad.json").write_text(json.dumps({"name": "bad", "epochs": []}))
    with pytest.raises(AnalysisError, match=r"Cannot read the record .*bad\.json"):
        list_records(tmp_path)
    with pytest.raises(AnalysisError, match="has no epoch yet"):
        _ = replace(records[0], epochs=()).last


def test_shipped_records_are_whole() -> None:
    for entry in list_records():
        assert entry.is_finished and entry.command and entry.data and entry.hardware and entry.last.epoch >= 1
