"""Loads a dataset from any source: class folders, a ZIP, lists of files, parquet files, or the Hub."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from resnet_hub.datasets.archive import UNSUPPORTED_COMPRESSION, Archive
from resnet_hub.datasets.class_folders import Folder, find_empty_folders, infer_classes
from resnet_hub.datasets.dataset import SPLITS, TRAIN, ImageDataset, LazySequence, Names, Splits
from resnet_hub.datasets.labels import decode_file_name, is_system_file, natural_key
from resnet_hub.datasets.remote import HUB_PREFIX, MAX_DOWNLOAD, load_parquet_or_hub
from resnet_hub.errors import DataError
from resnet_hub.images.load import SUFFIXES
from resnet_hub.paths import walk_files

_ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
_NESTED_ARCHIVE, _OUTSIDE = "archive inside", "image outside the class folders"  # reasons in `Splits.skipped`


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
        DataError: The source does not exist, cannot be read or has no training images, or lacks the subset, split,
            column or revision that an argument names.
        TooLargeError: The dataset on the Hub is larger than `max_bytes`. Nothing was downloaded.
    """
    limit = MAX_DOWNLOAD if max_bytes is None else max_bytes
    selection = {"subset": subset, "split": split, "image_column": image_column, "label_column": label_column}
    supported: set[str] = set()  # the arguments that this kind of source takes
    path = None if isinstance(source, Mapping) or str(source).startswith(HUB_PREFIX) else Path(source)
    if isinstance(source, Mapping):
        splits = _load_mapping(source)
    elif path and path.is_dir():
        if class_folders := _load_folder(path):
            splits = class_folders
        else:
            splits, supported = load_parquet_or_hub(path, **selection), {*selection}
    elif path and path.is_file():
        splits = _load_archive(path)
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
    """Return the id of a dataset on the Hub. Raises `DataError` if `datasets` would take it for a folder or format."""
    name = source.removeprefix(HUB_PREFIX)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        problem = f"There is no folder or file {source!r}, and it is not the id of a dataset on the Hub (user/name)."
        raise DataError(f"{problem} Check the path or id.")
    if Path(name).exists():
        raise DataError(f"{name!r} is both a folder here and a dataset on the Hub. Start from another folder.")
    return name


def _load_folder(root: Path) -> Splits | None:
    """Load a folder of class folders. Returns None for a folder of parquet files without images."""
    files: dict[str, Path] = {}
    folders, has_parquet = [], False
    for parent, inner, names in walk_files(root):
        inner[:] = [name for name in inner if not is_system_file(name)]
        folder = decode_file_name(Path(parent).relative_to(root).as_posix())
        folders.append(folder)
        for name in names:
            path = Path(parent, name)
            if path.is_file():  # neither a pipe nor a broken link
                files[str(PurePosixPath(folder, decode_file_name(name)))] = path
                has_parquet = has_parquet or name.endswith(".parquet")
    if has_parquet and not any(PurePosixPath(name).suffix.lower() in SUFFIXES for name in files):
        return None
    return _build_splits(root.name, list(files), folders, {}, partial(LazySequence, get_item=files.__getitem__))


def _load_archive(path: Path) -> Splits:
    """Load a ZIP of class folders."""
    archive = Archive(path)
    get_sources = partial(LazySequence, get_item=archive.read)
    return _build_splits(path.name, list(archive.files), archive.folders, archive.skipped, get_sources)


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


def _build_splits(
    title: str, files: list[str], folders: list[str], skipped: Names, get_sources: Callable[[list[str]], Sequence[Any]]
) -> Splits:
    """Sort image files into splits and classes by their paths, which are relative and have forward slashes."""
    skipped = defaultdict(list, skipped)
    folder_of: dict[str, Folder] = {}
    for path in files:
        *parents, name = path.split("/")
        suffix = PurePosixPath(name).suffix.lower()
        if any(map(is_system_file, parents)) or is_system_file(name):
            skipped["system file"].append(path)
        elif suffix in _ARCHIVE_SUFFIXES:
            skipped[_NESTED_ARCHIVE].append(path)
        elif suffix not in SUFFIXES:
            skipped["not an image"].append(path)
        else:
            folder_of[path] = tuple(parents)
    used = set(folder_of.values())
    classes, merged = infer_classes(used)
    skipped[_OUTSIDE] += [path for path, folder in folder_of.items() if folder not in classes]
    skipped["folder without images"] += find_empty_folders(folders, used)
    if not classes:
        raise DataError(_explain_no_classes(title, skipped))

    labels = tuple(sorted({label for _, label in classes.values()}, key=natural_key))
    index_of = {label: index for index, label in enumerate(labels)}
    members = defaultdict(list)
    for path in sorted(folder_of, key=natural_key):
        if folder_of[path] in classes:
            split, label = classes[folder_of[path]]
            members[split].append((index_of[label], path))
    splits = {}
    for split in SPLITS:
        if rows := sorted(members[split], key=lambda row: row[0]):
            names = [path for _, path in rows]
            targets = np.array([target for target, _ in rows], np.int64)
            splits[split] = ImageDataset(labels, get_sources(names), targets, names)
    return Splits(splits, skipped={reason: paths for reason, paths in skipped.items() if paths}, merged=merged)


def _explain_no_classes(title: str, skipped: Names) -> str:
    if archives := skipped[_NESTED_ARCHIVE]:
        return f"{title} contains no images but archives such as {archives[0]}. Unpack them first."
    if skipped[UNSUPPORTED_COMPRESSION]:
        return f"{title} contains no images that can be read: {UNSUPPORTED_COMPRESSION}. Pack it again as a plain ZIP."
    if skipped[_OUTSIDE]:
        return f"{title} contains images but no class folders. Put the images of each class into a folder of its name."
    return f"{title} contains no images. Give a folder or ZIP with one folder of images for each class."
