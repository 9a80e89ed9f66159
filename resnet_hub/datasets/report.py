"""The report on a dataset: counts, sizes, unreadable images, duplicates and findings, as data, JSON and text."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from resnet_hub.datasets.dataset import TRAIN, ImageDataset, Splits
from resnet_hub.errors import DataError, printable

MAX_SHOWN = 60  # characters of a label or file name that a message or table shows


class ImageRef(NamedTuple):
    """One image of a dataset; its split and name identify it."""

    split: str
    label: str
    name: str


@dataclass(frozen=True)
class UnreadableImage:
    """An image that cannot be decoded, and the reason. Training leaves it out."""

    split: str
    label: str
    name: str
    reason: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that look the same: copies of one file, or one image saved again, resized or photographed twice."""

    images: tuple[ImageRef, ...]
    files: tuple[int, ...]  # a number for each image; equal numbers mean identical bytes

    @property
    def is_exact(self) -> bool:
        """Whether all images are copies of one file."""
        return len(set(self.files)) == 1

    @classmethod
    def _from_json(cls, row: dict[str, Any]) -> "DuplicateGroup":
        images = row["images" if "images" in row else "pictures"]  # the key in version 0.1
        return cls(tuple(ImageRef(*image) for image in images), tuple(row["files"]))

    @property
    def splits(self) -> set[str]:
        return {image.split for image in self.images}

    @property
    def labels(self) -> set[str]:
        return {image.label for image in self.images}


@dataclass(frozen=True)
class Finding:
    """A message about the dataset. A fatal finding prevents training."""

    severity: Literal["fatal", "warning", "note"]
    kind: str  # a short code for the message, such as "few"
    message: str


@dataclass(frozen=True)
class ClassCount:
    """The readable images of one class in one split."""

    split: str
    label: str
    images: int
    bytes: int


@dataclass(frozen=True)
class DatasetReport:
    """The result of inspecting a dataset. `DatasetReport.from_json(report.to_json()) == report`."""

    labels: tuple[str, ...]
    classes: tuple[ClassCount, ...]  # by split, then in label order
    sizes: dict[str, tuple[int, int, int]]  # (minimum, median, maximum) of "width", "height" (pixels) and "bytes"
    unreadable: tuple[UnreadableImage, ...]
    duplicates: tuple[DuplicateGroup, ...]
    skipped: dict[str, list[str]]  # names of the files and folders that were left out, by reason
    findings: tuple[Finding, ...] = ()  # fatal ones first

    @property
    def images(self) -> int:
        """The number of readable images."""
        return sum(row.images for row in self.classes)

    @property
    def leaks(self) -> list[DuplicateGroup]:
        """Duplicates across splits. They inflate the measured accuracy."""
        return [group for group in self.duplicates if len(group.splits) > 1]

    @property
    def conflicts(self) -> list[DuplicateGroup]:
        """Duplicates with different labels."""
        return [group for group in self.duplicates if len(group.labels) > 1]

    @property
    def uniform_classes(self) -> set[str]:
        """Classes whose training images are all duplicates of each other."""
        counts = self.count_training_images()
        groups = (Counter(image.label for image in group.images if image.split == TRAIN) for group in self.duplicates)
        return {label for group in groups for label, count in group.items() if count == counts[label]}

    def count_training_images(self) -> dict[str, int]:
        """Count the readable training images of each label."""
        return {row.label: row.images for row in self.classes if row.split == TRAIN}

    def check(self) -> None:
        """Raise `DataError` with the first fatal finding, if there is one."""
        for finding in self.findings:
            if finding.severity == "fatal":
                raise DataError(finding.message)

    def rename_images(self, names: Mapping[tuple[str, str], str]) -> "DatasetReport":
        """Replace the names of the images; the messages of the findings stay.

        Args:
            names: The new name of each image, by (split, old name).
        """

        def rename(image: ImageRef) -> ImageRef:
            return image._replace(name=names[image.split, image.name])

        return replace(
            self,
            unreadable=tuple(replace(image, name=names[image.split, image.name]) for image in self.unreadable),
            duplicates=tuple(replace(group, images=tuple(map(rename, group.images))) for group in self.duplicates),
        )

    def drop_unreadable(self, splits: Mapping[str, ImageDataset]) -> Splits:
        """Return the splits without the images that cannot be read."""
        unreadable = {(image.split, image.name) for image in self.unreadable}
        readable = {}
        for split, images in splits.items():
            indices = [index for index in range(len(images)) if (split, images.name(index)) not in unreadable]
            readable[split] = images if len(indices) == len(images) else images.subset(indices)
        return Splits(readable, skipped=getattr(splits, "skipped", None), merged=getattr(splits, "merged", None))

    def group_duplicates(self, images: ImageDataset, split: str = TRAIN) -> np.ndarray:
        """Number the images so that duplicates share a number, as `split_indices` takes it.

        In a class of images that all look the same (frames of a webcam, for example), only identical files share a
        number. Otherwise no image of the class could be held out.

        Returns:
            An int64 array of shape (N,).
        """
        index_of = {images.name(index): index for index in range(len(images))}
        groups, uniform = np.arange(len(images)), self.uniform_classes
        for group in self.duplicates:
            first: dict[int, int] = {}
            for image, file in zip(group.images, group.files, strict=True):
                if image.split == split and image.name in index_of:
                    key = file if image.label in uniform else 0
                    groups[index_of[image.name]] = groups[first.setdefault(key, index_of[image.name])]
        return groups

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "DatasetReport":
        """Read what `to_json` wrote. Raises `DataError` for any other text."""
        try:
            content = json.loads(text)
            return cls(
                labels=tuple(content["labels"]),
                classes=tuple(ClassCount(**row) for row in content["classes"]),
                sizes={key: tuple(values) for key, values in content["sizes"].items()},
                unreadable=tuple(UnreadableImage(**row) for row in content["unreadable"]),
                duplicates=tuple(map(DuplicateGroup._from_json, content["duplicates"])),
                skipped=content["skipped"],
                findings=tuple(Finding(**row) for row in content["findings"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"Cannot read the dataset report: {error}. Create it again.") from None

    def to_text(self) -> str:
        """Format the report for a terminal: the table of classes, the image sizes, the findings."""
        splits = list(dict.fromkeys(row.split for row in self.classes))
        counts = {(row.split, row.label): row for row in self.classes}
        total = sum(row.bytes for row in self.classes)
        width = max([len("class"), *(len(shorten(label)) for label in self.labels)])
        lines = [f"{self.images:,} images, {format_bytes(total)}, {len(self.labels)} classes", ""]
        lines += [f"{'class':{width}}" + "".join(f"  {split:>10}" for split in splits) + f"  {'size':>9}"]
        for label in self.labels:
            rows = [counts[split, label] for split in splits]
            cells = "".join(f"  {row.images:>10,}" for row in rows)
            lines.append(f"{shorten(label):{width}}{cells}  {format_bytes(sum(row.bytes for row in rows)):>9}")
        if self.sizes:
            (w0, w1, w2), (h0, h1, h2) = self.sizes["width"], self.sizes["height"]
            lines += ["", f"Width {w0} to {w2} pixels (median {w1}), height {h0} to {h2} (median {h1})."]
        marks = {"fatal": "ERROR", "warning": "Warning", "note": "Note"}
        lines += ["", *(f"{marks[finding.severity]}: {finding.message}" for finding in self.findings)]
        return "\n".join(lines).rstrip() + "\n"


def shorten(text: str) -> str:
    """Replace unprintable characters by `?`, and cut the start of a long text: file names differ at the end."""
    return printable(text if len(text) <= MAX_SHOWN else f"...{text[3 - MAX_SHOWN :]}")


def format_bytes(count: int) -> str:
    """Format a number of bytes with its unit, such as `12.3 MB`."""
    return f"{count / 2**20:,.1f} MB" if count >= 2**20 else f"{count / 2**10:,.1f} KB"
