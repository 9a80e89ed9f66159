"""Matches the labels of a dataset with those of a model."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import DataError

if TYPE_CHECKING:
    pass

_NAMED = 3  # labels or pictures that an error names before it counts the rest


def match_labels(names: Sequence[str], data: ImageDataset) -> np.ndarray:
    """The model's class index of every picture, (N,); the data set may have some of its labels, in another order."""
    targets = np.asarray(data.targets, np.int64)
    if not len(targets):
        raise DataError("The data set holds no pictures; there is nothing to evaluate.")
    if bad := int(((targets < 0) | (targets >= len(data.labels))).sum()):
        raise DataError(f"{bad:,} of {len(targets):,} pictures have no label; choose a split with labels.")
    if list(data.labels) == list(names):
        return targets
    known = set(names)
    if unknown := [repr(label) for label in data.labels if label not in known]:
        told = _some([repr(label) for label in names])
        raise DataError(
            f"The model does not know {_some(unknown)}, only {told}; rename those classes, or leave them out."
        )
    counts = Counter(names) | Counter(data.labels)
    if twice := [label for label in data.labels if counts[label] > 1]:
        raise DataError(f"The label {twice[0]!r} names several classes, so model and data set must order them alike.")
    place = {label: index for index, label in enumerate(names)}
    return np.array([place[label] for label in data.labels])[targets]


def _some(items: Sequence[str]) -> str:
    rest = len(items) - _NAMED
    return ", ".join(items[:_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
