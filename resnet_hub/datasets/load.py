"""Loads a dataset from any source: a folder, a ZIP or tar, lists of files, parquet files, or the Hub."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from resnet_hub.datasets.dataset import SPLITS, TRAIN, ImageDataset, LazySequence, Names, Splits
from resnet_hub.datasets.labels import ASSETS, natural_key
from resnet_hub.datasets.layout import OWN_OUTPUT, Files, Sample, decide_layout, sort_files
from resnet_hub.datasets.listing import FolderListing, Listing
from resnet_hub.datasets.remote import HUB_PREFIX, load_parquet_or_hub, measure_tables, parse_repo_id
from resnet_hub.datasets.split_names import are_all_splits, find_split
from resnet_hub.datasets.storage import Storage
from resnet_hub.datasets.tables import count_image_rows, explain_no_labels
from resnet_hub.datasets.tar import TarArchive, is_tar
from resnet_hub.datasets.zip import UNSUPPORTED_COMPRESSION, Archive
from resnet_hub.errors import DataError, list_untrusted
from resnet_hub.images.load import SUFFIXES
from resnet_hub.paths import expand_home

_UNREAD_ARCHIVES = {".xz", ".7z", ".rar", ".zst"}
_TAR = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2)$")


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
    needs_train: bool = True,
) -> Splits:
    """Load the splits of a dataset: `train`, and `validation` and `test` if it has them.

    Labels are in natural order (`class 2` before `class 10`), or in the order of a `ClassLabel` column.

    Args:
        source: One of

            - a folder of class folders, with or without folders `train`, `validation` and `test` above them;
            - a folder of images with their labels in `metadata.csv`, `.jsonl` or `.parquet`;
            - a ZIP or tar of the same (see `layout` for the accepted layouts), or a folder of tars (WebDataset);
            - a mapping from labels to lists of image files or bytes;
            - a folder of parquet files;
            - the id of a dataset on the Hub, such as `user/name`.
        subset: The name of the subset (configuration). Only for parquet and the Hub, as are the next three.
        split: The split to train on, such as `train[:10%]`. Then it is the only one.
        image_column: The column of the images. By default it is found by type and name.
        label_column: The column of the labels. By default it is found by type and name.
        revision: The branch, tag or commit of a dataset on the Hub. `Splits.commit` is the one that was read.
        token: The token for the Hub. None uses the saved one, False none.
        max_bytes: The limit of a download from the Hub, by default the free space of the disk.
        needs_train: Whether folders and archives without training images are refused.

    Raises:
        DataError: The source does not exist, cannot be read or has no training images, or lacks the subset, split,
            column or revision that an argument names.
        TooLargeError: The dataset on the Hub is larger than `max_bytes`. Nothing was downloaded.
    """
    columns = {"image_column": image_column, "label_column": label_column}
    selection: dict[str, Any] = {"subset": subset, "split": split, **columns}
    supported: set[str] = set()  # the arguments that this kind of source takes
    path = None if isinstance(source, Mapping) or str(source).startswith(HUB_PREFIX) else Path(expand_home(source))
    if isinstance(source, Mapping):
        splits = _load_mapping(source)
    elif path and path.exists():
        loaded = _load_files(open_listing(path), **columns)
        if isinstance(loaded, Files):
            tables = [path / name for name in loaded.tables]
            splits, supported = load_parquet_or_hub(path, tables=tables, **selection), {*selection}
            if loaded.images:
                splits.skipped["image beside the parquet files"] = loaded.images
        else:
            splits, takes_columns = loaded
            supported = {*columns} if takes_columns else set()
    else:
        repo_id = parse_repo_id(str(source))
        hub: dict[str, Any] = {"revision": revision, "token": token, "max_bytes": max_bytes}
        load_images = partial(_load_snapshot, title=repo_id, columns=columns)
        splits = load_parquet_or_hub(repo_id, **selection, load_images=load_images, **hub)
        supported = {*selection, "revision"}
    title = "The dataset" if path is None else path.resolve().name
    for argument, value in {**selection, "revision": revision}.items():
        if value is not None and argument not in supported:
            sources = "datasets on the Hub" if argument == "revision" else "parquet files and datasets on the Hub"
            sources = sources if argument in ("revision", "subset", "split") else f"metadata files, {sources}"
            raise DataError(f"{title} has no {argument} {value!r}: only {sources} have one. Leave it out.")
    if needs_train and TRAIN not in splits:
        raise DataError(f"{title} has no training images, only {' and '.join(splits)}. Add images to the split train.")
    return splits


def measure_storage(
    source: str | Path,
    *,
    subset: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Storage | None:
    """Return what `load_dataset` would write to the disk for tables; None for images in folders and archives."""
    path = None if str(source).startswith(HUB_PREFIX) else Path(expand_home(source))
    if path is None or not path.exists():
        repo_id = parse_repo_id(str(source))
        return measure_tables(repo_id, subset=subset, split=split, revision=revision, token=token)
    listing = open_listing(path)
    if not isinstance(listing, FolderListing) or not sort_files(listing).tables:
        return None
    loaded = _load_files(listing, None, None)
    if not isinstance(loaded, Files):
        return None
    return measure_tables(path, subset=subset, split=split, tables=[path / name for name in loaded.tables])


def open_listing(path: Path) -> Listing:
    """List the files of a folder, ZIP or tar; in a folder of tars, with no images but previews, those in the tars."""
    if not path.is_dir():
        if path.suffix.lower() == ".parquet":
            raise DataError(f"{path.name} is a file. Give the folder that it is in.")
        if path.suffix.lower() in _UNREAD_ARCHIVES:
            raise DataError(f"{path.name} is an archive that is not read. Pack it again as ZIP, tar or tar.gz.")
        return TarArchive(path) if is_tar(path) else Archive(path)
    listing = FolderListing(path)
    shards = [name for name in listing.files if _TAR.search(name.lower())]
    images = [name for name in listing.files if PurePosixPath(name).suffix.lower() in SUFFIXES]
    if shards and all({part.lower() for part in name.split("/")[:-1]} <= ASSETS for name in images):
        for name in shards:
            listing.mount(name, TarArchive(listing.files[name]))
    return listing


def _load_snapshot(folder: Path, title: str, columns: dict[str, str | None]) -> Splits:
    """Load the copy of a dataset on the Hub that is a folder of images."""
    listing = open_listing(folder)
    listing.title = title
    loaded = _load_files(listing, **columns)
    assert not isinstance(loaded, Files)  # without parquet files
    return loaded[0]


def _load_files(listing: Listing, image_column: str | None, label_column: str | None) -> tuple[Splits, bool] | Files:
    """Load the images of a folder or archive.

    Returns:
        The splits, and whether the columns of a table were read. If parquet files are the dataset, the sorted files.
    """
    files = sort_files(listing)
    layout = decide_layout(listing, files, image_column, label_column)
    if (
        isinstance(listing, FolderListing)
        and files.tables
        and not _hold_the_bulk(layout.samples, listing, files.tables)
    ):
        return files
    layout.skipped["parquet file beside the images"] += files.tables
    if not layout.samples:
        raise DataError(_explain_no_classes(listing, files, layout.skipped))
    labels = tuple(sorted({sample.label for sample in layout.samples}, key=natural_key))
    if are_all_splits(labels):
        raise DataError(f"The labels of {listing.title} are the names of splits: {', '.join(labels)}. Correct them.")
    index_of = {label: index for index, label in enumerate(labels)}
    members = defaultdict(list)
    for split, label, path in layout.samples:
        members[split].append((index_of[label], natural_key(path), path))
    splits = {}
    for split in SPLITS:
        if rows_of_split := sorted(members[split]):
            names = [path for *_, path in rows_of_split]
            targets = np.array([target for target, *_ in rows_of_split], np.int64)
            splits[split] = ImageDataset(labels, LazySequence(names, listing.get_source), targets, names)
    skipped = {reason: names for reason, names in layout.skipped.items() if names}
    return Splits(splits, skipped=skipped, merged=layout.merged), layout.takes_columns


def _hold_the_bulk(samples: list[Sample], listing: FolderListing, tables: list[str]) -> bool:
    """Whether class folders hold more images than the parquet files beside them."""
    labels = {sample.label for sample in samples}
    if len(labels) < 2 or {label.lower() for label in labels} <= ASSETS:
        return False
    return len(samples) > sum(count_image_rows(listing.root / table) for table in tables)


def _load_mapping(source: Mapping[str, Sequence[Any]]) -> Splits:
    """Load lists of the paths or bytes of images, by label."""
    labels = tuple(sorted((label for label in source if source[label]), key=natural_key))
    if not labels:
        raise DataError("The dataset has no images yet. Add images to at least two classes.")
    rows = [
        (image, target, f"{label}/{number if isinstance(image, bytes) else Path(image).name}")
        for target, label in enumerate(labels)
        for number, image in enumerate(source[label], 1)
    ]
    seen, names = Counter[str](), []
    for *_, name in rows:
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    images = ImageDataset(labels, [row[0] for row in rows], np.array([row[1] for row in rows], np.int64), names)
    empty = [label for label in source if not source[label]]
    return Splits({TRAIN: images}, skipped={"folder without images": empty} if empty else None)


def _explain_no_classes(listing: Listing, files: Files, skipped: Names) -> str:
    title = listing.title
    if files.tables:
        return f"{title} contains parquet files, which are read from a folder. Unpack it."
    if files.metadata and files.images:
        return explain_no_labels(listing, files.metadata, skipped)
    if files.archives and not files.images:
        return f"{title} contains no images but archives such as {files.archives[0]}. Unpack them first."
    if skipped.get(UNSUPPORTED_COMPRESSION):
        return f"{title} contains no images that can be read: {UNSUPPORTED_COMPRESSION}. Pack it again as a plain ZIP."
    if not files.images:
        if own := skipped.get(OWN_OUTPUT):
            return f"{title} contains no images but the run or checkpoint folder {own[0]}. Give a folder of images."
        return f"{title} contains no images. Give a folder or ZIP with one folder of images for each class."
    remedy = "Put the images of each class into a folder of its name"
    tables = [path for path in skipped.get("not an image", []) if path.endswith((".csv", ".jsonl"))]
    if tables := [path for path in tables if "submission" not in path.lower()]:  # Kaggle's form for predictions
        tables.sort(key=lambda path: find_split(PurePosixPath(path).stem) != TRAIN)
        remedy += (
            f", or rename {tables[0]} to metadata{PurePosixPath(tables[0]).suffix} with columns file_name and label"
        )
    top_names = {path.split("/")[0] for path in files.images if "/" in path}
    if top_names and are_all_splits(top_names):
        splits = list_untrusted(sorted(top_names))
        return f"{title} contains images but no class folders, only those of splits ({splits}). {remedy}."
    return f"{title} contains images but no class folders. {remedy}."
