"""Labels in tables: `metadata.csv`, `.jsonl` or `.parquet` beside images, and parquet files that hold the images.

https://huggingface.co/docs/datasets/image_dataset describes the files beside images: `metadata.csv`, `metadata.jsonl`
or `metadata.parquet` has a column `file_name`, relative to the folder of the file, and further columns.
"""

import csv
import io
import json
import posixpath
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from resnet_hub.datasets.dataset import TRAIN, ImageDataset, LazySequence, Splits
from resnet_hub.datasets.labels import encode_label, natural_key
from resnet_hub.datasets.listing import Listing
from resnet_hub.datasets.split_names import are_all_splits, find_split
from resnet_hub.errors import DataError, ImageError, format_bytes, list_some, list_untrusted
from resnet_hub.images.decoding_limits import MAX_IMAGE_BYTES

METADATA_NAMES = {"metadata.csv", "metadata.jsonl", "metadata.parquet"}
FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path")
LABEL_COLUMNS = ("label", "labels", "cls", "class", "target", "fine_label", "category", "class_name", "label_name")
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
    listing: Listing,
    paths: list[str],
    images: set[str],
    image_column: str | None,
    label_column: str | None,
    *,
    has_classes: bool,
) -> Metadata:
    """Read the metadata files of a source.

    Args:
        listing: The files of the source.
        paths: The metadata files.
        images: The images.
        image_column: The column of the file names. By default one of `FILE_COLUMNS`.
        label_column: The column of the labels. By default one of `LABEL_COLUMNS`, or the only other column,
            unless it holds captions or there are class folders.
        has_classes: Whether the folders of the images are classes.

    Raises:
        DataError: A file cannot be read, has no such column, or its labels are no classes.
    """
    labels: dict[str, str] = {}
    splits: dict[str, str | None] = {}
    skipped = defaultdict(list)
    for path in sorted(paths, key=lambda path: -path.count("/")):  # the nearest file counts
        rows = _read_rows(listing, path) if images else []
        columns = list(dict.fromkeys(column for row in rows[:100] for column in row))
        file_column = image_column or find_column(columns, FILE_COLUMNS)
        column = label_column or _find_label_column(columns, file_column, has_classes=has_classes)
        if not rows or file_column is None or column is None:
            skipped["metadata without file names and labels"].append(path)
            continue
        for name in (file_column, column):
            if name not in columns:
                raise DataError(f"{path} has no column {name!r}. Choose one of {list_untrusted(columns, 10)}.")
        label_of = {}
        matches = _find_images(path, [str(row.get(file_column)) for row in rows], images)
        for row, image in zip(rows, matches, strict=True):
            if image is None:
                skipped[NO_FILE].append(f"{path}: {row.get(file_column)}")
            elif (label := encode_label(column, row.get(column))) is not None:
                label_of[image] = label
                splits.setdefault(image, find_split(str(row.get(_SPLIT_COLUMN))))
        labels = _drop_zeros(label_of) | labels
    stated = {image: split for image, split in splits.items() if split}
    return Metadata(labels, stated if len(stated) == len(splits) and TRAIN in stated.values() else {}, skipped)


def _find_images(metadata: str, names: list[str], images: set[str]) -> list[str | None]:
    """Return the images that a metadata file names, with forward slashes or those of Windows.

    Where no name is right, but that of a file in some folder below, that file is meant.
    """
    folder = posixpath.dirname(metadata)
    matches: list[str | None] = []
    for name in names:
        variants = (posixpath.normpath(posixpath.join(folder, variant)) for variant in (name, name.replace("\\", "/")))
        matches.append(next((image for image in variants if image in images), None))
    if any(matches):
        return matches
    paths_of = defaultdict(list)
    for image in images:
        if image.startswith(f"{folder}/" if folder else ""):
            paths_of[posixpath.basename(image)].append(image)
    return [paths_of[name][0] if len(paths_of[name]) == 1 else None for name in names]


def explain_no_labels(listing: Listing, paths: list[str], skipped: Mapping[str, list[str]]) -> str:
    """Return the message for metadata files in which labels cannot be found."""
    columns = list(dict.fromkeys(column for row in _read_rows(listing, paths[0])[:100] for column in row))
    if missing := skipped.get(NO_FILE):
        return (
            f"{missing[0].replace(': ', ' names the image ', 1)}, which does not exist. Give its path relative to the "
            "metadata file."
        )
    return (
        f"{paths[0]} has no columns of file names and labels, only {list_some(columns, 10) or 'none'}. "
        "Name them file_name and label, or set image_column and label_column."
    )


def _find_label_column(columns: list[str], file_column: str | None, *, has_classes: bool) -> str | None:
    others = [column for column in columns if column not in (file_column, _SPLIT_COLUMN, "id", "")]
    if (usual := find_column(others, LABEL_COLUMNS)) or has_classes:
        return usual
    return others[0] if len(others) == 1 and others[0] not in _CAPTION_COLUMNS else None


def find_column(columns: list[str], usual_names: tuple[str, ...]) -> str | None:
    """Return the column with a usual name, or else the only one that has it inside another, such as `meta.label`."""
    inner = [column for column in columns if column.rpartition(".")[2] in usual_names]
    return next((name for name in usual_names if name in columns), inner[0] if len(inner) == 1 else None)


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
            raise DataError(f"{path} has over {format_bytes(MAX_IMAGE_BYTES)}. Split it, one file per split.")
        if suffix == ".parquet":
            return _read_parquet(content)
        text = content.decode("utf-8-sig")
        if suffix == ".jsonl":
            rows = [flatten(json.loads(line)) for line in text.splitlines() if line.strip()]
        else:
            csv.field_size_limit(_MAX_FIELD)
            delimiter = max(",;\t", key=text.partition("\n")[0].count)  # as Excel writes in some countries
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
        if len(rows) > _MAX_ROWS:
            raise ValueError
    except (ValueError, RecursionError, csv.Error):
        raise DataError(f"{path} is damaged or not UTF-8. Save it again as a {suffix[1:]} file in UTF-8.") from None
    except ImageError as error:
        raise DataError(str(error)) from None
    return rows


def flatten(row: Any) -> dict[str, Any]:
    """Give the values of a dictionary inside a row columns of their own: `image.path`. Raises `ValueError`."""
    if not isinstance(row, dict):
        raise ValueError
    inner = [(column, value) for column, value in row.items() if isinstance(value, dict)]
    return {column: value for column, value in row.items() if not isinstance(value, dict)} | {
        f"{column}.{name}": item for column, value in inner for name, item in value.items()
    }


def _read_parquet(content: bytes) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError("Parquet files need another package. Run pip install 'resnet_hub[train]'.") from None
    try:
        rows = [flatten(row) for row in pq.read_table(io.BytesIO(content)).to_pylist()]
    except Exception as error:  # damaged files raise nearly any exception
        raise ValueError(str(error)) from None
    return rows


MAX_LABELS = 10_000  # a column with more values holds numbers or captions
_ENCODED_ROWS = 10_000  # whose labels are in memory at a time
_SET_COLUMN = "Set label_column to the one that does."
_IMAGE_COLUMNS = ("image", "img", "picture", "photo")


def load_tables(tables: dict[str, Any], image_column: str | None, label_column: str | None, root: Path) -> Splits:
    """Load images and labels from tables of the `datasets` library.

    Args:
        tables: The `datasets.Dataset` of each split, with one for training.
        image_column: The column of the images. By default it is found by type and name.
        label_column: The column of the labels. By default it is found by type and name.
        root: The folder that may contain image files. Files elsewhere are not read.

    Raises:
        DataError: A column does not exist, cannot be found or holds no labels, or the labels of the splits differ.
    """
    import datasets

    features = tables[TRAIN].features
    image_column, label_column = choose_columns(features, image_column, label_column)
    feature = features[label_column]
    if not isinstance(feature, datasets.ClassLabel | datasets.Value):
        rows = (value for table in tables.values() for value in table.with_format(None)[label_column] if value)
        encode_label(label_column, next(rows, None))
        raise DataError(explain_no_label_column(label_column))
    encoded = {split: _encode_values(table, label_column) for split, table in tables.items()}
    if isinstance(feature, datasets.ClassLabel):
        labels = tuple(feature.names)
        others = [split for split, table in tables.items() if table.features[label_column].names != feature.names]
        if others:
            problem = f"The splits {TRAIN} and {others[0]} have different labels in {label_column!r}"
            raise DataError(f"{problem}. Use the same.")
        index_of: dict[Any, int] = {index: index for index in range(len(labels))}
    else:
        distinct = {value for values, _ in encoded.values() for value in values}
        if len(distinct) > MAX_LABELS:
            raise DataError(explain_no_label_column(label_column))
        label_of = {value: label for value in distinct if (label := encode_label(label_column, value)) is not None}
        labels = tuple(sorted(set(label_of.values()), key=natural_key))
        index_of_label = {label: index for index, label in enumerate(labels)}
        index_of = {value: index_of_label[label] for value, label in label_of.items()}
    if are_all_splits(labels):
        raise DataError(f"The labels in {label_column!r} are the names of splits: {', '.join(labels)}. {_SET_COLUMN}")
    splits: dict[str, ImageDataset] = {}
    skipped: dict[str, list[str]] = defaultdict(list)
    for split, table in tables.items():
        values, codes = encoded[split]
        targets = np.array([index_of.get(value, -1) for value in (*values, None)], np.int64)[codes]
        column = table.select_columns(image_column).cast_column(image_column, datasets.Image(decode=False))
        sources = LazySequence(range(len(table)), partial(_read_image, column, image_column, root))
        names = LazySequence(range(len(table)), (split + "[{}]").format)  # train[0], train[1], ...
        images = ImageDataset(labels, sources, targets, names)
        if (targets < 0).any():  # the labels of a test split may be secret
            skipped["image without a label"] += [images.name(index) for index in np.flatnonzero(targets < 0).tolist()]
            images = images.subset(np.flatnonzero(targets >= 0))
        if len(images):
            splits[split] = images
    return Splits(splits, skipped=skipped)


def _encode_values(table: Any, column: str) -> tuple[list[Any], np.ndarray]:
    """Return the distinct values of a column, and for each row the index of its value, or -1 if it has none.

    A list of all values would take a hundred bytes a row.
    """
    code_of: dict[Any, int] = {}
    codes = [np.empty(0, np.int64)]
    for batch in table.select_columns(column).with_format("arrow").iter(_ENCODED_ROWS):
        encoded = batch[column].combine_chunks().dictionary_encode()
        of_batch = [code_of.setdefault(value, len(code_of)) for value in encoded.dictionary.to_pylist()]
        codes.append(np.array([*of_batch, -1])[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)])
    return list(code_of), np.concatenate(codes)


def choose_columns(features: Mapping[str, Any], image_column: str | None, label_column: str | None) -> tuple[str, str]:
    """Choose the columns of the images and of the labels. Raises `DataError` if there are none.

    Args:
        features: The columns of a table of the `datasets` library.
        image_column: The named column of the images, if one is named.
        label_column: That of the labels.
    """
    import datasets

    image_column = _choose_column(features, image_column, "image", _IMAGE_COLUMNS, datasets.Image)
    label_column = _choose_column(features, label_column, "label", LABEL_COLUMNS, datasets.ClassLabel)
    if isinstance(features[label_column], datasets.Image | datasets.Audio | dict):  # reading them could fetch files
        raise DataError(explain_no_label_column(label_column))
    return image_column, label_column


def count_image_rows(path: Path) -> int:
    """Count the rows of a parquet file that has a column of images; 0 for any other file."""
    try:
        import pyarrow.parquet as pq
        from pyarrow import types

        with pq.ParquetFile(path) as file:
            fields = list(file.schema_arrow)
            has_images = any(
                field.name in _IMAGE_COLUMNS
                or types.is_binary(field.type)
                or types.is_large_binary(field.type)
                or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
                for field in fields
            )
            return int(file.metadata.num_rows) if has_images else 0
    except Exception:  # pyarrow is not installed, or the file is damaged
        return 0


def explain_no_label_column(column: str) -> str:
    """Return the message for a column that holds no labels."""
    return f"The column {column!r} contains no labels. {_SET_COLUMN}"


def _choose_column(
    features: Mapping[str, Any], name: str | None, what: str, usual_names: tuple[str, ...], feature_type: type
) -> str:
    """Choose the named column, or by default a column of the type, or else one that has a usual name.

    Of several columns of the type, the one with the first usual name is chosen.
    """
    columns = ", ".join(features)
    if name is not None:
        if name not in features:
            raise DataError(f"The dataset has no column {name!r}. Choose one of {columns}.")
        return name
    typed = [column for column in features if isinstance(features[column], feature_type)]
    candidates = [column for column in usual_names if column in typed] or (typed if len(typed) == 1 else [])
    candidates = candidates or [column for column in usual_names if column in features]
    if not candidates:
        raise DataError(f"Cannot find the {what} column. Set {what}_column to one of {columns}.")
    return candidates[0]


def _read_image(table: Any, column: str, root: Path, index: int) -> bytes | Path:
    """Return the encoded image of a row, or its path if the table has no bytes.

    A table can contain any path of this machine. Paths outside `root` raise `ImageError`.
    """
    value = table[index][column]
    if value is None:
        raise ImageError(f"Row {index} has no image. Remove the row.")
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    path = Path(value["path"] or "").resolve()
    if not path.is_relative_to(root):
        raise ImageError(f"Row {index} refers to a file outside the dataset. Put the image into the dataset.")
    return path
