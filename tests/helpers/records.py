"""Records of trainings and lesions that nobody ran."""

import json
from pathlib import Path
from typing import Any

from resnet_hub.analysis.cifar import EpochRecord, TrainingRecord
from resnet_hub.analysis.lesion_records import LesionRecord
from resnet_hub.analysis.lesions import BlockLesion, LesionStudy, RemovalPoint, ReorderPoint

_FACTS = {"command": "resnet-hub reproduce", "data": "CIFAR-10, as JPEG", "hardware": "CPU", "date": "2026-01-31"}


def create_record(network: str, seed: int, accuracy: float) -> TrainingRecord:
    """A finished training of two epochs, in two minutes, whose errors fall from one half."""
    values: dict[str, Any] = {"train_loss": 1.0, "test_loss": 1.0, "learning_rate": 0.1}
    accuracies = (0.5, (0.5 + accuracy) / 2, accuracy)
    return TrainingRecord(
        name=f"{network}-seed{seed}",
        network=network,
        layers=20,
        shortcut="none" if network.startswith("plain") else "A",
        seed=seed,
        num_parameters=10,
        torch="2",
        epochs=tuple(
            EpochRecord(epoch=epoch, train_accuracy=value, test_accuracy=value, seconds=60.0 * epoch, **values)
            for epoch, value in enumerate(accuracies)
        ),
        is_finished=True,
        **_FACTS,
    )


def create_lesions(name: str, without: list[float], *, accuracy: float) -> LesionRecord:
    """Lesions of a network whose accuracy without each block is given."""
    return LesionRecord(
        name=name,
        shortcut="none" if name.startswith("plain") else "A",
        num_classes=10,
        study=LesionStudy(
            1000, accuracy, tuple(BlockLesion(f"layer1.{index}", False, value) for index, value in enumerate(without))
        ),
        removal=(RemovalPoint(0, (accuracy, accuracy)), RemovalPoint(1, tuple(without))),
        reorder=(
            ReorderPoint(0, (1.0, 1.0), (accuracy, accuracy)),
            ReorderPoint(1, (0.4, 0.6), (accuracy, without[0])),
        ),
        split="test",
        seconds=7.0,
        **_FACTS,
    )


def write_lesions(path: Path, record: LesionRecord) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record.to_dict()), encoding="utf-8")
