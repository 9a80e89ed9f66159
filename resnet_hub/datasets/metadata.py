"""Reads the labels of images from metadata files beside them, the Hub's imagefolder form.

https://huggingface.co/docs/datasets/image_dataset describes it: `metadata.csv`, `metadata.jsonl` or `metadata.parquet`
has a column `file_name`, relative to the folder of the file, and further columns.
"""

import csv
import io
import json
import posixpath
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from resnet_hub.datasets.dataset import TRAIN
from resnet_hub.datasets.labels import encode_label
from resnet_hub.datasets.listing import Listing
from resnet_hub.datasets.split_names import find_split
from resnet_hub.errors import DataError, ImageError, list_some, list_untrusted
from resnet_hub.images.limits import MAX_IMAGE_BYTES

METADATA_NAMES = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "class_name", "label_name", "fine_label")
_SPLIT_COLUMN = "split"
_CAPTION_COLUMNS = {"text", "caption", "captions", "prompt", "description"}
NO_FILE = "row of the metadata without an image"
_MAX_ROWS = 5_000_000
_MAX_FIELD = 2**20  # characters of a field in a CSV file


class Metadata(NamedTuple):
    """The labels in the metadata files of a source."""

    labels: dict[str, str]  # by the path of the image
    splits: dict[str, str]  # the same; empty unless a column `split` names the split of each image
    skipped: dict[str, list[str]]


def read_metadata(
    listing: Listing, paths: list[str], images: set[str], image_column: str | None, label_column: str | None
) -> Metadata:
    """Read the metadata files of a source.

    Args:
        listing: The files of the source.
        paths: The metadata files.
        images: The images.
        image_column: The column of the file names. By default one of `FILE_COLUMNS`.
        label_column: The column of the labels. By default one of `LABEL_COLUMNS`, or the only other column,
            unless it holds captions.

    Raises:
        DataError: A file cannot be read, has no such column, or its labels are no classes.
    """
    labels: dict[str, str] = {}
    splits: dict[str, str | None] = {}
    skipped = defaultdict(list)
    for path in sorted(paths, key=lambda path: -path.count("/")):  # the nearest file counts
        rows = _read_rows(listing, path) if images else []
        columns = list(dict.fromkeys(column for row in rows[:100] for column in row))
        file_column = image_column or next((name for name in FILE_COLUMNS if name in columns), None)
        column = label_column or _find_label_column(columns, file_column)
        if not rows or file_column is None or column is None:
            skipped["metadata without file names and labels"].append(path)
            continue
        for name in (file_column, column):
            if name not in columns:
                raise DataError(f"{path} has no column {name!r}. Choose one of {list_untrusted(columns, 10)}.")
        label_of = {}
        for row in rows:
            image = _find_image(path, str(row.get(file_column)), images)
            if image is None:
                skipped[NO_FILE].append(f"{path}: {row.get(file_column)}")
            elif (label := encode_label(column, row.get(column))) is not None:
                label_of[image] = label
                splits.setdefault(image, find_split(str(row.get(_SPLIT_COLUMN))))
        labels = _drop_zeros(label_of) | labels
    stated = {image: split for image, split in splits.items() if split}
    return Metadata(labels, stated if len(stated) == len(splits) and TRAIN in stated.values() else {}, skipped)


def _find_image(metadata: str, name: str, images: set[str]) -> str | None:
    """Return the image that a metadata file names, with forward slashes or those of Windows."""
    for variant in (name, name.replace("\\", "/")):
        image = posixpath.normpath(posixpath.join(posixpath.dirname(metadata), variant))
        if image in images:
            return image
    return None


def explain_missing_columns(listing: Listing, paths: list[str]) -> str:
    """Return the message for metadata files in which labels cannot be found."""
    columns = list(dict.fromkeys(column for row in _read_rows(listing, paths[0])[:100] for column in row))
    return (
        f"{paths[0]} has no columns of file names and labels, only {list_some(columns, 10) or 'none'}. "
        "Name them file_name and label, or set image_column and label_column."
    )


def _find_label_column(columns: list[str], file_column: str | None) -> str | None:
    others = [column for column in columns if column not in (file_column, _SPLIT_COLUMN, "id", "")]
    usual = next((name for name in LABEL_COLUMNS if name in others), None)
    return usual or (others[0] if len(others) == 1 and others[0] not in _CAPTION_COLUMNS else None)


def _drop_zeros(labels: dict[str, str]) -> dict[str, str]:
    """Read `1.0` as `1` if all labels are whole numbers, as pandas writes them beside a missing one."""
    if all(label.removesuffix(".0").isdecimal() for label in labels.values()):
        return {path: label.removesuffix(".0") for path, label in labels.items()}
    return labels


def _read_rows(listing: Listing, path: str) -> list[dict[str, Any]]:
    suffix = PurePosixPath(path).suffix.lower()
    try:
        content = listing.read(path)
        if len(content) > MAX_IMAGE_BYTES:
            raise DataError(f"{path} has over {MAX_IMAGE_BYTES // 2**20} MB. Split it, one file per split.")
        if suffix == ".parquet":
            return _read_parquet(content)
        text = content.decode("utf-8-sig")
        if suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            csv.field_size_limit(_MAX_FIELD)
            delimiter = max(",;\t", key=text.partition("\n")[0].count)  # as Excel writes in some countries
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        if len(rows) > _MAX_ROWS or not all(isinstance(row, dict) for row in rows):
            raise ValueError
    except (ValueError, RecursionError, csv.Error):
        raise DataError(f"{path} is damaged or not UTF-8. Save it again as a {suffix[1:]} file in UTF-8.") from None
    except ImageError as error:
        raise DataError(str(error)) from None
    return rows


def _read_parquet(content: bytes) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ImportError:
        raise DataError("Parquet files need another package. Run pip install 'resnet_hub[train]'.") from None
    try:
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(content)).to_pylist()
    except Exception as error:  # damaged files raise nearly any exception
        raise ValueError(str(error)) from None
    return rows
