"""Splits a dataset into training and validation images."""

from collections import defaultdict

import numpy as np


def split_indices(
    targets: np.ndarray, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split a dataset, stratified by class. Images of one group stay on one side.

    Every class with more than one group has images on both sides. The only group of a class is not held out.

    Args:
        targets: The class index of each image, int64 (N,).
        fraction: The share of each class to hold out, between 0 and 1.
        seed: The same seed gives the same split.
        groups: The group of each image, int64 (N,), from `DatasetReport.group_duplicates`. A group counts for the
            class that most of its images have. By default each image is a group.

    Returns:
        The indices of the images to keep, and of those to hold out; both sorted.
    """
    generator = np.random.default_rng(seed)
    groups = np.arange(len(targets)) if groups is None else np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    units = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []
    units.sort(key=lambda unit: unit[0])
    strata = defaultdict(list)
    for unit in units:
        strata[int(np.bincount(targets[unit]).argmax())].append(unit)
    held_out: list[np.ndarray] = []
    for target in sorted(strata):
        members = [strata[target][index] for index in generator.permutation(len(strata[target]))]
        if len(members) < 2:
            continue
        quota, num_held_out = max(1, round(sum(map(len, members)) * fraction)), 0
        for unit in members[:-1]:
            if num_held_out + len(unit) <= quota:
                held_out.append(unit)
                num_held_out += len(unit)
        if not num_held_out:
            held_out.append(min(members, key=len))
    indices = np.sort(np.concatenate(held_out)) if held_out else np.array([], np.int64)
    return np.setdiff1d(np.arange(len(targets)), indices), indices
