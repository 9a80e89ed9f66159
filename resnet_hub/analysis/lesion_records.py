"""Recorded lesions of one network: its accuracy without each block, without several, and in other orders."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from resnet_hub.analysis import cifar
from resnet_hub.analysis.labeled_images import LabeledImages
from resnet_hub.analysis.lesions import (
    BlockLesion,
    LesionStudy,
    RemovalPoint,
    ReorderPoint,
    list_swaps,
    removal_curve,
    remove_each_block,
    reorder_curve,
)
from resnet_hub.analysis.mean_curves import Curve, average_by_x
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet
from resnet_hub.training.finalize import describe_hardware

LESIONS = "lesions"  # the subfolder of the records of trainings
_SWAPS = (0, 1, 2, 4, 8, 16)
_POINTS = 7  # of the curve of removed blocks
_TAU_STEP = 0.05  # of the curve of other orders, about the spread of a point's draws in a network of 56 layers


@dataclass(frozen=True, kw_only=True)
class LesionRecord:
    """The lesions of one network, with what is needed to repeat the measurement."""

    name: str
    shortcut: str
    num_classes: int
    study: LesionStudy
    removal: tuple[RemovalPoint, ...]
    reorder: tuple[ReorderPoint, ...]
    command: str
    data: str
    split: str
    hardware: str
    seconds: float
    date: str  # 2026-01-31

    @property
    def network(self) -> str:
        """The name without the seed."""
        return self.name.partition("-seed")[0]

    def to_dict(self) -> dict[str, Any]:
        study = self.study
        facts = {key: value for key, value in vars(self).items() if key != "study"}
        return facts | {
            "num_images": study.num_images,
            "accuracy": study.accuracy,
            "mean_drop": study.mean_drop,
            "lesions": [lesion._asdict() for lesion in study.lesions],
            "removal": [point._asdict() for point in self.removal],
            "reorder": [point._asdict() for point in self.reorder],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "LesionRecord":
        lesions = tuple(BlockLesion(**row) for row in content["lesions"])
        return cls(
            study=LesionStudy(content["num_images"], content["accuracy"], lesions),
            removal=tuple(RemovalPoint(**row | {"accuracies": tuple(row["accuracies"])}) for row in content["removal"]),
            reorder=tuple(
                ReorderPoint(row["swaps"], tuple(row["rank_correlations"]), tuple(row["accuracies"]))
                for row in content["reorder"]
            ),
            **{key: content[key] for key in cls.__dataclass_fields__ if key not in ("study", "removal", "reorder")},
        )


def measure_lesions(
    name: str,
    model: ResNet,
    labeled: LabeledImages,
    *,
    draws: int = 5,
    curves: bool = True,
    seed: int = 0,
    command: str = "",
    data: str = "",
    split: str = "",
) -> LesionRecord:
    """Measure the accuracy of a model without each block and, with `curves`, without several and in other orders.

    Args:
        name: Of the network, with "-seed" and its number if there are several.
        model: The model, with a head, which does not change.
        labeled: The images.
        draws: Random choices for each point of the curves.
        curves: Whether to measure the curves too, which takes longer than the rest.
        seed: Of all choices.
        command: For the record: repeats the measurement.
        data: For the record: the dataset in words.
        split: For the record: the split that the images are from.
    """
    start = time.monotonic()
    study = remove_each_block(model, labeled)
    removal: list[RemovalPoint] = []
    reorder: list[ReorderPoint] = []
    if curves:
        same_shape = sum(not lesion.changes_shape for lesion in study.lesions)
        counts = sorted({round(count) for count in np.linspace(0, same_shape, _POINTS)})
        removal = removal_curve(model, labeled, counts, draws=draws, seed=seed)
        if pairs := list_swaps(model):
            swaps = _SWAPS if len(pairs) > 1 else _SWAPS[:2]  # a second swap of the only pair would undo the first
            reorder = reorder_curve(model, labeled, swaps, draws=draws, seed=seed)
    return LesionRecord(
        name=name,
        shortcut=model.config.shortcut,
        num_classes=model.config.num_classes,
        study=study,
        removal=tuple(removal),
        reorder=tuple(reorder),
        command=command,
        data=data,
        split=split,
        hardware=describe_hardware(),
        seconds=round(time.monotonic() - start, 1),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def list_lesions(folder: str | Path | None = None) -> list[LesionRecord]:
    """Read the lesions beside the records of trainings in a folder; by default those that ship with the package.

    Raises:
        AnalysisError: A file cannot be read or is no record.
    """
    records = []
    for path in sorted((Path(folder or cifar.RECORDS) / LESIONS).glob("*.json")):
        try:
            records.append(LesionRecord.from_dict(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise AnalysisError(f"Cannot read the record {path}: {error!r}. Delete it, or measure it again.") from None
    return records


def group_by_network(records: Iterable[LesionRecord]) -> dict[str, list[LesionRecord]]:
    """Group records by the name of the network, over its seeds."""
    groups: dict[str, list[LesionRecord]] = {}
    for record in records:
        groups.setdefault(record.network, []).append(record)
    return groups


def average_lesions(records: Sequence[LesionRecord]) -> Curve:
    """The accuracy by the number, from 1, of the block that is missing, over the seeds of a network."""
    accuracies: dict[float, list[float]] = {}
    for record in records:
        for number, lesion in enumerate(record.study.lesions, 1):
            accuracies.setdefault(number, []).append(lesion.accuracy)
    return average_by_x(accuracies)


def average_removal(records: Sequence[LesionRecord]) -> Curve:
    """The accuracy by the number of blocks that are missing, over draws and seeds."""
    accuracies: dict[float, list[float]] = {}
    for point in (point for record in records for point in record.removal):
        accuracies.setdefault(point.removed, []).extend(point.accuracies)
    return average_by_x(accuracies)


def average_reorder(records: Sequence[LesionRecord]) -> Curve:
    """The accuracy by Kendall's tau between the new and the old order of the blocks, over draws and seeds.

    Draws are grouped by their tau, in steps of 0.05, and not by their number of swaps: swaps can undo each other, and
    the trained order is a group of its own.
    """
    groups: dict[tuple[bool, int], list[tuple[float, float]]] = {}
    for point in (point for record in records for point in record.reorder):
        for tau, accuracy in zip(point.rank_correlations, point.accuracies, strict=True):
            groups.setdefault((tau == 1, round(tau / _TAU_STEP)), []).append((tau, accuracy))
    return average_by_x(
        {float(np.mean([tau for tau, _ in group])): [value for _, value in group] for group in groups.values()}
    )
