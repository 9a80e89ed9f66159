"""Writes a dataset as a ZIP of class folders."""

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from resnet_hub.datasets.dataset import TRAIN, ImageDataset
from resnet_hub.datasets.names import escape_label
from resnet_hub.errors import DataError, disk_is_full
from resnet_hub.images.load import SUFFIXES

if TYPE_CHECKING:
    pass


def export_dataset(data: ImageDataset | Mapping[str, ImageDataset], target: str | Path) -> Path:
    """Writes a data set as a ZIP of class folders that `load` reads back: the same labels, the same bytes.

    Several splits get a folder each. Pictures are numbered within their class; the same pictures give the same file.
    Labels that are no folder names everywhere are percent-encoded. The file is there whole or not at all.
    """
    target = Path(target)
    splits = {TRAIN: data} if isinstance(data, ImageDataset) else dict(data)
    partial: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            partial = file.name
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:  # pictures are packed already
                for name, content in _entries(splits):
                    out.writestr(zipfile.ZipInfo(name), content)
        Path(partial).chmod(0o644)
        Path(partial).replace(target)
    except OSError as error:
        reason = "the disk is full" if disk_is_full(error) else error.strerror or error
        raise DataError(f"{target} cannot be written: {reason}.") from None
    finally:
        if partial:
            Path(partial).unlink(missing_ok=True)
    return target


def _entries(splits: Mapping[str, ImageDataset]) -> Iterator[tuple[str, bytes]]:
    for split, images in splits.items():
        above = f"{split}/" if len(splits) > 1 else ""
        counts = np.bincount(images.targets, minlength=len(images.labels))
        for target, label in enumerate(images.labels):
            if not label.strip("\0"):
                raise DataError("A class without a name cannot be exported; name it first.")
            digits = len(str(counts[target]))
            for number, place in enumerate(np.flatnonzero(images.targets == target), 1):
                content = images.read(int(place))
                yield (
                    f"{above}{escape_label(label)}/{number:0{digits}}{_suffix(images.name(int(place)), content)}",
                    content,
                )


_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif"}


def _suffix(name: str, content: bytes) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    if content[8:12] == b"WEBP":
        return ".webp"
    if content[4:8] == b"ftyp":
        return ".avif" if content[8:12] == b"avif" else ".heic"
    return next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), ".jpg")
