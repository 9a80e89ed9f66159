"""Loads datasets of tables (parquet files): finds the columns of images and labels."""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnet_hub.datasets.dataset import TRAIN, ImageDataset, LazySequence, Splits
from resnet_hub.datasets.labels import encode_label, natural_key
from resnet_hub.datasets.split_names import are_all_splits
from resnet_hub.errors import DataError, ImageError

MAX_LABELS = 10_000  # a column with more values holds numbers or captions
_SET_COLUMN = "Set label_column to the one that does."
_IMAGE_COLUMNS = ("image", "img", "picture", "photo")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label")


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
    image_column = _choose_column(features, image_column, "image", _IMAGE_COLUMNS, datasets.Image)
    label_column = _choose_column(features, label_column, "label", _LABEL_COLUMNS, datasets.ClassLabel)
    feature = features[label_column]
    if isinstance(feature, datasets.Image | datasets.Audio | dict):  # reading them could fetch files
        raise DataError(_explain_no_labels(label_column))
    values = {split: table.with_format(None)[label_column][:] for split, table in tables.items()}
    if isinstance(feature, datasets.ClassLabel):
        labels = tuple(feature.names)
        others = [split for split, table in tables.items() if table.features[label_column].names != feature.names]
        if others:
            problem = f"The splits {TRAIN} and {others[0]} have different labels in {label_column!r}"
            raise DataError(f"{problem}. Use the same.")
        index_of: dict[Any, int] = {index: index for index in range(len(labels))}
    else:
        if not isinstance(feature, datasets.Value):
            encode_label(label_column, next((value for column in values.values() for value in column if value), None))
            raise DataError(_explain_no_labels(label_column))
        distinct = {value for column in values.values() for value in column}
        if len(distinct) > MAX_LABELS:
            raise DataError(_explain_no_labels(label_column))
        label_of = {value: label for value in distinct if (label := encode_label(label_column, value)) is not None}
        labels = tuple(sorted(set(label_of.values()), key=natural_key))
        index_of_label = {label: index for index, label in enumerate(labels)}
        index_of = {value: index_of_label[label] for value, label in label_of.items()}
    if are_all_splits(labels):
        raise DataError(f"The labels in {label_column!r} are the names of splits: {', '.join(labels)}. {_SET_COLUMN}")
    splits: dict[str, ImageDataset] = {}
    skipped: dict[str, list[str]] = defaultdict(list)
    for split, table in tables.items():
        targets = np.array([index_of.get(value, -1) for value in values[split]], np.int64)
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


def count_image_rows(path: Path) -> int:
    """Count the rows of a parquet file that has a column of images; 0 for any other file."""
    try:
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
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


def _explain_no_labels(column: str) -> str:
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
