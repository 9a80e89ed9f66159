"""The networks of section 4.2, trained by one recipe, with the errors on training and test images after each epoch.

He et al. 2015 (https://arxiv.org/abs/1512.03385), figure 6 and table 6: plain and residual networks of 20 and 56
layers, and the shortcuts A, B and C. A network may be stopped at any time, also by a kill: the next call resumes it.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from resnet_hub.analysis.labeled_images import LabeledImages, compute_accuracy, load_labeled_images, name_dataset
from resnet_hub.analysis.mean_curves import Curve, average_by_x
from resnet_hub.analysis.races import create_cifar_config
from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.load import read_config
from resnet_hub.datasets.dataset import TRAIN, ImageDataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import AnalysisError, TrainingError
from resnet_hub.model import ResNet
from resnet_hub.training import events
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.finalize import describe_hardware
from resnet_hub.training.loop import train
from resnet_hub.training.run_dir import RunDir

RECORDS = Path(__file__).with_name("records")  # histories that ship with the package


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """The metrics after an epoch; epoch 0 is the initial network. Accuracies are in 0..1."""

    epoch: int
    train_loss: float | None  # mean over the epoch, with augmentation; None for epoch 0
    train_accuracy: float  # after the epoch, without augmentation
    test_loss: float | None
    test_accuracy: float
    learning_rate: float
    seconds: float  # since the start of the training


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """The training of one network, with what is needed to repeat it."""

    name: str
    network: str  # the name without the seed
    layers: int
    shortcut: str
    seed: int
    num_parameters: int
    command: str
    data: str
    hardware: str
    torch: str
    date: str  # of the start: 2026-01-31
    epochs: tuple[EpochRecord, ...]
    is_finished: bool

    @property
    def last(self) -> EpochRecord:
        if not self.epochs:
            raise AnalysisError(f"The record {self.name} has no epoch yet. Resume its training.")
        return self.epochs[-1]

    @property
    def train_error(self) -> float:
        return 1 - self.last.train_accuracy

    @property
    def test_error(self) -> float:
        return 1 - self.last.test_accuracy

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"epochs": [asdict(epoch) for epoch in self.epochs]}


def read_record(path: str | Path) -> TrainingRecord:
    """Read a record.

    Raises:
        AnalysisError: The file cannot be read or is no record.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return TrainingRecord(**content | {"epochs": tuple(EpochRecord(**row) for row in content["epochs"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AnalysisError(f"Cannot read the record {path}: {error}. Delete it, or train the network again.") from None


def write_record(path: str | Path, record: TrainingRecord) -> None:
    """Write a record; a crash leaves the old or the new one."""
    write_atomic(path, json.dumps(record.to_dict(), indent=1) + "\n")


def list_records(folder: str | Path | None = None) -> list[TrainingRecord]:
    """Read all records of a folder, by name. By default those that ship with the package.

    Raises:
        AnalysisError: A file cannot be read or is no record.
    """
    return [read_record(path) for path in sorted(Path(folder or RECORDS).glob("*.json"))]


@dataclass(frozen=True)
class Spread:
    """The errors of one network over its seeds, in 0..1."""

    network: str
    num_parameters: int
    train_errors: tuple[float, ...]
    test_errors: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "mean_train_error": float(np.mean(self.train_errors)),
            "mean_test_error": float(np.mean(self.test_errors)),
        }


def summarize(records: list[TrainingRecord]) -> dict[str, Spread]:
    """Group finished records by network, with the errors after the last epoch of each seed."""
    groups: dict[str, list[TrainingRecord]] = {}
    for record in records:
        if record.is_finished:
            groups.setdefault(record.network, []).append(record)
    return {
        name: Spread(
            name,
            group[0].num_parameters,
            tuple(record.train_error for record in group),
            tuple(record.test_error for record in group),
        )
        for name, group in groups.items()
    }


def average_errors(records: Iterable[TrainingRecord], split: str) -> Curve:
    """The error on the split "train" or "test" by the epoch, over the records: the seeds of a network."""
    errors: dict[float, list[float]] = {}
    for epoch in (epoch for record in records for epoch in record.epochs):
        accuracy = epoch.train_accuracy if split == "train" else epoch.test_accuracy
        errors.setdefault(epoch.epoch, []).append(1 - accuracy)
    return average_by_x(errors)


# One cycle for all networks alike. The weights are not averaged, so that the curves are those of the network itself.
EPOCHS, LEARNING_RATE = 6, 0.1
_TRAIN_IMAGES = 4000  # of which the training error is measured, without augmentation


@dataclass(frozen=True)
class NetworkRun:
    """One network to train."""

    layers: int  # 6n + 2
    shortcut: str  # A, B, C, or none: the plain network
    seed: int = 0

    @property
    def network(self) -> str:
        """The name without the seed: plain20, resnet20 (shortcuts A), resnet20-B."""
        if self.shortcut == "none":
            return f"plain{self.layers}"
        return f"resnet{self.layers}" + ("" if self.shortcut == "A" else f"-{self.shortcut}")

    @property
    def name(self) -> str:
        return f"{self.network}-seed{self.seed}"


# First one network of each kind, then more seeds: the runs that were stopped early are then of the least use.
RUNS = (
    *(NetworkRun(layers, shortcut) for layers in (20, 56) for shortcut in ("none", "A")),
    *(NetworkRun(20, shortcut) for shortcut in ("B", "C")),
    *(NetworkRun(20, shortcut, seed=1) for shortcut in ("none", "A")),
    *(NetworkRun(56, shortcut, seed=1) for shortcut in ("none", "A")),
    *(NetworkRun(20, shortcut, seed=2) for shortcut in ("none", "A")),
)


def train_network(
    run: NetworkRun,
    data: str | Path,
    work: str | Path,
    *,
    epochs: int = EPOCHS,
    width: int = 16,
    command: str = "",
    data_name: str = "",
    report: Callable[[events.Event], object] | None = None,
) -> TrainingRecord:
    """Train a network, or resume it, and record the errors after each epoch in `work/histories/NAME.json`.

    The training state is in `work/runs/NAME`; it is saved at least once a minute.

    Args:
        run: The network and its seed.
        data: The dataset, as `load_dataset` takes it, with a split to train on and one to test on.
        work: The folder of all networks; created if missing.
        epochs: Passes over the training images.
        width: Channels of the first stage; the paper has 16.
        command: For the record: repeats the training.
        data_name: For the record: the dataset in words.
        report: Called with each event of the training.

    Returns:
        The record, whose `is_finished` is true.

    Raises:
        TrainingError: The training cannot start or has failed; calling again resumes it.
        DataError: The dataset cannot be used.
    """
    work = Path(work)
    history = work / "histories" / f"{run.name}.json"
    if history.is_file() and (record := read_record(history)).is_finished:
        return record
    splits = load_dataset(data)
    if TRAIN not in splits or len(splits) < 2:
        raise TrainingError(f"{data} has the splits {', '.join(splits)}; it needs one to train, one to test on.")
    initial = _save_initial_weights(run, work / "initial" / run.name, splits[TRAIN], width)
    config = TrainConfig(
        data=str(data),
        run=str(work / "runs" / run.name),
        base=str(initial),
        recipe="modern",
        epochs=epochs,
        learning_rate=LEARNING_RATE,
        precision="fp32",  # with so few channels bfloat16 is slower (docs/log.md)
        ema=0.0,
        select="last",
        seed=run.seed,
    )
    record = TrainingRecord(
        name=run.name,
        network=run.network,
        layers=run.layers,
        shortcut=run.shortcut,
        seed=run.seed,
        num_parameters=read_config(initial).num_parameters,
        command=command,
        data=data_name or name_dataset(data),
        hardware=describe_hardware(),
        torch=torch.__version__,
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        epochs=(),
        is_finished=False,
    )
    record = read_record(history) if history.is_file() else record
    measured = load_labeled_images(read_config(initial), splits[TRAIN], count=_TRAIN_IMAGES)
    history.parent.mkdir(parents=True, exist_ok=True)
    for event in _iterate_events(config, report):
        # Every saved model is measured, also one whose process was killed before it was: then `Started` comes first.
        if isinstance(event, events.Started | events.Epoch):
            record = _add_epoch(record, RunDir(config.run), measured)
            write_record(history, record)
    if not record.epochs or record.epochs[-1].epoch < epochs:
        raise TrainingError(f"The training of {run.name} was stopped. Start it again to resume it.")
    record = replace(record, is_finished=True)
    write_record(history, record)
    return record


def _iterate_events(config: TrainConfig, report: Callable[[events.Event], object] | None) -> Iterator[events.Event]:
    training = cast(Generator[events.Event, None, None], train(config))  # closing it saves the training state
    with closing(training):
        for event in training:
            if report is not None:
                report(event)
            if isinstance(event, events.Failed):
                raise TrainingError(event.reason)
            yield event


def _save_initial_weights(run: NetworkRun, folder: Path, data: ImageDataset, width: int) -> Path:
    """Save a network with random weights, the base of the training: plain networks have no name to start from."""
    if not (folder / "config.json").is_file():
        config = replace(
            create_cifar_config(run.layers, shortcut=run.shortcut, width=width), id2label=dict(enumerate(data.labels))
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            ResNet(config).save_pretrained(folder)
    return folder


def _add_epoch(record: TrainingRecord, run: RunDir, measured: LabeledImages) -> TrainingRecord:
    """Add the last epoch of a run to its record, unless it is there."""
    history = run.epochs()
    if not history or (record.epochs and record.epochs[-1].epoch == history[-1].epoch):
        return record
    last = history[-1]
    if last.accuracy is None:
        return record
    model = ResNet.from_pretrained(run.model)
    epoch = EpochRecord(
        epoch=last.epoch,
        train_loss=last.train_loss,
        train_accuracy=compute_accuracy(model, measured),
        test_loss=last.validation_loss,
        test_accuracy=last.accuracy,
        learning_rate=last.learning_rate,
        seconds=last.seconds,
    )
    return replace(record, epochs=(*(row for row in record.epochs if row.epoch < epoch.epoch), epoch))
