"""Datasets of image files: a folder, a ZIP, or lists of files by label."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_hub.datasets.archive import UNREAD, Archive
from resnet_hub.datasets.class_folders import Folder, empty_folders, infer_classes
from resnet_hub.datasets.dataset import _ALIASES, TRAIN, ImageDataset, Splits
from resnet_hub.datasets.names import decode_file_name, is_system_file, natural_key
from resnet_hub.errors import DataError
from resnet_hub.images.load import SUFFIXES
from resnet_hub.paths import walk_files

if TYPE_CHECKING:
    pass

_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}


def load_folder(root: Path) -> Splits | None:
    """None for a folder that has no pictures but parquet files."""
    files: dict[str, Path] = {}
    folders, parquet = [], False
    for parent, inner, names in walk_files(root):
        inner[:] = [name for name in inner if not is_system_file(name)]
        below = decode_file_name(Path(parent).relative_to(root).as_posix())
        folders.append(below)
        for name in names:
            path = Path(parent, name)
            if path.is_file():  # neither a pipe nor a broken link
                files[str(PurePosixPath(below, decode_file_name(name)))] = path
                parquet = parquet or name.endswith(".parquet")
    if parquet and not any(PurePosixPath(name).suffix.lower() in SUFFIXES for name in files):
        return None
    return _arranged(root.name, list(files), folders, {}, lambda names: [files[name] for name in names])


def load_archive(path: Path) -> Splits:
    archive = Archive(path)
    return _arranged(
        path.name, list(archive.files), archive.folders, archive.skipped, lambda names: _Zipped(archive, names)
    )


class _Zipped(Sequence[Any]):
    """Files of a ZIP, read when asked for."""

    def __init__(self, archive: Archive, names: list[str]):
        self.archive, self.names = archive, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> bytes:
        return self.archive.read(self.names[int(index)])


def _arranged(
    title: str,
    files: list[str],
    folders: list[str],
    skipped: Mapping[str, list[str]],
    sources: Callable[[list[str]], Sequence[Any]],
) -> Splits:
    """Splits and labels from the names of files, which are relative paths with forward slashes."""
    left_out = defaultdict(list, skipped)
    pictures: dict[str, Folder] = {}
    for name in files:
        *above, last = name.split("/")
        suffix = PurePosixPath(last).suffix.lower()
        if any(map(is_system_file, above)) or is_system_file(last):
            left_out["system file"].append(name)
        elif suffix in _ARCHIVES:
            left_out["archive inside"].append(name)
        elif suffix not in SUFFIXES:
            left_out["no picture"].append(name)
        else:
            pictures[name] = tuple(above)
    places, gathered = infer_classes(set(pictures.values()))
    left_out["picture outside the class folders"] += [name for name in pictures if pictures[name] not in places]
    left_out["folder without pictures"] += empty_folders(folders, set(pictures.values()))
    if not places:
        raise DataError(_nothing(title, left_out))

    labels = tuple(sorted({label for _, label in places.values()}, key=natural_key))
    index = {label: number for number, label in enumerate(labels)}
    members = defaultdict(list)
    for name in sorted(pictures, key=natural_key):
        if pictures[name] in places:
            split, label = places[pictures[name]]
            members[split].append((index[label], name))
    splits = {}
    for split in _ALIASES:
        if split in members:
            found = sorted(members[split], key=lambda member: member[0])
            names = [name for _, name in found]
            splits[split] = ImageDataset(
                labels, sources(names), np.array([target for target, _ in found], np.int64), names
            )
    return Splits(splits, skipped={reason: names for reason, names in left_out.items() if names}, gathered=gathered)


def _nothing(title: str, left_out: Mapping[str, list[str]]) -> str:
    if left_out["archive inside"]:
        return f"{title} holds no pictures but archives such as {left_out['archive inside'][0]}; unpack them first."
    if left_out[UNREAD]:
        return f"{title} holds no pictures but files {UNREAD}; pack it again as a plain ZIP."
    if left_out["picture outside the class folders"]:
        return f"{title} has pictures but no class folders; put the pictures of each class into a folder of its name."
    return f"{title} holds no pictures; expected a folder for each class with its pictures inside."


def load_mapping(source: Mapping[str, Sequence[Any]]) -> Splits:
    labels = tuple(sorted((label for label in source if source[label]), key=natural_key))
    if not labels:
        raise DataError("There are no pictures yet; add some to at least two classes.")
    sources: list[Any] = []
    targets: list[int] = []
    names: list[str] = []
    for target, label in enumerate(labels):
        for number, picture in enumerate(source[label], 1):
            last = str(number) if isinstance(picture, bytes) else Path(picture).name
            sources.append(picture)
            targets.append(target)
            names.append(f"{label}/{last}")
    for name, count in Counter(names).items():
        if count > 1:
            places = [place for place, other in enumerate(names) if other == name]
            for number, place in enumerate(places[1:], 2):
                names[place] = f"{name} ({number})"
    empty = [label for label in source if not source[label]]
    images = ImageDataset(labels, sources, np.array(targets, np.int64), names)
    return Splits({TRAIN: images}, skipped={"folder without pictures": empty} if empty else None)
