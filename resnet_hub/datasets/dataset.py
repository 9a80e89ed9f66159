"""Labelled images and their splits."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_hub.errors import (
    DataError,
    ImageError,
)
from resnet_hub.images.load import MAX_IMAGE_BYTES, load_image

if TYPE_CHECKING:
    from PIL import Image

if TYPE_CHECKING:
    from PIL import Image


TRAIN, VALIDATION, TEST = "train", "validation", "test"
_ALIASES = {TRAIN: ("train", "training"), VALIDATION: ("validation", "valid", "val", "dev"), TEST: ("test", "testing")}
SPLIT_NAMES = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}  # lower case


@dataclass(frozen=True)
class ImageDataset:
    """Pictures as encoded bytes or paths, in a fixed order, each with the index of its label."""

    labels: tuple[str, ...]
    sources: Sequence[Any]
    targets: np.ndarray  # int64 (N,)
    names: Sequence[str] = ()  # what to call each picture in a message; unique within the set

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"picture {index}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageDataset":
        places = np.asarray(indices, dtype=np.int64)
        names = Subset(self.names, places) if self.names else ()
        return ImageDataset(self.labels, Subset(self.sources, places), self.targets[places], names)

    def read(self, index: int) -> bytes:
        """The encoded picture, at most `images.MAX_BYTES` and one; raises `ImageError`."""
        source = self.sources[index]
        if isinstance(source, bytes):
            return source
        try:
            with Path(source).open("rb") as file:
                return file.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise ImageError(f"{self.name(index)} cannot be read: {error.strerror}.") from None

    def decode(self, render: "Callable[[Image.Image], Image.Image]", threads: int = 2) -> np.ndarray:
        """Every picture, rendered to one size, as uint8 (N, H, W, C); bounded threads decode ahead."""

        def pixels(index: int) -> np.ndarray:
            return np.asarray(render(load_image(self.sources[index], name=self.name(index))))

        if not len(self):
            raise DataError("There are no pictures to decode.")
        with ThreadPoolExecutor(threads) as pool:
            arrays = pool.map(pixels, range(len(self)))
            first = next(arrays)
            out = np.empty((len(self), *first.shape), np.uint8)
            out[0] = first
            for index, array in enumerate(arrays, 1):
                out[index] = array
        return out


class Splits(dict[str, ImageDataset]):
    """The splits of a data set by name, all with the same labels, and what was left out of them on the way."""

    def __init__(
        self,
        splits: Mapping[str, ImageDataset],
        *,
        skipped: Mapping[str, list[str]] | None = None,  # names by reason
        gathered: Mapping[str, list[str]] | None = None,  # folders by class, where they are more than one
    ):
        super().__init__(splits)
        self.skipped, self.gathered = dict(skipped or {}), dict(gathered or {})
        self.commit: str | None = None  # that they were read at, of a data set on the Hub


class Subset(Sequence[Any]):
    """The items of a sequence at given places, read when asked for."""

    items: Sequence[Any]
    places: np.ndarray

    def __init__(self, items: Sequence[Any], places: np.ndarray):
        if isinstance(items, Subset):  # a subset of a subset is no deeper
            self.items, self.places = items.items, items.places[places]
        else:
            self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return self.items[int(self.places[index])]


def choose_split(splits: Splits, split: str | None) -> tuple[str, ImageDataset]:
    """The split of that name, or the first of validation, test, train that exists, with its name."""
    wanted = (VALIDATION, TEST, TRAIN) if split is None else (split,)
    for name in wanted:
        if name in splits:
            return name, splits[name]
    raise DataError(f"The data set has no split {split!r}; it has {', '.join(splits)}.")
