"""Loads datasets of image files: a folder, a ZIP, or lists of files by label."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from resnet_hub.datasets.archive import UNSUPPORTED_COMPRESSION, Archive
from resnet_hub.datasets.class_folders import Folder, find_empty_folders, infer_classes
from resnet_hub.datasets.dataset import SPLITS, TRAIN, ImageDataset, LazySequence, Splits
from resnet_hub.datasets.names import decode_file_name, is_system_file, natural_key
from resnet_hub.errors import DataError
from resnet_hub.images.load import SUFFIXES
from resnet_hub.paths import walk_files

_ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
NESTED_ARCHIVE, OUTSIDE = "archive inside", "image outside the class folders"  # reasons in `Splits.skipped`


def load_folder(root: Path) -> Splits | None:
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
    return _build_splits(root.name, list(files), folders, {}, lambda names: [files[name] for name in names])


def load_archive(path: Path) -> Splits:
    """Load a ZIP of class folders."""
    archive = Archive(path)

    def get_sources(names: list[str]) -> Sequence[Any]:
        return LazySequence(len(names), lambda index: archive.read(names[index]))

    return _build_splits(path.name, list(archive.files), archive.folders, archive.skipped, get_sources)


def load_mapping(source: Mapping[str, Sequence[Any]]) -> Splits:
    """Load the paths or bytes of images by label."""
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
    title: str,
    files: list[str],
    folders: list[str],
    skipped: Mapping[str, list[str]],
    get_sources: Callable[[list[str]], Sequence[Any]],
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
            skipped[NESTED_ARCHIVE].append(path)
        elif suffix not in SUFFIXES:
            skipped["not an image"].append(path)
        else:
            folder_of[path] = tuple(parents)
    used = set(folder_of.values())
    classes, merged = infer_classes(used)
    skipped[OUTSIDE] += [path for path, folder in folder_of.items() if folder not in classes]
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


def _explain_no_classes(title: str, skipped: Mapping[str, list[str]]) -> str:
    if archives := skipped[NESTED_ARCHIVE]:
        return f"{title} contains no images but archives such as {archives[0]}. Unpack them first."
    if skipped[UNSUPPORTED_COMPRESSION]:
        return f"{title} contains no images that can be read: {UNSUPPORTED_COMPRESSION}. Pack it again as a plain ZIP."
    if skipped[OUTSIDE]:
        return f"{title} contains images but no class folders. Put the images of each class into a folder of its name."
    return f"{title} contains no images. Give a folder or ZIP with one folder of images for each class."
