"""Inspects a dataset: decodes each image once and creates the report."""

import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import cast

import numpy as np

from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.datasets.duplicates import Fingerprint, compute_fingerprint, find_duplicates
from resnet_hub.datasets.findings import find_problems
from resnet_hub.datasets.report import ClassCount, DatasetReport, DuplicateGroup, ImageRef, UnreadableImage
from resnet_hub.errors import ImageError

THREADS = min(8, os.cpu_count() or 1)  # each holds one decoded image
_SIZES = ("width", "height", "bytes")  # of which the report has the minimum, median and maximum


def create_report(
    splits: Mapping[str, ImageDataset], progress: Callable[[int, int], None] | None = None
) -> DatasetReport:
    """Inspect every image of a dataset. The time grows linearly with the number of images.

    Problems of the dataset do not raise: they are the findings of the report. `DatasetReport.check` raises.

    Args:
        splits: The datasets by split, all with the same labels.
        progress: Called after each image with the number of inspected images and their total. An exception that it
            raises ends the inspection.
    """
    with closing(iterate_report(splits)) as steps:
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                return cast(DatasetReport, end.value)
            if progress:
                progress(done, total)


def iterate_report(splits: Mapping[str, ImageDataset]) -> Generator[tuple[int, int], None, DatasetReport]:
    """`create_report` as a generator: yields (inspected images, total) after each image and returns the report."""
    labels = next(iter(splits.values())).labels
    members = [(split, index) for split, images in splits.items() for index in range(len(images))]
    fingerprints: list[Fingerprint] = []
    readable: list[ImageRef] = []
    unreadable: list[UnreadableImage] = []
    counts, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    pool = ThreadPoolExecutor(THREADS)
    try:
        results = pool.map(lambda member: _inspect(splits[member[0]], member[1]), members)
        for number, ((split, index), result) in enumerate(zip(members, results, strict=True), 1):
            image = ImageRef(split, labels[splits[split].targets[index]], splits[split].name(index))
            if isinstance(result, ImageError):
                unreadable.append(UnreadableImage(*image, reason=str(result)))
            else:
                readable.append(image)
                fingerprints.append(result)
                counts[split, image.label] += 1
                sizes[split, image.label] += result.bytes
            yield number, len(members)
    finally:
        pool.shutdown(cancel_futures=True)  # if it ends early, wait only for the images in the threads
    report = DatasetReport(
        labels=labels,
        classes=tuple(
            ClassCount(split, label, counts[split, label], sizes[split, label]) for split in splits for label in labels
        ),
        sizes={key: _spread([getattr(image, key) for image in fingerprints]) for key in _SIZES if fingerprints},
        unreadable=tuple(unreadable),
        duplicates=tuple(
            DuplicateGroup(tuple(readable[i] for i in group), files) for group, files in find_duplicates(fingerprints)
        ),
        skipped=getattr(splits, "skipped", {}),
    )
    return replace(report, findings=tuple(find_problems(report, getattr(splits, "merged", {}))))


def _inspect(images: ImageDataset, index: int) -> Fingerprint | ImageError:
    try:
        return compute_fingerprint(images, index)
    except ImageError as error:
        return error


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), int(np.median(values)), max(values)
