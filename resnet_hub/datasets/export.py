"""Exports a dataset as a ZIP of class folders."""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from resnet_hub.atomic import open_atomic
from resnet_hub.datasets.dataset import TRAIN, ImageDataset
from resnet_hub.datasets.labels import escape_label
from resnet_hub.datasets.report import UnreadableImage
from resnet_hub.errors import DataError, ImageError, disk_is_full
from resnet_hub.images.load import SUFFIXES, read_encoded

_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif"}
_MAGIC |= {b"P%d" % number: ".ppm" for number in range(1, 7)}


def export_dataset(
    data: ImageDataset | Mapping[str, ImageDataset],
    target: str | Path,
    on_unreadable: Callable[[UnreadableImage], object] = lambda _: None,
) -> Path:
    """Write a dataset as a ZIP of class folders. `load_dataset` reads the same labels and the same bytes from it.

    Images are numbered within their class, and equal datasets give equal files. Labels that are not valid folder
    names are percent-encoded. An error leaves no partial file.

    Args:
        data: The images, or several splits by name, each of which gets a folder.
        target: The path of the ZIP; an existing file is replaced.
        on_unreadable: Called with each image that cannot be read, or is larger than 50 MB. It is left out.

    Returns:
        The path of the ZIP.

    Raises:
        DataError: The file cannot be written, or a class has no name.
    """
    target = Path(target)
    splits = {TRAIN: data} if isinstance(data, ImageDataset) else dict(data)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:  # JPEGs do not shrink
            for name, content in _iterate_entries(splits, on_unreadable):
                out.writestr(zipfile.ZipInfo(name), content)
    except OSError as error:
        reason = "the disk is full" if disk_is_full(error) else error.strerror or error
        raise DataError(f"Cannot write {target}: {reason}. Choose another path or free space.") from None
    return target


def _iterate_entries(
    splits: Mapping[str, ImageDataset], on_unreadable: Callable[[UnreadableImage], object]
) -> Iterator[tuple[str, bytes]]:
    for split, images in splits.items():
        prefix = f"{split}/" if len(splits) > 1 else ""
        counts = np.bincount(images.targets, minlength=len(images.labels))
        for target, label in enumerate(images.labels):
            if not label.strip("\0"):
                raise DataError("Cannot export the dataset: a class has no name. Give each class a name.")
            digits = len(str(counts[target]))
            for number, index in enumerate(np.flatnonzero(images.targets == target).tolist(), 1):
                name = images.name(index)
                try:
                    content = read_encoded(images.sources[index], name)
                except ImageError as error:
                    on_unreadable(UnreadableImage(split, label, name, str(error)))
                    continue
                suffix = _choose_suffix(name, content)
                yield f"{prefix}{escape_label(label)}/{number:0{digits}}{suffix}", content


def _choose_suffix(name: str, content: bytes) -> str:
    """Return the suffix of the name if it is one of an image format, else the suffix of the content's format."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    if content[8:12] == b"WEBP":
        return ".webp"
    if content[4:8] == b"ftyp":
        return ".avif" if content[8:12] == b"avif" else ".heic"
    return next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), ".jpg")
