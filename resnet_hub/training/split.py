"""Chooses the images of a dataset that a run trains, validates and evaluates on."""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from resnet_hub.atomic import write_atomic
from resnet_hub.datasets.dataset import TEST, TRAIN, VALIDATION, ImageDataset, Splits
from resnet_hub.datasets.labels import natural_key
from resnet_hub.datasets.report import (
    UNREADABLE_LATER,
    DatasetReport,
    UnreadableImage,
    has_files,
    iterate_headers,
    iterate_report,
)
from resnet_hub.errors import DataError, ResNetHubError
from resnet_hub.training import events
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.run_dir import RunDir, SplitRecord

T = TypeVar("T")


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


_MAX_DIGESTED = 2000  # images of a split whose contents are compared when a run resumes
MAX_CHECKED = 50_000  # images that are all checked before a training, and that are held out at most
_SAMPLE = 20_000  # images that are checked of a larger dataset


class RunImages(NamedTuple):
    """The images of a run."""

    train: ImageDataset
    validation: ImageDataset  # compares the epochs
    evaluation: ImageDataset  # evaluates the saved model at the end; `validation` itself where those are the same
    validation_name: str  # such as "validation" or "20% held out"


def create_split(
    splits: Splits, config: TrainConfig, run: RunDir, *, sample_of: str = ""
) -> Generator[events.Preparing, None, SplitRecord]:
    """Checks all images, of a large dataset a sample and all headers, and writes `report.json` and `split.json`.

    Args:
        splits: The splits of the dataset.
        config: The settings of the run.
        run: The run.
        sample_of: Describes the dataset of which `splits` are only a sample.

    Raises:
        DataError: If the report finds a reason not to train on the dataset.
    """
    run.folder.mkdir(parents=True, exist_ok=True)  # first: the report takes long, and this may fail
    report = _read_report(splits, run)
    if report is None:
        sample = _select_sample(splits)
        report = yield from _report_progress(iterate_report(sample))
        if sample is not splits:
            report = report.add_unreadable((yield from _report_progress(iterate_headers(splits))))
    if sample_of:
        report = report.describe_as_sample(sample_of)
    report.check()
    record = _choose_images(splits, report, config)
    write_atomic(run.report, report.to_json())
    run.write_split(record)
    return record


def describe_report(run: RunDir) -> events.Checked:
    """Returns the event for the report that `create_split` wrote."""
    report = run.read_report()
    assert report is not None
    return events.Checked(report.images, len(report.unreadable), [asdict(finding) for finding in report.findings])


def record_unreadable(
    run: RunDir, train: Mapping[str, tuple[str, str]], validation: Mapping[str, tuple[str, str]]
) -> events.Checked | None:
    """Adds images that could not be read while training to `report.json`.

    Args:
        run: The run.
        train: The label and the reason of each training image, by its name.
        validation: The same of the validation images.

    Returns:
        The event about them, also those of an earlier part of the run, if there are any.
    """
    report = run.read_report()
    if report is None:
        return None
    unreadable = [
        UnreadableImage(split, label, name, reason)
        for split, images in ((TRAIN, train), (run.read_split().validation_split, validation))
        for name, (label, reason) in sorted(images.items(), key=lambda item: natural_key(item[0]))
    ]
    extended = report.add_unreadable(unreadable, UNREADABLE_LATER)
    if extended is not report:
        write_atomic(run.report, extended.to_json())
    findings = [asdict(finding) for finding in extended.findings if finding.kind == UNREADABLE_LATER]
    return events.Checked(extended.images, len(extended.unreadable), findings) if findings else None


def select_images(splits: Splits, config: TrainConfig, run: RunDir) -> RunImages:
    """Returns the images that `split.json` lists; raises `DataError` if the dataset changed since it was written."""
    record, evaluation = run.read_split(), run.evaluation_split()
    sizes, labels = _count_images(splits), list(splits[TRAIN].labels)
    if (record.images, record.labels) != (sizes, labels):
        raise DataError(
            f"The dataset {config.data} changed since the run began, from {record.images} images with the labels "
            f"{record.labels[:5]} to {sizes} with {labels[:5]}; start a new run."
        )
    if run.exists() and record.digests:  # the run resumes
        digests = digest_images(splits)
        if changed := [
            name for name in record.digests.keys() & digests.keys() if record.digests[name] != digests[name]
        ]:
            names = ", ".join(sorted({name.partition(" ")[0] for name in changed}))
            raise DataError(
                f"The dataset {config.data} changed since the run began: other images are in {names}. Restore them, or "
                "start a new run."
            )
    validation = splits[record.validation_split].subset(record.validation)
    is_same = (evaluation.split, evaluation.indices) == (record.validation_split, record.validation)
    evaluated = validation if is_same else splits[evaluation.split].subset(evaluation.indices)
    return RunImages(splits[TRAIN].subset(record.train), validation, evaluated, record.validation_name)


def digest_images(splits: Splits) -> dict[str, str]:
    """Digests by which a resumed run recognizes its images, in whatever folder or archive they are now.

    Returns:
        By split, the digest of the contents of at most 2,000 images, evenly spread; as "NAME sizes" that of the sizes
        of all files, if the images are files; as "train files" what a sample stands for.
    """
    digests = {}
    for name, images in splits.items():
        contents, sizes = hashlib.sha256(), hashlib.sha256()
        for index in np.unique(np.linspace(0, len(images) - 1, min(len(images), _MAX_DIGESTED)).astype(np.int64)):
            try:
                content = images.read(int(index))
            except ResNetHubError:
                content = b"unreadable"
            contents.update(hashlib.sha256(content).digest())
        digests[name] = contents.hexdigest()
        if has_files(images):
            for index in range(len(images)):
                sizes.update(b"%d," % _measure_file(images, index))
            digests[f"{name} sizes"] = sizes.hexdigest()
    if splits.sample_of:
        digests[f"{TRAIN} files"] = splits.sample_of
    return digests


def _measure_file(images: ImageDataset, index: int) -> int:
    """Returns the size of an image that is a file of its own, else -1."""
    with suppress(ResNetHubError, OSError):
        source = images.sources[index]
        return source.stat().st_size if isinstance(source, Path) else -1
    return -1


def _report_progress(checking: Generator[tuple[int, int], None, T]) -> Generator[events.Preparing, None, T]:
    reported_at = time.monotonic()
    with closing(checking) as steps:
        while True:
            try:
                done, total = next(steps)
            except StopIteration as end:
                result: T = end.value
                return result
            if time.monotonic() - reported_at > events.PROGRESS_SECONDS:
                reported_at = time.monotonic()
                yield events.Preparing("report", done, total)


def _select_sample(splits: Splits) -> Splits:
    """Returns the splits, or random images of them if they have more than `MAX_CHECKED`."""
    total = sum(_count_images(splits).values())
    if total <= MAX_CHECKED:
        return splits
    generator, sample = np.random.default_rng(0), {}
    for name, images in splits.items():
        count = max(1, len(images) * min(_SAMPLE, MAX_CHECKED) // total)
        sample[name] = images.subset(np.sort(generator.choice(len(images), count, replace=False)))
    return Splits(sample, skipped=splits.skipped, merged=splits.merged)


def _read_report(splits: Splits, run: RunDir) -> DatasetReport | None:
    """Returns the report in the run directory if it matches the dataset, as after an upload to the page."""
    report = run.read_report()
    if report is None:
        return None
    counts = Counter(image.split for image in report.unreadable)
    for row in report.classes:
        counts[row.split] += row.images
    is_same = counts == _count_images(splits) and report.labels == tuple(splits[TRAIN].labels)
    return report if is_same else None


def _count_images(splits: Splits) -> dict[str, int]:
    return {name: len(images) for name, images in splits.items()}


def _choose_images(splits: Splits, report: DatasetReport, config: TrainConfig) -> SplitRecord:
    """Leaves out unreadable images, and holds out a part of the training images if the dataset has no validation split.

    Only the saved model is evaluated on the test split, unless no epochs are compared (`select` is "last").
    """
    unreadable = {(image.split, image.name) for image in report.unreadable}

    def list_readable(split: str) -> np.ndarray:
        images = splits[split]
        if not unreadable:
            return np.arange(len(images))
        return np.array([index for index in range(len(images)) if (split, images.name(index)) not in unreadable])

    train = list_readable(TRAIN)
    candidates = (VALIDATION, TEST) if config.select == "last" else (VALIDATION,)
    split = next((name for name in candidates if name in splits), None)
    if split:
        validation, name = list_readable(split), split
    else:
        images = splits[TRAIN].subset(train)
        fraction = min(config.validation, MAX_CHECKED / len(images))  # more hardly change a metric
        if len(images) > MAX_CHECKED:
            remaining, held_out = split_many_indices(images.targets, fraction, config.seed)
        else:
            groups = report.group_duplicates(images)
            remaining, held_out = split_indices(images.targets, fraction, config.seed, groups)
        train, validation, name = train[remaining], train[held_out], f"{fraction:.0%} held out"
        if config.stream:
            name = f"{len(held_out):,} images held out"
    if not len(validation):
        raise DataError(f"The dataset {config.data} has too few images to hold some out; add more.")
    return SplitRecord(
        images=_count_images(splits),
        labels=list(splits[TRAIN].labels),
        excluded=np.delete(np.arange(len(splits[TRAIN])), train).tolist(),
        validation=validation.tolist(),
        validation_split=split or TRAIN,
        validation_name=name,
        digests=digest_images(splits),
        test=(list_readable(TEST).tolist() if TEST in splits and split != TEST else []) or None,
    )


def split_many_indices(targets: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits a dataset, stratified by class, as `split_indices` without groups; a million images in a second."""
    counts = np.bincount(targets)
    quotas = np.minimum(np.maximum(1, np.round(counts * fraction)), counts - 1).astype(int)
    order = np.lexsort((np.random.default_rng(seed).random(len(targets)), targets))
    starts = np.cumsum(counts) - counts  # of each class in the order
    is_held_out = np.zeros(len(targets), bool)
    for start, quota in zip(starts, quotas, strict=True):
        is_held_out[order[start : start + max(quota, 0)]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
