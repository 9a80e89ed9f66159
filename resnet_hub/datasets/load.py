"""Loads labelled images from wherever they lie: class folders, an archive, lists of files, parquet, or the Hub."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_hub.datasets.dataset import TRAIN, Splits
from resnet_hub.datasets.files import load_archive, load_folder, load_mapping
from resnet_hub.datasets.remote import HUB_PREFIX, MAX_DOWNLOAD, load_parquet_or_hub
from resnet_hub.errors import DataError

if TYPE_CHECKING:
    pass


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
    """The splits of a data set by name: `train`, and `validation` and `test` where it has them.

    `source` is a folder of class folders, with or without folders train, validation and test above them; a ZIP of the
    same, at any depth; a mapping of labels to picture files or bytes; a folder of parquet files; or the id of a data
    set on the Hub. The other arguments are for parquet and the Hub: the name of a subset, an expression for the split
    to train on (such as `train[:10%]`), the columns (found by their type where they are not named), and the token of
    whoever asks; False asks as nobody, where None may use the one saved on this machine. Of the Hub no more than
    `max_bytes` are downloaded (`MAX_DOWNLOAD`, where it is None). `Splits.commit` is the `revision` that
    reads the same again.

    Labels are in natural order (`class 2` before `class 10`), or in the order of a `ClassLabel` column. Raises
    `DataError` where there is nothing to train on, and `TooLargeError` before a download over `max_bytes`.
    """
    hub: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "max_bytes": MAX_DOWNLOAD if max_bytes is None else max_bytes,
    }
    named = {"subset": subset, "split": split, "image_column": image_column, "label_column": label_column}
    known: set[str] = set()  # of the names, those that such a source has
    if isinstance(source, Mapping):
        splits = load_mapping(source)
    elif str(source).startswith(HUB_PREFIX):
        splits, known = load_parquet_or_hub(_repo_id(str(source)), **named, **hub), {*named, "revision"}
    elif Path(source).is_dir():
        classes = load_folder(Path(source))
        splits, known = (classes, known) if classes else (load_parquet_or_hub(Path(source), **named), {*named})
    elif Path(source).is_file():
        splits = load_archive(Path(source))
    else:
        splits, known = load_parquet_or_hub(_repo_id(str(source)), **named, **hub), {*named, "revision"}
    for what, name in {**named, "revision": revision}.items():
        if name is not None and what not in known:
            others = "data sets on the Hub" if what == "revision" else "parquet and data sets on the Hub"
            raise DataError(f"{_called(source)} has no {what} {name!r}: only {others} have one; leave it out.")
    if TRAIN not in splits:
        raise DataError(f"{_called(source)} has no training pictures, only {' and '.join(splits)}.")
    return splits


def _repo_id(source: str) -> str:
    """The id of a data set on the Hub, and nothing that `datasets` would take for a folder here or a format."""
    name = source.removeprefix(HUB_PREFIX)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise DataError(f"There is no folder or file {source!r}, nor is it a data set on the Hub (user/name).")
    if Path(name).exists():
        raise DataError(f"{name!r} is a folder here as well as a name on the Hub; start from another folder.")
    return name


def _called(source: Any) -> str:
    return "The data set" if isinstance(source, Mapping) else f"{Path(source).name or source}"
