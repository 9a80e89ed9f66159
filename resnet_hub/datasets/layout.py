"""Decides what the files of a source mean: which are images, and the split and label of each.

In this order:

1. Own output (run folders, checkpoint folders, plots) and files of operating systems are left out.
2. `metadata.csv`, `.jsonl` or `.parquet` with a column of file names and one of labels: the Hub's imagefolder form.
   The split is that of the column `split`, else that of the folder.
3. Images with a label file of the same name beside them (`1.jpg`, `1.cls`): WebDataset.
4. Class folders by the rules below.

Whatever has no place in the chosen form is in `Layout.skipped` with a reason.

The rules for class folders infer split and class from the folders that contain images, as tuples of names:
`("train", "cat")` is the folder `train/cat`.

1. Folders around everything else (wrappers) have no meaning. Images directly in a wrapper have no class::

       photos/cat/1.png  photos/dog/1.png  photos/cover.png    classes cat, dog; cover.png has none

2. Below the wrappers, the topmost folders are splits if they have names of splits, whole or as words inside (see
   `split_names`), there are at least two splits, and one contains folders. Folders beside the splits, unlabeled ones
   too, are left out, and wrappers inside a split have no meaning. Otherwise all images are for training, and such a
   name is a class::

       train/cat/1.png  val/cat/1.png  sample/cat/1.png        splits train, validation; sample is left out
       seg_train/seg_train/sea/1.png  seg_test/seg_test/sea/1.png  seg_pred/seg_pred/1.png     splits train, test
       bus/1.png  train/1.png                                  classes bus, train
       train/cat/1.png  train/dog/1.png                        train is a wrapper: classes cat, dog

   Without a folder for training, those beside a lone `val` or `test` that share two of its classes are for training::

       images/cat/1.png  images/dog/1.png  test/cat/1.png  test/dog/1.png      splits train, test

   Splits one folder further down count too if they hold at least half of the folders; those beside are left out::

       raw/cat/1.png  new/train/cat/1.png  new/val/cat/1.png   splits train, validation; raw is left out

3. The class is the topmost folder that contains images itself, and includes the folders in it::

       cat/1.png  cat/more/2.png  dog/1.png                    classes cat (2 images), dog

4. If the class folders of all images have the same name, it carries no information: the folder above is the class::

       cat/images/1.png  dog/images/1.png                      classes cat, dog

5. Most class folders have the same depth. A folder of images at another depth is left out, unless no depth has
   the most::

       pets/cat/1.png  pets/dog/1.png  preview/1.png           classes cat, dog

6. Class folders of the same name are merged::

       one/cat/1.png  two/cat/1.png  two/dog/1.png             classes cat (2 images), dog

7. If all classes have names of splits, the folders above are the classes. Without such folders nothing is a class,
   nor is it where all folders are named after the files in them::

       cat/train/1.png  cat/test/1.png  dog/train/1.png        splits train, test; classes cat, dog
       train/1.png  test1/1.png                                no classes
       images/1.png  masks/1.png                               no classes
       images_001/1.png  images_002/1.png                      no classes

8. A folder that is named after its lack of labels is left out, and so are masks beside a folder of images::

       cat/1.png  dog/1.png  unlabeled/1.png                   classes cat, dog
       images/cat/1.png  images/dog/1.png  masks/cat/1.png     classes cat, dog

9. A validation or test split whose only folders are named after files or splits is left out::

       train/cat/1.png  train/dog/1.png  val/images/1.png      classes cat, dog; the split train alone
"""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import NamedTuple

from resnet_hub.datasets.dataset import SPLIT_NAMES, SPLITS, TRAIN
from resnet_hub.datasets.labels import is_system_file, is_system_folder, natural_key, unescape_label
from resnet_hub.datasets.listing import Listing
from resnet_hub.datasets.split_names import (
    UNLABELED,
    are_all_splits,
    are_complete,
    choose_splits,
    find_split,
    is_unlabeled,
)
from resnet_hub.datasets.tables import METADATA_NAMES, read_metadata
from resnet_hub.datasets.tar import read_label_files
from resnet_hub.errors import ImageError
from resnet_hub.images.load import HEAD_BYTES, is_image

Folder = tuple[str, ...]


_Assignment = dict[Folder, tuple[str, Folder]]  # the split of each folder, and its path below the split
_IMAGES = {"images", "image", "img", "imgs"}
_MASKS = {
    *("label", "labels", "mask", "masks", "annotation", "annotations", "segmentation", "segmentations", "trimaps"),
    *("segmentationclass", "segmentationobject", "groundtruth", "ground_truth", "gt"),
}
_NO_CLASSES = _IMAGES | _MASKS | {"jpegimages"}  # folders that are named after the files in them


def infer_classes(folders: set[Folder]) -> tuple[dict[Folder, tuple[str, str]], dict[str, list[str]]]:
    """Infer the split and the label of each folder by the rules of this module.

    Args:
        folders: The folders that contain images directly.

    Returns:
        The (split, label) of each folder that belongs to a class, and the paths of merged class folders by label.
    """
    inside = _assign_splits(_leave_out_masks(folders))
    class_folders = _find_class_folders({path for _, path in inside.values()})
    names = {class_folder[-1] for class_folder in class_folders.values()}
    has_split_names = bool(names) and are_all_splits(names)
    above = {class_folder[-2] for class_folder in class_folders.values() if len(class_folder) > 1}
    if has_split_names and (len(above) < 2 or above <= _NO_CLASSES or are_all_splits(above)):
        return {}, {}
    if _name_files(names):
        return {}, {}
    classes: dict[Folder, tuple[str, str]] = {}
    class_paths: dict[Folder, str] = {}
    paths_of = defaultdict(set)
    for folder, (split, path) in inside.items():
        if not (class_folder := class_folders.get(path)) or is_unlabeled(class_folder[-1]):
            continue
        if has_split_names:
            inner_split = find_split(class_folder[-1])
            if len(class_folder) < 2 or not inner_split or inner_split == UNLABELED:
                continue
            split, class_folder = inner_split, class_folder[:-1]
        classes[folder] = split, unescape_label(class_folder[-1])
        class_paths[folder] = "/".join(class_folder)
    unlabeled = _find_unlabeled_splits({*classes.values()})
    classes = {folder: value for folder, value in classes.items() if value[0] not in unlabeled}
    for folder, (_, label) in classes.items():
        paths_of[label].add(class_paths[folder])
    return classes, {label: sorted(paths) for label, paths in paths_of.items() if len(paths) > 1}


def _leave_out_masks(folders: set[Folder]) -> set[Folder]:
    with_images = {
        folder[:depth] for folder in folders for depth, name in enumerate(folder) if name.casefold() in _IMAGES
    }
    return {
        folder
        for folder in folders
        if not any(name.casefold() in _MASKS and folder[:depth] in with_images for depth, name in enumerate(folder))
    }


def _assign_splits(folders: set[Folder]) -> _Assignment:
    """Assign folders to splits by rule 2, and remove the wrappers inside each split."""
    wrapper, inner = _split_off_wrapper(folders)
    if not (splits := _choose_splits_below(wrapper, inner)):
        wrapper = _find_parent_of_splits(wrapper, inner)
        if not (splits := _choose_splits_below(wrapper, inner)):
            return {folder: (TRAIN, folder) for folder in inner if folder}
    depth = len(wrapper)
    members = defaultdict(set)
    for folder in (folder for folder in inner if folder[:depth] == wrapper and len(folder) > depth):
        split = splits.get(folder[depth])
        if split and split != UNLABELED and len(folder) > depth + 1:
            members[split, folder[depth]].add(folder[depth + 1 :])
    assignment: _Assignment = {}
    top_names: set[str] = set()  # of the training split: folders that are no wrappers
    for split, name in sorted(members, key=lambda key: (key[0] != TRAIN, key)):
        inner_wrapper, paths = _split_off_wrapper(members[split, name])
        is_wrapper = [part not in top_names for part in inner_wrapper]
        length = min([*is_wrapper, False].index(False), min(map(len, paths)) - 1)
        is_train_class = any(path[length] in top_names for path in paths)
        if len(paths) == 1 and not is_train_class and not are_all_splits([name, *inner_wrapper[:length]]):
            length = 0  # a lone folder: the only class of the split
        top_names |= {path[length] for path in paths} if split == TRAIN else set()
        assignment |= {(*wrapper, name, *path): (split, path[length:]) for path in paths}
    return assignment


def _choose_splits_below(parent: Folder, folders: set[Folder]) -> dict[str, str]:
    """Return the splits by the names of the folders in `parent`; empty unless they divide it and contain folders."""
    depth = len(parent)
    inner: defaultdict[str, set[str]] = defaultdict(set)  # of each folder in `parent`: the names of the folders in it
    for folder in folders:
        if len(folder) > depth and folder[:depth] == parent:
            inner[folder[depth]].update(folder[depth + 1 : depth + 2])
    splits = choose_splits(inner) or _find_training_folders(inner)
    return splits if are_complete(split for name, split in splits.items() if inner[name]) else {}


def _find_training_folders(inner: Mapping[str, set[str]]) -> dict[str, str]:
    """Return the splits of folders, by name, if one is called `val` or `test` and the others share two of its classes.

    Args:
        inner: The names of the folders in each folder.
    """
    held_out = {name: SPLIT_NAMES[name.lower()] for name in inner if name.lower() in SPLIT_NAMES}
    others = inner.keys() - held_out.keys()
    if len(held_out) != 1 or not others or TRAIN in held_out.values():
        return {}
    classes = inner[next(iter(held_out))]
    is_alike = all(len(classes & inner[name]) > 1 for name in others)
    return held_out | dict.fromkeys(others, TRAIN) if is_alike else {}


def _find_parent_of_splits(wrapper: Folder, folders: set[Folder]) -> Folder:
    """Return the folder in `wrapper` whose splits hold at least half of the folders, or `wrapper`."""
    depth = len(wrapper) + 1
    counts = Counter(folder[:depth] for folder in folders if len(folder) > depth + 1)
    parents = [p for p, count in counts.items() if 2 * count >= len(folders) and _choose_splits_below(p, folders)]
    return parents[0] if len(parents) == 1 else wrapper


def _find_unlabeled_splits(classes: set[tuple[str, str]]) -> set[str]:
    """Return the splits whose class folders mean nothing, by the (split, label) of all classes."""
    labels_of = defaultdict(set)
    for split, label in classes:
        labels_of[split].add(label)
    trained = labels_of.pop(TRAIN, set())
    others = {split: labels for split, labels in labels_of.items() if trained and trained.isdisjoint(labels)}
    return {split for split, labels in others.items() if _name_files(labels) or are_all_splits(labels)}


def _name_files(names: set[str]) -> bool:
    """Whether all folders are named after the files in them: `images` and `masks`, or `images_001` and `images_002`."""
    words = {tuple(re.findall(r"[^\W\d_]+", name.casefold())) for name in names}
    are_numbered = len(words) == 1 and not _IMAGES.isdisjoint(*words) and "class" not in min(words)
    return bool(names) and (are_numbered or {name.casefold() for name in names} <= _NO_CLASSES)


def find_empty_folders(folders: list[str], used: set[Folder]) -> list[str]:
    """Find the topmost of `folders` that have no images in them or below.

    Args:
        folders: All folders, as paths with forward slashes.
        used: The folders that contain images directly.
    """
    used_paths = sorted("/".join(folder) + "/" for folder in used)

    def is_empty(folder: str) -> bool:
        index = bisect_left(used_paths, folder + "/")  # of the first used path that can be below the folder
        return index == len(used_paths) or not used_paths[index].startswith(folder + "/")

    candidates = [folder for folder in folders if folder != "." and not any(map(is_system_file, folder.split("/")))]
    empty = {folder for folder in candidates if folder and is_empty(folder)}
    return sorted(folder for folder in empty if folder.rpartition("/")[0] not in empty)


def _split_off_wrapper(folders: set[Folder]) -> tuple[Folder, set[Folder]]:
    """Return the folder around all others, and the others."""
    inner = set(folders)
    while inner:
        first, last = min(inner), max(inner)  # path prefixes that these two share, all share
        is_same = [one == other for one, other in zip(first, last, strict=False)]
        wrapper = first[: [*is_same, False].index(False)]
        if len(inner) == 1 or wrapper not in inner:
            return wrapper, inner
        inner.remove(wrapper)
    return (), inner


def _find_class_folders(folders: set[Folder]) -> dict[Folder, Folder]:
    """Map each folder to its class folder by rules 3 and 4."""
    wrapper, inner = _split_off_wrapper(folders)
    start = len(wrapper) + 1 if len(inner) > 1 else len(wrapper)
    class_of = {
        folder: next(folder[:end] for end in range(start, len(folder) + 1) if folder[:end] in inner) for folder in inner
    }
    while True:
        (depth, most), *others = Counter(map(len, set(class_of.values()))).most_common() or [(0, 0)]
        is_tie = any(count == most for _, count in others)
        main = {folder: path for folder, path in class_of.items() if is_tie or len(path) == depth}
        if len({path[-1] for path in main.values()}) != 1 or min(map(len, main.values())) <= start:
            return main
        class_of |= {folder: path[:-1] for folder, path in main.items()}


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
        labeled = {sample.path for sample in samples}
        reason = NO_ROW if is_metadata else "image without a label file"
        skipped[reason] += [path for path in files.images if path not in labeled]
        return Layout(samples, skipped, {}, is_metadata)
    skipped[OUTSIDE] += [path for path, folder in folder_of.items() if folder not in classes]
    reported = {*skipped[OWN_OUTPUT], *skipped[DOT_FOLDER]}
    with_files = {path.rpartition("/")[0] for path in skipped["not an image"]}
    folders = sorted({*listing.folders, *with_files})
    unknown = [folder for folder in folders if not _find_parent(folder.split("/"), reported)]
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

    Unlabeled ones, and those beside the folders of the splits, are left out.
    """
    parents = {path: path.split("/")[:-1] for path in paths}
    for level in range(max(map(len, parents.values()), default=0)):
        names = {folders[level] for folders in parents.values() if len(folders) > level}
        if are_complete((splits := choose_splits(names)).values()):
            split_of = {path: splits.get(folders[level]) for path, folders in parents.items() if len(folders) > level}
            return {path: split for path, split in split_of.items() if split and split != UNLABELED}
    return dict.fromkeys(parents, TRAIN)
