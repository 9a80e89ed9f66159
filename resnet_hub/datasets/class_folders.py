"""Infers splits and labels from the names of folders."""

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

from resnet_hub.datasets.dataset import SPLIT_NAMES, TRAIN
from resnet_hub.datasets.names import is_system_file, unescape_label

if TYPE_CHECKING:
    pass


Folder = tuple[str, ...]


def infer_classes(folders: set[Folder]) -> tuple[dict[Folder, tuple[str, str]], dict[str, list[str]]]:
    """Split and label of each folder that has pictures, where it has them, and the labels of more than one folder."""
    root, inner = _below_wrapper(folders)
    depth = len(root)
    tops = {folder[depth].lower() for folder in inner if len(folder) > depth}
    trains = any(len(folder) > depth + 1 and SPLIT_NAMES.get(folder[depth].lower()) == TRAIN for folder in inner)
    if trains and len({SPLIT_NAMES[top] for top in tops if top in SPLIT_NAMES}) > 1:
        splits = {folder: SPLIT_NAMES.get(folder[depth].lower()) for folder in inner}
        inside = {folder: folder[depth + 1 :] for folder, split in splits.items() if split and folder[depth + 1 :]}
    else:
        splits, inside = dict.fromkeys(inner, TRAIN), {folder: folder for folder in inner if folder}
    classes = _classes(set(inside.values()))
    parents = defaultdict(set)
    for path in classes.values():
        parents[unescape_label(path[-1])].add("/".join(path))
    return (
        {f: (str(splits[f]), unescape_label(classes[path][-1])) for f, path in inside.items() if path in classes},
        {label: sorted(paths) for label, paths in parents.items() if len(paths) > 1},
    )


def empty_folders(folders: list[str], used: set[Folder]) -> list[str]:
    """The topmost folders that have no picture in them or below."""
    full = sorted("/".join(folder) + "/" for folder in used)

    def is_empty(folder: str) -> bool:
        place = bisect_left(full, folder + "/")  # of the first that could lie in it
        return place == len(full) or not full[place].startswith(folder + "/")

    empty = {folder for folder in folders if folder not in ("", ".") and is_empty(folder)}
    return sorted(f for f in empty if f.rpartition("/")[0] not in empty and not any(map(is_system_file, f.split("/"))))


def _below_wrapper(folders: set[Folder]) -> tuple[Folder, set[Folder]]:
    """The folder around all others, and those others: pictures that lie in the wrapper itself belong to no class."""
    inner = set(folders)
    while inner:
        first, last = min(inner), max(inner)  # what these two share, all share
        same = [one == other for one, other in zip(first, last, strict=False)]
        root = first[: [*same, False].index(False)]
        if len(inner) == 1 or root not in inner:
            return root, inner
        inner.remove(root)
    return (), inner


def _classes(folders: set[Folder]) -> dict[Folder, Folder]:
    """The class folder of each folder: the topmost below the wrapper that has pictures itself.

    A name at the end that all of them share (`cat/images`, `dog/images`) is no class.
    """
    root, inner = _below_wrapper(folders)
    start = len(root) + 1 if len(inner) > 1 else len(root)
    tops = {f: next(f[:n] for n in range(start, len(f) + 1) if f[:n] in inner) for f in inner}
    while len({top[-1] for top in tops.values()}) == 1 and min(map(len, tops.values())) > start:
        tops = {folder: top[:-1] for folder, top in tops.items()}
    return tops
