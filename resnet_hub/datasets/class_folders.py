"""Infers the split and the class of images from the folders that they are in.

Input are the folders that contain images, as tuples of names: `("train", "cat")` is the folder `train/cat`. The rules:

1. Folders around everything else (wrappers) have no meaning. Images directly in a wrapper have no class::

       photos/cat/1.png  photos/dog/1.png  photos/cover.png    classes cat, dog; cover.png has none

2. Below the wrappers, the topmost folders are splits if they have names of splits (`train`, `val`, `test`, ...; see
   `SPLIT_NAMES`), there are at least two splits, and `train` contains folders. Folders beside the splits are
   left out. Otherwise all images are for training, and such a name is a class::

       train/cat/1.png  val/cat/1.png  sample/cat/1.png        splits train, validation; sample is left out
       bus/1.png  train/1.png                                  classes bus, train
       train/cat/1.png  train/dog/1.png                        train is a wrapper: classes cat, dog

3. The class is the topmost folder that contains images itself, and includes the folders in it::

       cat/1.png  cat/more/2.png  dog/1.png                    classes cat (2 images), dog

4. If the class folders of all images have the same name, it carries no information: the folder above is the class::

       cat/images/1.png  dog/images/1.png                      classes cat, dog

5. Class folders of the same name are merged::

       one/cat/1.png  two/cat/1.png  two/dog/1.png             classes cat (2 images), dog
"""

from bisect import bisect_left
from collections import defaultdict

from resnet_hub.datasets.dataset import SPLIT_NAMES, TRAIN
from resnet_hub.datasets.labels import is_system_file, unescape_label

Folder = tuple[str, ...]


def infer_classes(folders: set[Folder]) -> tuple[dict[Folder, tuple[str, str]], dict[str, list[str]]]:
    """Infer the split and the label of each folder by the rules of this module.

    Args:
        folders: The folders that contain images directly.

    Returns:
        The (split, label) of each folder that belongs to a class, and the paths of merged class folders by label.
    """
    wrapper, inner = _split_off_wrapper(folders)
    depth = len(wrapper)
    top_names = {folder[depth].lower() for folder in inner if len(folder) > depth}
    has_train = any(len(folder) > depth + 1 and SPLIT_NAMES.get(folder[depth].lower()) == TRAIN for folder in inner)
    if has_train and len({SPLIT_NAMES[name] for name in top_names if name in SPLIT_NAMES}) > 1:
        splits = {folder: SPLIT_NAMES.get(folder[depth].lower()) for folder in inner}
        inside = {folder: folder[depth + 1 :] for folder, split in splits.items() if split and folder[depth + 1 :]}
    else:
        splits, inside = dict.fromkeys(inner, TRAIN), {folder: folder for folder in inner if folder}
    class_folders = _find_class_folders(set(inside.values()))
    classes, paths_of = {}, defaultdict(set)
    for folder, path in inside.items():
        if class_folder := class_folders.get(path):
            label = unescape_label(class_folder[-1])
            classes[folder] = str(splits[folder]), label
            paths_of[label].add("/".join(class_folder))
    return classes, {label: sorted(paths) for label, paths in paths_of.items() if len(paths) > 1}


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
    while len({path[-1] for path in class_of.values()}) == 1 and min(map(len, class_of.values())) > start:
        class_of = {folder: path[:-1] for folder, path in class_of.items()}
    return class_of
