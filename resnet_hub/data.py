"""Labelled pictures from wherever they lie: a folder of class folders, parquet files, or a data set on the Hub."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_hub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_SPLIT_NAMES = {TRAIN: ("train", "training"), VALIDATION: ("validation", "valid", "val", "dev"), TEST: ("test",)}


@dataclass(frozen=True)
class ImageSet:
    """Pictures as encoded bytes or paths, in a fixed order, each with the index of its label."""

    labels: tuple[str, ...]
    sources: Sequence[Any]
    targets: np.ndarray  # int64 (N,)

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        return ImageSet(self.labels, _Picked(self.sources, np.asarray(indices)), self.targets[np.asarray(indices)])

    def decode(self, render: "Callable[[Image.Image], Image.Image]", threads: int = 2) -> np.ndarray:
        """Every picture, rendered to one size, as uint8 (N, H, W, C); bounded threads decode ahead."""
        from resnet_hub.images import load_image

        def pixels(index: int) -> np.ndarray:
            return np.asarray(render(load_image(self.sources[index], name=f"picture {index}")))

        first = pixels(0)
        out = np.empty((len(self), *first.shape), np.uint8)
        with ThreadPoolExecutor(threads) as pool:
            for index, array in enumerate(pool.map(pixels, range(len(self)))):
                out[index] = array
        return out


class _Picked(Sequence[Any]):
    """The items of a sequence at given places, read when asked for."""

    def __init__(self, items: Sequence[Any], places: np.ndarray):
        self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return self.items[int(self.places[index])]


class _Column(Sequence[Any]):
    """The image column of a `datasets` table: encoded bytes, or the path where the table has no bytes."""

    def __init__(self, table: Any, column: str):
        self.table, self.column = table, column

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        value = self.table[int(index)][self.column]
        return value["path"] if value["bytes"] is None else value["bytes"]


def load(source: str | Path, *, image_column: str | None = None, label_column: str | None = None) -> dict[str, ImageSet]:
    """The splits of a data set by name: `train`, and `validation` and `test` where it has them.

    `source` is a folder of class folders, a folder of parquet files, or the id of a data set on the Hub.
    """
    import datasets

    try:
        tables = datasets.load_dataset(str(source))
    except (FileNotFoundError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"Cannot read the data set {str(source)!r}: {reason}") from None
    splits = {}
    for split, names in _SPLIT_NAMES.items():
        if found := [name for name in tables if name in names]:
            splits[split] = _from_table(tables[found[0]], image_column, label_column)
    if TRAIN not in splits:
        raise DataError(f"The data set {str(source)!r} has no training split; it has {', '.join(tables)}.")
    for split, images in splits.items():
        if images.labels != splits[TRAIN].labels:
            raise DataError(f"The splits of {str(source)!r} disagree: {split} has other labels than train.")
    return splits


def _from_table(table: Any, image_column: str | None, label_column: str | None) -> ImageSet:
    import datasets

    pictures = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    image_column = image_column or (pictures[0] if pictures else None)
    label_column = label_column or (classes[0] if classes else None)
    if image_column not in table.features or label_column not in table.features:
        raise DataError(f"The data set has no image and label column; it has {', '.join(table.features)}.")
    if not isinstance(table.features[label_column], datasets.ClassLabel):
        table = table.class_encode_column(label_column)
    labels = tuple(table.features[label_column].names)
    targets = np.asarray(table[label_column][:], dtype=np.int64)
    return ImageSet(labels, _Column(table.cast_column(image_column, datasets.Image(decode=False)), image_column), targets)


def split_off(targets: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a stratified split: (kept, held out), each sorted; every class gives at least one picture."""
    random = np.random.default_rng(seed)
    held = [
        random.permutation(places)[: max(1, round(len(places) * fraction))]
        for places in (np.flatnonzero(targets == label) for label in np.unique(targets))
    ]
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(targets)), held_out), held_out
