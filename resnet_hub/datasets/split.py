"""Splits a dataset, stratified by class and without tearing groups apart."""

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    pass


def split_indices(
    targets: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a stratified split: (kept, held out), each sorted and the same for the same seed.

    Pictures of one group (int64 (N,), as `DataReport.groups` gives them) stay together and count for the label that
    most of them have. Each class with more than one group has pictures on both sides; the only group is kept.
    """
    random = np.random.default_rng(seed)
    groups = np.arange(len(targets)) if groups is None else np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    units = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []
    units.sort(key=lambda unit: unit[0])
    strata = defaultdict(list)
    for unit in units:
        strata[int(np.bincount(targets[unit]).argmax())].append(unit)
    held: list[np.ndarray] = []
    for label in sorted(strata):
        members = [strata[label][place] for place in random.permutation(len(strata[label]))]
        if len(members) < 2:
            continue
        wanted, taken = max(1, round(sum(map(len, members)) * fraction)), 0
        for unit in members[:-1]:
            if taken + len(unit) <= wanted:
                held.append(unit)
                taken += len(unit)
        if not taken:
            held.append(min(members, key=len))
    held_out = np.sort(np.concatenate(held)) if held else np.array([], np.int64)
    return np.setdiff1d(np.arange(len(targets)), held_out), held_out
