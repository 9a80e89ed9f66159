"""Matches the labels of a dataset with those of a model."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import DataError, list_some


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
    if unlabelled := int(((targets < 0) | (targets >= len(data.labels))).sum()):
        raise DataError(f"{unlabelled:,} of {len(targets):,} images have no label. Choose a split with labels.")
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
