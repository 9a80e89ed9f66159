"""Datasets of parquet files: which columns hold images and labels."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_hub.datasets.dataset import TRAIN, ImageDataset, Splits
from resnet_hub.datasets.names import natural_key
from resnet_hub.errors import DataError, ImageError

if TYPE_CHECKING:
    pass

MAX_LABELS = 10_000  # a column with more of them holds numbers or captions, not classes


def load_tables(
    tables: dict[str, Any], image_column: str | None, label_column: str | None, roots: list[Path]
) -> Splits:
    import datasets

    features = tables[TRAIN].features
    image_column = _column(features, image_column, "image", ("image", "img", "picture", "photo"), datasets.Image)
    label_column = _column(
        features, label_column, "label", ("label", "labels", "class", "target", "fine_label"), datasets.ClassLabel
    )
    kind = features[label_column]
    if not isinstance(kind, datasets.ClassLabel | datasets.Value):  # to read a picture may be to fetch it
        raise DataError(_no_classes(label_column))
    values = {split: table.with_format(None)[label_column][:] for split, table in tables.items()}
    if isinstance(kind, datasets.ClassLabel):
        labels = tuple(kind.names)
        others = [split for split, table in tables.items() if table.features[label_column].names != kind.names]
        if others:
            raise DataError(f"The splits disagree: {others[0]} has other labels than {TRAIN} in {label_column!r}.")
        index: dict[Any, int] = {number: number for number in range(len(labels))}
    else:
        distinct = {value for column in values.values() for value in column if value is not None}
        if len(distinct) > MAX_LABELS or not all(isinstance(value, str | int) for value in distinct):
            raise DataError(_no_classes(label_column))
        labels = tuple(sorted({str(value) for value in distinct}, key=natural_key))
        place = {label: number for number, label in enumerate(labels)}
        index = {value: place[str(value)] for value in distinct}
    splits: dict[str, ImageDataset] = {}
    skipped: dict[str, list[str]] = defaultdict(list)
    for split, table in tables.items():
        targets = np.array([index.get(value, -1) for value in values[split]], np.int64)
        column = table.select_columns(image_column).cast_column(image_column, datasets.Image(decode=False))
        images = ImageDataset(labels, _Column(column, image_column, roots), targets, _Numbered(split, len(targets)))
        if (targets < 0).any():  # a test split that keeps its answers to itself
            skipped["picture without a label"] += [images.name(int(place)) for place in np.flatnonzero(targets < 0)]
            images = images.subset(np.flatnonzero(targets >= 0))
        if len(images):
            splits[split] = images
    return Splits(splits, skipped=skipped)


def _no_classes(column: str) -> str:
    return f"The column {column!r} holds no classes; name the one that does as label_column."


def _column(features: Mapping[str, Any], name: str | None, what: str, usual: tuple[str, ...], kind: type) -> str:
    """The named column, else the only one of the kind, else one with a usual name."""
    columns = ", ".join(features)
    if name is not None:
        if name not in features:
            raise DataError(f"The data set has no column {name!r}; it has {columns}.")
        return name
    typed = [column for column in features if isinstance(features[column], kind)]
    found = [column for column in usual if column in typed] or (typed if len(typed) == 1 else [])
    found = found or [column for column in usual if column in features]
    if not found:
        raise DataError(f"Which column holds the {what} is not plain to see in {columns}; name it as {what}_column.")
    return found[0]


class _Column(Sequence[Any]):
    """The image column of a `datasets` table: encoded bytes, or the path where the table has no bytes.

    A table can name any path of this machine: only what lies in `roots` is read.
    """

    def __init__(self, table: Any, column: str, roots: list[Path]):
        self.table, self.column, self.roots = table, column, roots

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        value = self.table[int(index)][self.column]
        if value is None:
            raise ImageError(f"Row {index} has no picture.")
        if value["bytes"] is not None:
            return value["bytes"]
        path = Path(value["path"] or "").resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise ImageError(f"Row {index} names a file outside the data set.")
        return path


class _Numbered(Sequence[Any]):
    """`train[0]`, `train[1]`, ...: as one would write it to look at the row."""

    def __init__(self, split: str, length: int):
        self.split, self.length = split, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> str:
        return f"{self.split}[{range(self.length)[int(index)]}]"
