"""Reads the labels of WebDataset samples: files of one name and different suffixes (`1.jpg`, `1.cls`, `1.json`).

https://github.com/webdataset/webdataset describes the form.
"""

import json
from contextlib import suppress

from resnet_hub.datasets.labels import encode_label
from resnet_hub.datasets.listing import Listing
from resnet_hub.datasets.metadata import LABEL_COLUMNS, find_column, flatten
from resnet_hub.errors import ImageError

_MAX_LABEL_FILE = 2**20  # bytes


def read_label_files(listing: Listing, images: list[str], others: list[str]) -> dict[str, str]:
    """Read the labels of images from the files beside them. Label files are removed from `others`.

    Args:
        listing: The files of the source.
        images: The paths of the images.
        others: The paths of the files that are not images.

    Returns:
        The label of each image that has a label file, by path; empty unless most images have one.

    Raises:
        DataError: A label file has several labels.
    """
    for suffix in ("cls", "json"):
        files = {_get_key(path): path for path in others if path.endswith(f".{suffix}")}
        pairs = {path: files[key] for path in images if (key := _get_key(path)) in files}
        if 2 * len(pairs) > len(images):
            labels = {path: _read_label(listing, file) for path, file in pairs.items()}
            if labelled := {path: label for path, label in labels.items() if label is not None}:
                used = set(pairs.values())
                others[:] = [path for path in others if path not in used]
                return labelled
    return {}


def _get_key(path: str) -> str:
    """Return the path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _read_label(listing: Listing, path: str) -> str | None:
    with suppress(ImageError, ValueError, RecursionError):
        text = listing.read(path, _MAX_LABEL_FILE).decode()
        if path.endswith(".cls"):
            return encode_label("cls", text.strip())
        content = flatten(json.loads(text))
        key = find_column([*content], LABEL_COLUMNS)
        return encode_label(key, content[key]) if key else None
    return None
