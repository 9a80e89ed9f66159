"""Recorded trainings: the history of one network as a small JSON file. Imports no torch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnet_hub.atomic import write_atomic
from resnet_hub.errors import AnalysisError

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


def list_records(folder: str | Path = RECORDS) -> list[TrainingRecord]:
    """Read all records of a folder, by name. By default those that ship with the package.

    Raises:
        AnalysisError: A file cannot be read or is no record.
    """
    return [read_record(path) for path in sorted(Path(folder).glob("*.json"))]


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
