"""Inspects a dataset: decodes each image once, finds problems, and creates the report."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import product
from typing import cast

import numpy as np

from resnet_hub.datasets import report as reports
from resnet_hub.datasets.dataset import SPLIT_NAMES, TRAIN, ImageDataset, Names
from resnet_hub.datasets.duplicates import Fingerprint, compute_fingerprint, find_duplicates
from resnet_hub.datasets.report import DatasetReport, DuplicateGroup, Finding, ImageRef, shorten
from resnet_hub.errors import ImageError, list_some

FEW_IMAGES = 20  # of a class; with fewer, the accuracy on a fifth of them is hardly meaningful
IMBALANCE = 5  # ratio of the largest to the smallest class from which small classes are recognized worse
THREADS = min(8, os.cpu_count() or 1)  # each holds one decoded image
_SIZES = ("width", "height", "bytes")  # of which the report has the minimum, median and maximum
_SHOWN = 5  # names in a message


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
    """Create a report step by step: yields (inspected images, total) after each image and returns the report."""
    labels = next(iter(splits.values())).labels
    members = [(split, index) for split, images in splits.items() for index in range(len(images))]
    fingerprints: list[Fingerprint] = []
    readable: list[ImageRef] = []
    unreadable: list[reports.UnreadableImage] = []
    counts, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    pool = ThreadPoolExecutor(THREADS)
    try:
        results = pool.map(lambda member: _inspect(splits[member[0]], member[1]), members)
        for number, ((split, index), result) in enumerate(zip(members, results, strict=True), 1):
            image = ImageRef(split, labels[splits[split].targets[index]], splits[split].name(index))
            if isinstance(result, ImageError):
                unreadable.append(reports.UnreadableImage(*image, reason=str(result)))
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
        classes=tuple(reports.ClassCount(*key, counts[key], sizes[key]) for key in product(splits, labels)),
        sizes={key: _summarize([getattr(image, key) for image in fingerprints]) for key in _SIZES if fingerprints},
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


def _summarize(values: list[int]) -> tuple[int, int, int]:
    return min(values), int(np.median(values)), max(values)


def find_problems(report: DatasetReport, merged: Names) -> Iterator[Finding]:
    """Yield a finding for each problem of a dataset, the fatal ones first.

    Args:
        report: The report, without findings.
        merged: The folders of each class that was merged from several, by label.
    """
    counts = {label: count for label, count in report.count_training_images().items() if count}
    for kind, message in _find_fatal(report, counts):
        yield Finding("fatal", kind, message)
    for kind, message in _find_warnings(report, counts, merged):
        yield Finding("warning", kind, message)
    copies = [group for group in report.duplicates if len(group.splits) == len(group.labels) == 1]
    if copies:
        extra = _count([image for group in copies for image in group.images[1:]], "copy", "copies")
        exact = f"{sum(group.is_exact for group in copies) or 'none'} with identical files"
        counts_text = f"{extra} of {_count(copies, 'image')} ({exact}), such as {_format_pair(copies[0])}"
        message = f"The dataset has {counts_text}. Copies stay on the same side of the validation split."
        yield Finding("note", "duplicates", message)
    for reason, names in report.skipped.items():
        yield Finding("note", "skipped", f"Left out {_count(names, 'item')} ({reason}): {_list_names(names)}.")


def _find_fatal(report: DatasetReport, counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    copies = Counter[str]()
    for group in report.duplicates:
        files = set[int]()
        for image, file in zip(group.images, group.files, strict=True):
            copies[image.label] += image.split == TRAIN and file in files
            files.add(file)
    if not counts:
        reason = f" {report.unreadable[0].reason}" if report.unreadable else ""
        yield "nothing", f"None of the training images can be read.{reason}"
    elif len(counts) == 1:
        (label,) = counts
        yield "one class", f"{shorten(label)!r} is the only class with images. Add images of at least one other class."
    elif not any(count - copies[label] > 1 for label, count in counts.items()):
        yield "single", f"None of the {len(counts)} classes has two different images. Add images to each class."
    if any(not label.strip() for label in report.labels):
        yield "name", "A class has no name. Give each class a name."


def _find_warnings(report: DatasetReport, counts: Mapping[str, int], merged: Names) -> Iterator[tuple[str, str]]:
    if report.unreadable:
        names = _list_names([image.name for image in report.unreadable])
        yield "unreadable", f"{_count(report.unreadable, 'image')} cannot be read and will be left out: {names}."
    for split in dict.fromkeys(row.split for row in report.classes):
        missing = [row.label for row in report.classes if row.split == split and not row.images]
        if missing and len(missing) < len(report.labels):
            yield "missing", f"The {split} split has no images of {_list_names(missing)}."
    if leaks := report.leaks:
        count, pairs = _count(leaks, "image"), list_some(leaks, _SHOWN, _format_pair)
        yield "leak", f"Several splits share {count}, which inflates the accuracy: {pairs}. Keep each in one split."
    if conflicts := report.conflicts:
        count, pairs = _count(conflicts, "image"), list_some(conflicts, _SHOWN, _format_pair)
        yield "conflict", f"Several classes share {count}: {pairs}. Keep each image in one class."
    few = [f"{shorten(label)} ({count})" for label, count in counts.items() if count < FEW_IMAGES]
    if few:
        yield "few", f"Fewer than {FEW_IMAGES} training images: {list_some(few, _SHOWN)}. Add more if you can."
    if len(counts) > 1 and max(counts.values()) >= IMBALANCE * min(counts.values()):
        largest, smallest = (choose(counts, key=counts.__getitem__) for choose in (max, min))
        sizes = f"{shorten(largest)} has {counts[largest]:,} images, {shorten(smallest)} has {counts[smallest]:,}"
        yield "imbalance", f"The classes are imbalanced: {sizes}. Balance the classes when training, or add images."
    yield from (("name", message) for message in _check_labels(report.labels))
    if merged:
        folders = [f"{shorten(label)} from {_list_names(paths)}" for label, paths in merged.items()]
        yield "merged", f"Folders of the same name were merged into one class: {list_some(folders, _SHOWN)}."
    if uniform := sorted(report.uniform_classes, key=report.labels.index):
        yield "uniform", f"All images look the same in {_list_names(uniform)}. Add images that differ."


def _check_labels(labels: Sequence[str]) -> Iterator[str]:
    """Yield a message for each label, or set of labels, that looks like a mistake."""
    similar = defaultdict(list)
    for label in labels:
        similar[" ".join(label.casefold().replace("_", " ").replace("-", " ").split())].append(label)
    for spellings in similar.values():
        if len(spellings) > 1:
            names = list_some(spellings, _SHOWN, lambda label: repr(shorten(label)))
            yield f"Are these labels one class in different spellings: {names}? If so, merge their folders."
    for label in labels:
        if label.lower() in SPLIT_NAMES:
            yield f"A class is named {label!r}. If it is a split, put class folders in it and a folder train beside it."
        elif len(label) > reports.MAX_SHOWN:
            yield f"The label {shorten(label)!r} has {len(label)} characters. A shorter one is easier to display."
        elif label.strip() and label != label.strip():
            yield f"The label {label!r} begins or ends with a space. Remove the space."


def _count(items: Sized, singular: str, plural: str = "") -> str:
    return f"{len(items):,} {singular if len(items) == 1 else plural or singular + 's'}"


def _format_pair(group: DuplicateGroup) -> str:
    """Name two images of a group, from different splits or classes if the group has such."""
    first, second = group.images[:2]
    if len(group.splits) > 1:
        second = next(image for image in group.images if image.split != first.split)
    elif len(group.labels) > 1:
        second = next(image for image in group.images if image.label != first.label)
    return f"{shorten(first.name)} = {shorten(second.name)}"


def _list_names(names: Sequence[str]) -> str:
    return list_some(names, _SHOWN, shorten)
