"""Decides what the files of a source mean: which are images, and the split and label of each.

In this order:

1. Own output (run folders, checkpoint folders, plots) and files of operating systems are left out.
2. `metadata.csv`, `.jsonl` or `.parquet` with a column of file names and one of labels: the Hub's imagefolder form.
   The split is that of the column `split`, else that of the folder.
3. Images with a label file of the same name beside them (`1.jpg`, `1.cls`): WebDataset.
4. Class folders (see `class_folders`).

Whatever has no place in the chosen form is in `Layout.skipped` with a reason.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import PurePosixPath
from typing import NamedTuple

from resnet_hub.datasets.class_folders import Folder, find_empty_folders, infer_classes
from resnet_hub.datasets.dataset import SPLITS, TRAIN
from resnet_hub.datasets.labels import is_system_file, is_system_folder, natural_key
from resnet_hub.datasets.listing import Listing
from resnet_hub.datasets.metadata import METADATA_NAMES, read_metadata
from resnet_hub.datasets.split_names import UNLABELLED, are_complete, choose_splits
from resnet_hub.datasets.webdataset import read_label_files
from resnet_hub.errors import ImageError
from resnet_hub.images.load import HEAD_BYTES, is_image

NESTED_ARCHIVE, OUTSIDE = "archive inside", "image outside the class folders"
DOT_FOLDER = "folder whose name begins with a dot"
EMPTY, NO_IMAGES = "folder without images", "folder of files that are not images"
OWN_OUTPUT, NO_ROW = "run or checkpoint folder", "image without a label in the metadata"
_ARCHIVE_SUFFIXES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}
_RUN_FILES = {"history.jsonl", "split.json", "report.json", "state.safetensors"}
_NEW_RUN_FILES = {"lock", "stop", "end"}  # all that a run directory holds while the data is read
_WEIGHTS = re.compile(r".*\.(safetensors|bin|onnx)(\.index\.json)?")
_PLOTS = {"confusion.png", "curves.png"}  # of a checkpoint folder


class Files(NamedTuple):
    """The files of a listing by what they are."""

    images: list[str]
    metadata: list[str]
    tables: list[str]  # parquet files
    archives: list[str]
    skipped: dict[str, list[str]]


class Sample(NamedTuple):
    """An image with its split and label."""

    split: str
    label: str
    path: str


class Layout(NamedTuple):
    """The images of a source."""

    samples: list[Sample]
    skipped: dict[str, list[str]]
    merged: dict[str, list[str]]
    takes_columns: bool  # whether the columns of a table were read


def sort_files(listing: Listing) -> Files:
    """Sort the files of a listing by what they are, and leave out own output and system files."""
    files = Files([], [], [], [], defaultdict(list, {reason: [*names] for reason, names in listing.skipped.items()}))
    own = find_own_output(listing.files)
    for path in sorted(listing.files, key=lambda path: (natural_key(path.rpartition("/")[0]), natural_key(path))):
        *parents, name = path.split("/")
        suffix = PurePosixPath(name).suffix.lower()
        if own_folder := _find_parent(parents, own):
            if own_folder not in files.skipped[OWN_OUTPUT]:
                files.skipped[OWN_OUTPUT].append(own_folder)
        elif any(map(is_system_folder, parents)) or is_system_file(name):
            files.skipped["system file"].append(path)
        elif suffix in _ARCHIVE_SUFFIXES:
            files.archives.append(path)
        elif name.lower() in METADATA_NAMES:
            files.metadata.append(path)
        elif suffix == ".parquet":
            files.tables.append(path)
        elif not _is_image(listing, path):
            files.skipped["not an image"].append(path)
        elif dotted := next((part for part in parents if part.startswith(".")), None):
            folder = "/".join(parents[: parents.index(dotted) + 1])
            if folder not in files.skipped[DOT_FOLDER]:
                files.skipped[DOT_FOLDER].append(folder)
        else:
            files.images.append(path)
    plots = _find_plots(files.images)
    files.skipped["plot of a run"] += sorted(plots)
    files.images[:] = [path for path in files.images if path not in plots]
    return files


def decide_layout(listing: Listing, files: Files, image_column: str | None, label_column: str | None) -> Layout:
    """Decide the split and label of each image; no samples if no form fits."""
    skipped = defaultdict(list, {reason: [*names] for reason, names in files.skipped.items()})
    skipped[NESTED_ARCHIVE] += files.archives
    folder_of: dict[str, Folder] = {path: tuple(path.split("/")[:-1]) for path in files.images}
    used = set(folder_of.values())
    classes, merged = infer_classes(used)
    has_classes = len({label for _, label in classes.values()}) > 1
    columns = {"image_column": image_column, "label_column": label_column}
    metadata = read_metadata(listing, files.metadata, set(files.images), **columns, has_classes=has_classes)
    labels, is_metadata = metadata.labels, bool(metadata.labels)
    for reason, names in metadata.skipped.items():
        skipped[reason] += names
    if not is_metadata:
        labels = read_label_files(listing, files.images, skipped["not an image"])
    if labels:
        splits = metadata.splits or _choose_splits_of(labels)
        samples = [Sample(splits[path], label, path) for path, label in labels.items() if splits.get(path) in SPLITS]
        taken = {sample.path for sample in samples}
        reason = NO_ROW if is_metadata else "image without a label file"
        skipped[reason] += [path for path in files.images if path not in taken]
        return Layout(samples, skipped, {}, is_metadata)
    skipped[OUTSIDE] += [path for path, folder in folder_of.items() if folder not in classes]
    reported = {*skipped[OWN_OUTPUT], *skipped[DOT_FOLDER]}
    with_files = {path.rpartition("/")[0] for path in skipped["not an image"]}
    known = sorted({*listing.folders, *with_files})
    unknown = [folder for folder in known if not _find_parent(folder.split("/"), reported)]
    for folder in find_empty_folders(unknown, used):
        is_empty = not any(f"{path}/".startswith(f"{folder}/") for path in with_files)
        skipped[EMPTY if is_empty else NO_IMAGES].append(folder)
    samples = [Sample(*classes[folder], path) for path, folder in folder_of.items() if folder in classes]
    return Layout(samples, skipped, merged, takes_columns=False)


def find_own_output(paths: Iterable[str]) -> set[str]:
    """Find the run and checkpoint folders of this project and of libraries with the same files, but not the root."""
    names_in = defaultdict(set)
    for path in paths:
        folder, _, name = path.rpartition("/")
        names_in[folder].add(name)
    return {folder for folder, names in names_in.items() if folder and _is_own_output(names)}


def _is_own_output(names: set[str]) -> bool:
    if names <= _NEW_RUN_FILES:
        return True
    is_run = ("run.json" in names and bool(names & _RUN_FILES)) or {"split.json", "report.json"} <= names
    return is_run or ("config.json" in names and any(map(_WEIGHTS.fullmatch, names)))


def _find_parent(parents: list[str], folders: set[str]) -> str | None:
    paths = ("/".join(parents[:end]) for end in range(1, len(parents) + 1))
    return next((path for path in paths if path in folders), None)


def _find_plots(images: list[str]) -> set[str]:
    """Find the plots of runs that were copied elsewhere: both in one folder, or the only images there."""
    names_in = defaultdict(set)
    for path in images:
        folder, _, name = path.rpartition("/")
        names_in[folder].add(name)
    folders = {folder for folder, names in names_in.items() if names >= _PLOTS or names <= _PLOTS}
    return {path for path in images if path.rpartition("/")[2] in _PLOTS and path.rpartition("/")[0] in folders}


def _is_image(listing: Listing, path: str) -> bool:
    with suppress(ImageError):
        return is_image(path, lambda: listing.read(path, HEAD_BYTES))
    return False


def _choose_splits_of(paths: Iterable[str]) -> dict[str, str]:
    """Choose the split of each image by the topmost folder whose name means one; without splits all are for training.

    Unlabelled ones, and those beside the folders of the splits, are left out.
    """
    parents = {path: path.split("/")[:-1] for path in paths}
    for level in range(max(map(len, parents.values()), default=0)):
        names = {folders[level] for folders in parents.values() if len(folders) > level}
        if are_complete((splits := choose_splits(names)).values()):
            split_of = {path: splits.get(folders[level]) for path, folders in parents.items() if len(folders) > level}
            return {path: split for path, split in split_of.items() if split and split != UNLABELLED}
    return dict.fromkeys(parents, TRAIN)
