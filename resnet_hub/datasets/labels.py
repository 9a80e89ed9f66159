"""Labels: as folder names, their order, and how those of a dataset match those of a model."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from resnet_hub.datasets.dataset import SPLIT_NAMES, ImageDataset
from resnet_hub.errors import DataError, list_some, one_line

_SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r", "__macosx", "$recycle.bin", "@eadir"}
_SYSTEM_FOLDERS = {
    "__macosx",
    "$recycle.bin",
    "@eadir",
    "__pycache__",
    ".git",
    ".svn",
    ".dvc",
    ".cache",
    ".huggingface",
}
_SYSTEM_FOLDERS |= {".ipynb_checkpoints", ".thumbnails", ".trash", ".trashes", ".spotlight-v100", ".fseventsd"}
_SYSTEM_FOLDERS |= {"node_modules", "site-packages", "venv"}
ASSETS = {"assets", "figures", "images", "img", "media", "docs", "static", "previews", "thumbnails", "samples"}
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^[. ]|[. ]$')


def is_system_file(name: str) -> bool:
    """Whether an operating system made the file or folder, or it is hidden."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def is_system_folder(name: str) -> bool:
    """Whether a folder is one of an operating system or a tool, which never holds a class."""
    return name.lower() in _SYSTEM_FOLDERS


def escape_label(label: str) -> str:
    """Encode a label as a folder name that is valid on every system and that `unescape_label` decodes.

    Unsafe characters are percent-encoded, and so is the start of a name that means a split or a system file.
    """
    name = _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", label)
    if is_system_file(name) or name.lower() in SPLIT_NAMES:
        name = "".join(f"%{byte:02X}" for byte in name[0].encode()) + name[1:]
    return name if unicodedata.is_normalized("NFC", name) else quote(name, safe="% ")


def unescape_label(name: str) -> str:
    """Decode a folder name that `escape_label` made. Any other name is a label already; it is normalized to NFC."""
    label = unquote(name)
    return label if escape_label(label) == name else unicodedata.normalize("NFC", name)


def encode_label(column: str, value: Any) -> str | None:
    """Return the label that a value of a table means; None for a missing one.

    Raises:
        DataError: The value is a number with a fraction, several labels, or of another type.
    """
    match value:
        case None | "":
            return None
        case str() | int():
            return str(value)
        case float():
            if value != value:
                return None
            if value.is_integer():
                return str(int(value))
            cause = f"holds numbers such as {value:g}, not classes"
        case list() | tuple() | np.ndarray():
            cause = f"has several labels an image, such as {one_line(value, 40)}; one is supported"
        case _:
            cause = "contains no labels"
    raise DataError(f"The column {column!r} {cause}. Set label_column to the one that does, with one label an image.")


def natural_key(label: str) -> tuple[Any, ...]:
    """Return a sort key that puts `class 2` before `class 10`, the same on every machine."""
    text, *others = re.split(r"([0-9]+)", label.casefold())
    numbers = [digits.lstrip("0") for digits in others[::2]]
    return (text, [(len(n), n, after) for n, after in zip(numbers, others[1::2], strict=True)], label)


def match_labels(labels: Sequence[str], data: ImageDataset) -> np.ndarray:
    """Map the targets of a dataset to the class indices of a model.

    Args:
        labels: The labels of the model, by class index.
        data: The dataset. It may have some of the labels only, in another order.

    Returns:
        The class index of each image, an int64 array of shape (N,).

    Raises:
        DataError: The dataset is empty, has images without a label, has labels that the model does not have, or
            either has one label twice and the order differs.
    """
    targets = np.asarray(data.targets, np.int64)
    if not len(targets):
        raise DataError("The dataset has no images. Choose another split or dataset.")
    if unlabeled := int(((targets < 0) | (targets >= len(data.labels))).sum()):
        raise DataError(f"{unlabeled:,} of {len(targets):,} images have no label. Choose a split with labels.")
    if list(data.labels) == list(labels):
        return targets
    index_of = {label: index for index, label in enumerate(labels)}
    if unknown := [label for label in data.labels if label not in index_of]:
        problem = f"The model has no label {list_some(unknown, to_text=repr)}"
        all_labels = f"its labels are {list_some(labels, to_text=repr)}"
        raise DataError(f"{problem}; {all_labels}. Rename those classes or leave them out.")
    counts = Counter(labels) | Counter(data.labels)
    if repeated := [label for label in data.labels if counts[label] > 1]:
        raise DataError(f"Several classes have the label {repeated[0]!r}. Use the same order in model and dataset.")
    return np.array([index_of[label] for label in data.labels])[targets]
