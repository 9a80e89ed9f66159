"""Labeled images and their splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from resnet_hub.errors import DataError, ImageError
from resnet_hub.images.decoding_limits import MAX_IMAGE_BYTES

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
Names: TypeAlias = Mapping[str, list[str]]  # of files, folders or images, by reason or label
SPLIT_NAMES = {  # the names, in lower case, by which a folder or a table is recognized as a split
    **dict.fromkeys(("train", "training", "trn", "训练集", "训练"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "validate", "dev", "验证集", "验证"), VALIDATION),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation", "holdout", "测试集", "测试"), TEST),
}


@dataclass(frozen=True)
class ImageDataset:
    """Encoded images, each with a label. Images are read when they are used."""

    labels: tuple[str, ...]
    sources: Sequence[Any]  # the bytes or the path of each image
    targets: np.ndarray  # int64 (N,): the index in `labels` of each image
    names: Sequence[str] = ()  # unique; shown in messages

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"image {index}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageDataset":
        """Select images by index, in the order of `indices`."""
        indices = np.asarray(indices, dtype=np.int64)
        sources, names = (LazySequence(indices, items.__getitem__) for items in (self.sources, self.names))
        return ImageDataset(self.labels, sources, self.targets[indices], names if self.names else ())

    def read(self, index: int) -> bytes:
        """Read the encoded image. Raises `ImageError` for a file that cannot be read.

        Returns:
            At most `MAX_IMAGE_BYTES + 1` bytes; `load_image` refuses more than `MAX_IMAGE_BYTES`.
        """
        source = self.sources[index]
        if isinstance(source, bytes):
            return source
        try:
            with Path(source).open("rb") as file:
                return file.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise ImageError(f"Cannot read {self.name(index)}: {error.strerror}. Check the file.") from None


class ImageRef(NamedTuple):
    """One image of a dataset; its split and name identify it."""

    split: str
    label: str
    name: str


class Splits(dict[str, ImageDataset]):
    """The splits of a dataset by name. All have the same labels.

    Attributes:
        skipped: The names of files and folders that were left out, by reason.
        merged: The folders of each class that was merged from several, by label.
        sample_of: If the splits are a sample, the number of training images and files that it stands for.
        commit: The commit of a dataset on the Hub.
    """

    def __init__(
        self,
        splits: Mapping[str, ImageDataset],
        skipped: Names | None = None,
        merged: Names | None = None,
        sample_of: str = "",
    ):
        super().__init__(splits)
        self.sample_of = sample_of
        self.skipped, self.merged = dict(skipped or {}), dict(merged or {})
        self.commit: str | None = None


class LazySequence(Sequence[Any]):
    """A sequence whose items are computed from keys when they are used: item `i` is `get_item(keys[i])`."""

    def __init__(self, keys: Sequence[Any] | np.ndarray, get_item: Callable[[Any], Any]):
        self.keys, self.get_item = keys, get_item

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        return self.get_item(self.keys[index])


def choose_split(splits: Splits, split: str | None) -> tuple[str, ImageDataset]:
    """Return the split of that name, or of another in `SPLIT_NAMES` for it, such as `val`.

    By default it is the first of validation, test and train that exists.

    Returns:
        The name of the split, and its images.

    Raises:
        DataError: The dataset has no such split.
    """
    for name in (VALIDATION, TEST, TRAIN) if split is None else (split, SPLIT_NAMES.get(split.lower(), split)):
        if name in splits:
            return name, splits[name]
    raise DataError(f"The dataset has no split {split!r}. Choose one of {', '.join(splits)}.")
