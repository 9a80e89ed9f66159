"""Recognizes splits by their names, whole or as words inside: `train`, `Testing`, `seg_train`, `test1`, `TrainImages`.

A name can be a class all the same (`bullet train`): the callers decide by the names beside it.
"""

import re
from collections.abc import Iterable

from resnet_hub.datasets.dataset import SPLIT_NAMES, TEST, TRAIN, VALIDATION

UNLABELED = "unlabeled"  # the split of images without labels; never read
_WITHOUT_LABELS = {"unlabeled", "unlabelled", "unsup", "unsupervised"}
_UNLABELED = _WITHOUT_LABELS | {"pred", "predict", "prediction"}
_TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_ENDINGS = ("set", "data", "images")  # `trainset`
_MEANINGLESS = {"set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder", "v"}


def find_split(name: str) -> str | None:
    """Return the split that a name means, `UNLABELED`, or None. Words of two splits (`train_val`) mean none."""
    if name.lower() in SPLIT_NAMES:
        return SPLIT_NAMES[name.lower()]
    tokens = [_strip_ending(token.lower()) for token in _TOKEN.findall(name)]
    if not _UNLABELED.isdisjoint(tokens):
        return UNLABELED
    splits = {SPLIT_NAMES[token] for token in tokens if token in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def choose_splits(names: Iterable[str]) -> dict[str, str]:
    """Find the splits among names that are beside each other.

    Returns:
        The split of each name that means one. Where a name is exactly that of a split (`test`), those that only contain
        the word (`test_extra`) are left out. Empty if all mean the same split: then the names are no evidence.
    """
    split_of = {name: split for name in names if (split := find_split(name))}
    exact = {SPLIT_NAMES[name.lower()] for name in split_of if name.lower() in SPLIT_NAMES}
    chosen = {name: split for name, split in split_of.items() if name.lower() in SPLIT_NAMES or split not in exact}
    return chosen if len(set(chosen.values())) > 1 else {}


def are_complete(splits: Iterable[str]) -> bool:
    """Whether splits divide a dataset: one is for training, or there are both of the others."""
    return TRAIN in (distinct := set(splits)) or {VALIDATION, TEST} <= distinct


def is_unlabeled(name: str) -> bool:
    """Whether a folder is named only after its lack of labels: `unlabeled`, `UnlabeledImages`; not `predictions`."""
    tokens = {token.lower() for token in _TOKEN.findall(name)}
    return bool(tokens & _WITHOUT_LABELS) and tokens <= _WITHOUT_LABELS | _MEANINGLESS


def are_all_splits(names: Iterable[str]) -> bool:
    """Whether every name means a split, and they differ in nothing else: `seg_train` and `seg_test`.

    `bullet train` and `test tube` are classes.
    """
    others = set()
    for name in names:
        if not find_split(name):
            return False
        tokens = {_strip_ending(token.lower()) for token in _TOKEN.findall(name)}
        others.add(frozenset(tokens - SPLIT_NAMES.keys() - _UNLABELED - _MEANINGLESS))
    return len(others) == 1


def _strip_ending(token: str) -> str:
    shorter = next((token.removesuffix(ending) for ending in _ENDINGS if token.endswith(ending)), token)
    return shorter if shorter in SPLIT_NAMES else token
