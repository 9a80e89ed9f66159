"""Loads a dataset from any source: class folders, a ZIP, lists of files, parquet files, or the Hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_hub.datasets.dataset import TRAIN, Splits
from resnet_hub.datasets.files import load_archive, load_folder, load_mapping
from resnet_hub.datasets.remote import HUB_PREFIX, MAX_DOWNLOAD, load_parquet_or_hub
from resnet_hub.errors import DataError


def load_dataset(
    source: str | Path | Mapping[str, Sequence[Any]],
    *,
    subset: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    max_bytes: int | None = None,
) -> Splits:
    """Load the splits of a dataset: `train`, and `validation` and `test` if it has them.

    Labels are in natural order (`class 2` before `class 10`), or in the order of a `ClassLabel` column.

    Args:
        source: One of

            - a folder of class folders, with or without folders `train`, `validation` and `test` above them;
            - a ZIP of the same (see `class_folders` for the accepted layouts);
            - a mapping from labels to lists of image files or bytes;
            - a folder of parquet files;
            - the id of a dataset on the Hub, such as `user/name`.
        subset: The name of the subset (configuration). Only for parquet and the Hub, as are the next three.
        split: The split to train on, such as `train[:10%]`. Then it is the only one.
        image_column: The column of the images. By default it is found by type and name.
        label_column: The column of the labels. By default it is found by type and name.
        revision: The branch, tag or commit of a dataset on the Hub. `Splits.commit` is the one that was read.
        token: The token for the Hub. None uses the saved one, False none.
        max_bytes: The limit of a download from the Hub, by default `MAX_DOWNLOAD`.

    Raises:
        DataError: The source does not exist, cannot be read or has no training images, or has not what an argument
            names.
        TooLargeError: The dataset on the Hub is larger than `max_bytes`. Nothing was downloaded.
    """
    limit = MAX_DOWNLOAD if max_bytes is None else max_bytes
    selection = {"subset": subset, "split": split, "image_column": image_column, "label_column": label_column}
    supported: set[str] = set()  # the arguments that this kind of source has
    path = None if isinstance(source, Mapping) or str(source).startswith(HUB_PREFIX) else Path(source)
    if isinstance(source, Mapping):
        splits = load_mapping(source)
    elif path and path.is_dir():
        if class_folders := load_folder(path):
            splits = class_folders
        else:
            splits, supported = load_parquet_or_hub(path, **selection), {*selection}
    elif path and path.is_file():
        splits = load_archive(path)
    else:
        repo_id = _parse_repo_id(str(source))
        splits = load_parquet_or_hub(repo_id, **selection, revision=revision, token=token, max_bytes=limit)
        supported = {*selection, "revision"}
    title = "The dataset" if isinstance(source, Mapping) else f"{Path(source).name or source}"
    for argument, value in {**selection, "revision": revision}.items():
        if value is not None and argument not in supported:
            kinds = "datasets on the Hub" if argument == "revision" else "parquet files and datasets on the Hub"
            raise DataError(f"{title} has no {argument} {value!r}: only {kinds} have one. Leave it out.")
    if TRAIN not in splits:
        raise DataError(f"{title} has no training images, only {' and '.join(splits)}. Add images to the split train.")
    return splits


def _parse_repo_id(source: str) -> str:
    """The id of a dataset on the Hub, and nothing that `datasets` would take for a local folder or a format."""
    name = source.removeprefix(HUB_PREFIX)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise DataError(
            f"There is no folder or file {source!r}, and it is not the id of a dataset on the Hub (user/name). "
            "Check the path or id."
        )
    if Path(name).exists():
        raise DataError(f"{name!r} is both a folder here and a dataset on the Hub. Start from another folder.")
    return name
