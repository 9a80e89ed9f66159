"""Runs that read their dataset as a stream: the order of the images, interruptions, and what the report says."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.data import save_base
from helpers.hub_server import Hub, Repo
from helpers.shards import write_parquet, write_tars
from safetensors.torch import load_file

from resnet_hub import cli
from resnet_hub.datasets.image_stream import open_stream
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.hub_client import timeouts
from resnet_hub.training import loader
from resnet_hub.training import stream_sampler as streams
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Checked, Failed, Finished, Progress, Started, Stopped
from resnet_hub.training.loop import train
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.stream_sampler import StreamSampler

FILES, ROWS = 5, 12
SKIPPED = [(0, 0), (0, 1), (3, 7), (4, 11)]


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parquet(tmp_path_factory.mktemp("shards") / "data", FILES, ROWS)


@pytest.fixture(autouse=True)
def _small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BUFFER", 16)
    monkeypatch.setattr("resnet_hub.training.events.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("resnet_hub.evaluation.plots.DPI", 20)  # of plots that nobody looks at


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> TrainConfig:
    settings: dict[str, Any] = {"architecture": "resnet20", "image_size": 16, "epochs": 2, "batch_size": 8}
    settings |= {"precision": "fp32", "checkpoint_seconds": 0, "select": "last", "stream": True}
    return TrainConfig(data=str(shards), run=str(tmp_path / "run"), **settings)


def create_sampler(config: TrainConfig, positions: Path, process: int = 0, processes: int = 1) -> StreamSampler:
    stream = open_stream(config.data)
    return StreamSampler(config.resolved(), stream, SKIPPED, positions, 16, process, processes)


def read_names(sampler: StreamSampler, epoch: int = 0, step: int = 0) -> list[list[str]]:
    return [list(batch.images.names) for batch in sampler.iterate(epoch, step) if batch.images]


def flatten(batches: list[list[str]]) -> list[str]:
    return [name for batch in batches for name in batch]


def weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    return load_file(RunDir(config.run).model / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def test_an_epoch_has_each_image_once_in_a_seeded_order(config: TrainConfig, tmp_path: Path) -> None:
    sampler = create_sampler(config, tmp_path / "stream" / "0.jsonl")
    assert (sampler.steps, sampler.batch_size) == ((FILES * ROWS - 4) // 8, 8)
    names = read_names(sampler)
    first, second = (flatten(names[start : start + 7]) for start in (0, 7))
    all_names = {f"train[{file}:{row}]" for file in range(FILES) for row in range(ROWS) if (file, row) not in SKIPPED}
    assert len(first) == 56 and set(first) == set(second) == all_names
    assert first != second and first != sorted(first)
    assert len({name.split(":")[0] for name in first[:8]}) > 1  # the buffer holds more than a file
    assert read_names(create_sampler(config, tmp_path / "stream" / "1.jsonl")) == names
    assert read_names(create_sampler(replace(config, seed=1), tmp_path / "stream" / "2.jsonl")) != names
    batch = next(sampler.iterate(0, 0))
    assert batch.images and batch.indices.tolist() == list(range(8)) and batch.numbers.shape[0] == 8


@pytest.mark.parametrize("keeps_positions", [True, False])
def test_an_order_goes_on_from_any_step(config: TrainConfig, tmp_path: Path, keeps_positions: bool) -> None:
    sampler = create_sampler(config, tmp_path / "stream" / "0.jsonl")
    names = read_names(sampler)
    opened: list[int] = []
    files = sampler.stream.files
    sampler.stream.files = [
        lambda number=number: (opened.append(number), files[number]())[1] for number in range(FILES)
    ]
    for epoch, step in ((0, 1), (0, 6), (1, 0), (1, 3), (1, 6)):
        opened.clear()
        if not keeps_positions:
            sampler.positions.unlink(missing_ok=True)
        assert read_names(sampler, epoch, step) == names[7 * epoch + step :]
    # At the last of the positions: the end of an epoch needs no earlier file.
    assert len(opened) == (1 if keeps_positions else FILES)
    sampler.positions.write_text(sampler.positions.read_text() + "\n[1, 3, 40, 0, [2, 5")  # a process was killed here
    assert read_names(sampler, 1, 6) == names[13:]


def test_processes_share_the_files(config: TrainConfig, tmp_path: Path) -> None:
    samplers = [create_sampler(config, tmp_path / "stream" / f"{process}.jsonl", process, 2) for process in range(2)]
    first, second = map(read_names, samplers)
    assert len(first) == len(second) == 14 and {len(names) for names in first + second} == {4}
    shares = [set(flatten(names[:7])) for names in (first, second)]
    assert not shares[0] & shares[1] and len(shares[0] | shares[1]) >= 52  # of 56, since the shares differ a little
    numbers = [next(sampler.iterate(0, 2)).numbers for sampler in samplers]
    alone = next(create_sampler(config, tmp_path / "alone" / "0.jsonl").iterate(0, 2)).numbers
    assert np.array_equal(np.concatenate(numbers), alone)
    with pytest.raises(TrainingError, match=r"whose images 2 processes shared. Resume it with 2 processes, not with 1"):
        create_sampler(config, tmp_path / "stream" / "0.jsonl").iterate(0, 3)
    with pytest.raises(TrainingError, match=r"within epoch 1, .* not with 4"):  # the fourth has no positions
        create_sampler(config, tmp_path / "stream" / "3.jsonl", 3, 4).iterate(0, 3)
    assert len(read_names(create_sampler(config, tmp_path / "stream" / "0.jsonl"), 1, 0)) == 7  # between two epochs


def test_few_images_are_read_ahead_and_a_dataset_may_be_longer_than_an_epoch(
    config: TrainConfig, tmp_path: Path
) -> None:
    sampler = create_sampler(replace(config, epoch_images=21, epochs=3), tmp_path / "stream" / "0.jsonl")
    assert sampler.steps == 2
    read: list[str] = []
    stream = sampler.stream
    open_reader = stream.read

    def count(*arguments: Any) -> Iterator[Any]:
        class Counting:
            def __init__(self) -> None:
                self.reader = open_reader(*arguments)
                self.state = self.reader.state

            def __next__(self) -> Any:
                image = next(self.reader)
                read.append(image.name)
                return image

        return Counting()  # type: ignore[return-value]

    stream.read = count  # type: ignore[method-assign, assignment]
    batches = sampler.iterate(0, 0)
    next(batches)
    batches.close()
    assert not any(thread.name.startswith("stream") for thread in threading.enumerate())
    assert 16 <= len(read) <= 16 * 4
    longer = create_sampler(replace(config, epoch_images=100), tmp_path / "stream" / "1.jsonl")
    names = flatten(read_names(longer)[:12])
    assert len(names) == 96 and len(set(names)) == 56 and len(set(names[:56])) == 56


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_a_run_in_pieces_ends_with_the_weights_of_an_unbroken_one(
    write: Any, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, data=str(write(tmp_path / "data", 4, 10)), epochs=2, workers=1)
    unbroken = replace(config, run=str(tmp_path / "unbroken"), workers=3)
    decoded: list[str] = []
    load_image = loader.load_image
    monkeypatch.setattr(
        loader, "load_image", lambda *args, **named: (decoded.append(named["name"]), load_image(*args, **named))[1]
    )
    events = list(train(unbroken))
    assert isinstance(events[-1], Finished)
    (started,) = (event for event in events if isinstance(event, Started))
    assert (started.train_images, started.validation_images, started.split) == (31, 9, "9 images held out")
    assert len(decoded) == 9 + 2 * 3 * 8  # validation, once, and what the steps use
    for steps in (1, 3, 4):
        assert isinstance(list(train(config, max_steps=steps))[-1], Stopped)
    for event in train(config):
        if isinstance(event, Progress) and event.epoch == 2:
            RunDir(config.run).stop.touch()
    assert isinstance(event, Stopped) and RunDir(config.run).stream.is_dir()
    assert isinstance(list(train(config))[-1], Finished)
    assert equal(weights(config), weights(unbroken)) and not RunDir(config.run).stream.exists()


def test_a_run_does_not_go_on_with_other_files(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_hub.datasets.image_stream._SAMPLED_FILES", 2)
    data = write_parquet(tmp_path / "data", 3, 12)
    config = replace(config, data=str(data), batch_size=4)
    assert isinstance(list(train(config, max_steps=2))[-1], Stopped)
    longer = write_parquet(tmp_path / "longer", 1, 13) / "train-00000.parquet"
    longer.replace(data / "train-00001.parquet")  # the only one that is not in the sample
    with pytest.raises(DataError, match=r"changed since the run began: other images are in train. Restore them"):
        list(train(config))


_KILLED = """
import json, sys
from resnet_hub.training import events, stream_sampler
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.loop import train
events.PROGRESS_SECONDS, stream_sampler.BUFFER = 0.0, 16
for event in train(TrainConfig(**json.loads(sys.argv[1]))):
    print(type(event).__name__, flush=True)
"""


def test_a_killed_run_on_a_dataset_of_the_hub(
    config: TrainConfig, tables: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    columns = {"subset": "three", "image_column": "photo", "label_column": "kind"}
    config = replace(config, data="user/tables", batch_size=4, **columns)
    unbroken = replace(config, run=str(tmp_path / "unbroken"))
    assert isinstance(list(train(unbroken))[-1], Finished)
    command = [sys.executable, "-c", _KILLED, json.dumps(vars(config))]
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout
        saved = 0
        for line in child.stdout:
            saved += line == "Saved\n"
            if saved == 3:
                child.send_signal(signal.SIGKILL)
                break
    assert child.returncode == -signal.SIGKILL
    commit = RunDir(config.run).config.data_revision
    assert commit == tables.refs["main"]
    events = list(train(config))
    started = next(event for event in events if isinstance(event, Started))
    assert isinstance(events[-1], Finished) and (started.epoch, started.train_images) == (0, 30)
    assert equal(weights(config), weights(unbroken))


@pytest.fixture
def hub_config(config: TrainConfig, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run on files of the Hub that saves its state only where it ends."""
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr("resnet_hub.datasets.image_stream._SAMPLED_FILES", 1)
    folder = write_parquet(tmp_path / "shards", FILES, ROWS)
    repo = hub.repos["datasets/user/shards"] = Repo()
    repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Shards")
    return replace(config, data="user/shards", batch_size=4, epochs=1, checkpoint_seconds=86_400)


@pytest.mark.parametrize("fault", ["refused", "silent", "stop"])
def test_a_stream_that_fails_within_an_epoch_loses_no_step(
    fault: str, hub_config: TrainConfig, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = replace(hub_config, run=str(tmp_path / "unbroken"))
    assert isinstance(list(train(unbroken))[-1], Finished)
    run, last = RunDir(hub_config.run), np.random.default_rng([0, 0, streams._FILES, 0]).permutation(FILES)[-1]
    for event in train(hub_config):
        if isinstance(event, Started):  # all labels and the sample are read
            start = time.monotonic()
            hub.fail(f"GET .*train-0000{last}", **({"status": 404} if fault == "refused" else {"seconds": 60}))
            if fault == "silent":
                monkeypatch.setattr(timeouts, "STREAM_SILENCE", 1.0)
        if fault == "stop" and isinstance(event, Progress) and event.step == 1:
            threading.Timer(1.0, run.stop.touch).start()  # while the next images are waited for
    if fault == "stop":
        assert isinstance(event, Stopped) and 0 < event.step < 13
    else:
        assert isinstance(event, Failed) and event.reason.endswith(
            f". `resnet-hub train --run {run.folder}` resumes the run from its last saved state."
        )
        assert ("has arrived for 1 seconds" if fault == "silent" else "404") in event.reason
    assert time.monotonic() - start < 30
    hub.faults.clear()
    *_, finished = train(hub_config)
    assert isinstance(finished, Finished)
    assert equal(weights(hub_config), weights(unbroken))


def test_the_report_and_the_card_are_on_a_sample(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("resnet_hub.datasets.image_stream.MAX_SAMPLED", 20)
    data = write_parquet(tmp_path / "data", FILES, ROWS)
    write_parquet(data, 1, 40, split="validation", first=1000)
    write_parquet(data, 1, 15, split="test", first=2000)
    base = save_base(tmp_path / "base")
    words = ["train", "--data", str(data), "--run", config.run, "--base", str(base), "--epochs", "1", "--stream"]
    words += ["--batch-size", "8", "--precision", "fp32"]
    assert cli.main([*words, "--dry-run"]) == 0
    plan = capsys.readouterr().out.partition("\n")
    assert plan[0] == f"base: {base}"
    assert plan[2].startswith("60 images of 3 classes, 20 to evaluate on\n1 epochs of 7 steps")
    assert cli.main(words) == 0
    sentence = (
        "The dataset is read as a stream. Its report, with all numbers of images, is on a sample: the first images of "
        "5 of 5 files, 20 of 60 training images, 20 images of validation, 15 images of test."
    )
    out, run = capsys.readouterr().out, RunDir(config.run)
    assert f"Note: {sentence}" in out and "20 to evaluate on (validation)" in out
    assert "Fewer than" not in out
    report = run.read_report()
    assert report and report.describe_as_sample(sentence).findings == report.findings  # if it is read again
    assert sentence in (run.model / "README.md").read_text(encoding="utf-8")
    assert run.config.stream and json.loads(run.evaluation.read_text())["num_images"] == 15
    head = [*words[:3], "--run", str(tmp_path / "head"), "--base", str(base), "--recipe", "head", "--stream"]
    assert cli.main(head) == 0


def test_sorted_files_are_noticed(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_tars(tmp_path / "data", 1, 12, labels=("a", "a", "a"))
    write_tars(data / "more", 1, 12, labels=("b", "c", "d"))
    (data / "more" / "train-00000.tar").rename(data / "train-00001.tar")
    monkeypatch.setattr("resnet_hub.datasets.image_stream._SAMPLED_FILES", 1)
    with pytest.raises(
        DataError, match=r"All training images of the sample have one label: the files .* sorted by class"
    ):
        list(train(replace(config, data=str(data))))


def test_an_image_that_cannot_be_read_is_replaced_by_another_of_its_batch(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("resnet_hub.datasets.image_stream.MAX_SAMPLED", 20)
    data = write_parquet(tmp_path / "data", FILES, ROWS)
    path = data / "train-00002.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[7]["image"]["bytes"] = rows[7]["image"]["bytes"][:-30]
    pq.write_table(pq.read_table(path).from_pylist(rows), path)
    *_, checked, finished = train(replace(config, data=str(data)))
    assert isinstance(finished, Finished) and finished.unreadable == 1
    assert isinstance(checked, Checked) and "train[2:7]" in checked.findings[0]["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"balance": "loss"}, "balance needs the number of images of each class"),
        ({"stream": False, "epoch_images": 5}, "epoch_images is an option of a stream"),
    ],
)
def test_settings_that_a_stream_cannot_have(change: dict[str, Any], message: str, config: TrainConfig) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(config, **change).resolved()


def test_the_length_of_an_epoch_must_be_known(config: TrainConfig, tmp_path: Path) -> None:
    stream = open_stream(config.data)
    stream.count = None
    with pytest.raises(DataError, match=r"The number of training images of data is not known .* with epoch_images"):
        StreamSampler(config.resolved(), stream, [], tmp_path / "0.jsonl", 16)
    sampler = StreamSampler(replace(config, epoch_images=16).resolved(), stream, [], tmp_path / "0.jsonl", 16)
    assert sampler.steps == 2
    stream.count = 3  # of an old card
    assert StreamSampler(config.resolved(), stream, SKIPPED, tmp_path / "0.jsonl", 16).steps == (FILES * ROWS - 4) // 8
