"""Labeled images on the Hub to measure the accuracy without blocks on, and which model knows their labels."""

from collections.abc import Sequence
from typing import NamedTuple

_IMAGENET_CLASSES = 1000


class TestSet(NamedTuple):
    """Labeled images on the Hub."""

    title: str  # key of the message
    repo_id: str
    split: str
    subset: str | None = None
    revision: str | None = None


CIFAR10 = TestSet("inside_cifar10", "uoft-cs/cifar10", "test")
# Ten easy classes of ImageNet by fast.ai, Apache-2.0, 31 MB; ImageNet itself is given to registered users only. Most of
# the images are of ImageNet's training set, which its authors split anew. The commit has parquet files.
_IMAGENETTE_COMMIT = "4b23ffb92a8029db9958bdfdbd6978427d09b1a0"
IMAGENETTE = TestSet("inside_imagenette", "frgfm/imagenette", "validation", "160px", _IMAGENETTE_COMMIT)
IMAGENETTE_CLASSES = {  # and their indices in ImageNet
    "tench": 0,
    "English springer": 217,
    "cassette player": 482,
    "chain saw": 491,
    "church": 497,
    "French horn": 566,
    "garbage truck": 569,
    "gas pump": 571,
    "golf ball": 574,
    "parachute": 701,
}


def find_test_set(labels: Sequence[str]) -> tuple[TestSet, dict[str, int]] | None:
    """Find the test set for a model with these labels, and the model's class index of each label of the test set."""
    from resnet_hub.convert.config_json import read_label_set

    if set(labels) == set(read_label_set("cifar10")):
        return CIFAR10, {label: index for index, label in enumerate(labels)}
    is_imagenet = len(labels) == _IMAGENET_CLASSES
    if is_imagenet and all(label.casefold() in labels[index].casefold() for label, index in IMAGENETTE_CLASSES.items()):
        return IMAGENETTE, IMAGENETTE_CLASSES
    return None
