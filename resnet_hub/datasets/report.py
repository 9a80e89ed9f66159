"""The report of a dataset: each image is decoded once, problems become findings; as text and as JSON."""

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np

from resnet_hub.config import is_valid_label
from resnet_hub.datasets.dataset import SPLIT_NAMES, TRAIN, ImageDataset, ImageRef, Names, Splits
from resnet_hub.datasets.duplicates import DuplicateGroup, Fingerprint, compute_fingerprint, find_duplicates
from resnet_hub.datasets.labels import ASSETS
from resnet_hub.datasets.layout import DOT_FOLDER, NO_IMAGES, NO_ROW
from resnet_hub.datasets.tables import NO_FILE
from resnet_hub.errors import DataError, ImageError, format_bytes, list_some, printable
from resnet_hub.images.load import has_image_header
from resnet_hub.threads import map_ahead

T = TypeVar("T")

MAX_SHOWN = 60  # characters of a label or file name that a message or table shows
FEW_IMAGES = 20  # of a class; with fewer, the accuracy on a fifth of them is hardly meaningful
IMBALANCE = 5  # ratio of the largest to the smallest class from which small classes are recognized worse
THREADS = min(8, os.cpu_count() or 1)  # each holds one decoded image
_AHEAD = 64  # images that are submitted to the threads before they are needed
_SIZES = ("width", "height", "bytes")  # of which the report has the minimum, median and maximum
_LOST = {  # reasons for which a class may be lost -> what to do
    DOT_FOLDER: "Rename it if it is a class.",
    NO_IMAGES: "If it is a class, save its images in another format.",
    NO_ROW: "Add them to the metadata.",
    NO_FILE: "Correct the file names, which are relative to the folder of the metadata.",
}
SAMPLE = "sample"  # the kind of the finding that describes the sample of which a report is
_NOT_OF_A_SAMPLE = {"one class", "single", "few", "missing", "imbalance"}
_ABOUT_A_SAMPLE = {"sorted", SAMPLE}  # of a report that is read again
UNREADABLE_LATER = "unreadable later"  # the kind of the finding about images that a training could not read
_UNREADABLE = {  # kind of the finding -> what follows the number of images
    "unreadable": "outside the checked sample could not be read and stayed unused",
    UNREADABLE_LATER: "of the training could not be read and stayed unused",
}
_SHOWN = 5  # names in a message
_SHOWN_LOST = 20  # of images that are left out


@dataclass(frozen=True)
class UnreadableImage:
    """An image that cannot be decoded, and the reason. Training leaves it out."""

    split: str
    label: str
    name: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """A message about the dataset. A fatal finding prevents training."""

    severity: Literal["fatal", "warning", "note"]
    kind: str  # a short code for the message, such as "few"
    message: str


@dataclass(frozen=True)
class ClassCount:
    """The readable images of one class in one split."""

    split: str
    label: str
    images: int
    bytes: int


@dataclass(frozen=True)
class DatasetReport:
    """The result of inspecting a dataset. `DatasetReport.from_json(report.to_json()) == report`."""

    labels: tuple[str, ...]
    classes: tuple[ClassCount, ...]  # by split, then in label order
    sizes: dict[str, tuple[int, int, int]]  # (minimum, median, maximum) of "width", "height" (pixels) and "bytes"
    unreadable: tuple[UnreadableImage, ...]
    duplicates: tuple[DuplicateGroup, ...]
    skipped: dict[str, list[str]]  # names of the files and folders that were left out, by reason
    findings: tuple[Finding, ...] = ()  # fatal ones first

    @property
    def images(self) -> int:
        """The number of readable images."""
        return sum(row.images for row in self.classes)

    @property
    def leaks(self) -> list[DuplicateGroup]:
        """Duplicates across splits. They inflate the measured accuracy."""
        return [group for group in self.duplicates if len(group.splits) > 1]

    @property
    def conflicts(self) -> list[DuplicateGroup]:
        """Duplicates with different labels."""
        return [group for group in self.duplicates if len(group.labels) > 1]

    @property
    def uniform_classes(self) -> set[str]:
        """Classes whose training images are all duplicates of each other."""
        counts = self.count_training_images()
        groups = (Counter(image.label for image in group.images if image.split == TRAIN) for group in self.duplicates)
        return {label for group in groups for label, count in group.items() if count == counts[label]}

    def count_training_images(self) -> dict[str, int]:
        """Count the readable training images of each label."""
        return {row.label: row.images for row in self.classes if row.split == TRAIN}

    def check(self) -> None:
        """Raise `DataError` with the first fatal finding, if there is one."""
        for finding in self.findings:
            if finding.severity == "fatal":
                raise DataError(finding.message)

    def summarize(self) -> str:
        """Describe what was left out and what impairs the metrics, for a model card: a text without file names."""
        left_out = [f"{count_items(names, 'item')} ({reason})" for reason, names in self.skipped.items()]
        if self.unreadable:
            left_out.insert(0, f"{count_items(self.unreadable, 'image')} (unreadable)")
        notes = [f"The check of the dataset left out {', '.join(left_out)}."] if left_out else []
        if self.leaks:
            notes.append(f"Images that several splits share, which inflates the metrics: {len(self.leaks):,}.")
        if self.conflicts:
            notes.append(f"Images that several classes share: {len(self.conflicts):,}.")
        notes += [finding.message for finding in self.findings if finding.kind == SAMPLE]
        return " ".join(notes)

    def rename_images(self, names: Mapping[tuple[str, str], str]) -> "DatasetReport":
        """Replace the names of the images; the messages of the findings stay.

        Args:
            names: The new name of each image, by (split, old name). Unreadable images without one are left out.
        """

        def rename(image: ImageRef) -> ImageRef:
            return image._replace(name=names[image.split, image.name])

        return replace(
            self,
            unreadable=tuple(
                replace(image, name=names[image.split, image.name])
                for image in self.unreadable
                if (image.split, image.name) in names
            ),
            duplicates=tuple(replace(group, images=tuple(map(rename, group.images))) for group in self.duplicates),
        )

    def add_unreadable(self, images: Sequence[UnreadableImage], kind: str = "unreadable") -> "DatasetReport":
        """Add images that cannot be read, and a finding of a kind that counts the new ones and names 20."""
        unreadable = {(image.split, image.name) for image in self.unreadable}
        added = [image for image in images if (image.split, image.name) not in unreadable]
        if not added:
            return self
        names = _list_lost([image.name for image in added])
        message = f"{count_items(added, 'image')} {_UNREADABLE[kind]}: {names}."
        finding = Finding("warning", kind, message)
        return replace(self, unreadable=(*self.unreadable, *added), findings=(*self.findings, finding))

    def describe_as_sample(self, description: str) -> "DatasetReport":
        """Replace the findings that hold for a sample only by its description, and by one about its classes."""
        findings = [finding for finding in self.findings if finding.kind not in _NOT_OF_A_SAMPLE | _ABOUT_A_SAMPLE]
        present, labels = sum(count > 0 for count in self.count_training_images().values()), len(self.labels)
        if present == 1:
            message = (
                "All training images of the sample have one label: the files of the dataset are sorted by class, and "
                "so would be the steps. Shuffle the images when you write the files."
            )
            findings.insert(0, Finding("fatal", "sorted", message))
        elif 2 * present < labels and self.images > 4 * labels:
            message = (
                f"The sample has images of {present} of the {labels} classes only: the files seem to be sorted by "
                "class. Shuffle the images when you write the files, else neighboring steps train on the same few "
                "classes."
            )
            findings.append(Finding("warning", "sorted", message))
        return replace(self, findings=(*findings, Finding("note", SAMPLE, description)))

    def drop_unreadable(self, splits: Mapping[str, ImageDataset]) -> Splits:
        """Return the splits without the images that cannot be read."""
        unreadable = {(image.split, image.name) for image in self.unreadable}
        readable = {}
        for split, images in splits.items():
            indices = [index for index in range(len(images)) if (split, images.name(index)) not in unreadable]
            readable[split] = images if len(indices) == len(images) else images.subset(indices)
        return Splits(readable, skipped=getattr(splits, "skipped", None), merged=getattr(splits, "merged", None))

    def group_duplicates(self, images: ImageDataset) -> np.ndarray:
        """Number training images so that duplicates share a number, as `split_indices` takes it.

        In a class of images that all look the same (frames of a webcam, for example), only identical files share a
        number. Otherwise no image of the class could be held out.

        Returns:
            An int64 array of shape (N,).
        """
        index_of = {images.name(index): index for index in range(len(images))}
        groups, uniform = np.arange(len(images)), self.uniform_classes
        for group in self.duplicates:
            first: dict[int, int] = {}
            for image, file in zip(group.images, group.files, strict=True):
                if image.split == TRAIN and image.name in index_of:
                    key = file if image.label in uniform else 0
                    groups[index_of[image.name]] = groups[first.setdefault(key, index_of[image.name])]
        return groups

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "DatasetReport":
        """Read what `to_json` wrote. Raises `DataError` for any other text."""
        try:
            content = json.loads(text)
            return cls(
                labels=tuple(content["labels"]),
                classes=tuple(ClassCount(**row) for row in content["classes"]),
                sizes={key: tuple(values) for key, values in content["sizes"].items()},
                unreadable=tuple(UnreadableImage(**row) for row in content["unreadable"]),
                duplicates=tuple(map(DuplicateGroup.from_json, content["duplicates"])),
                skipped=content["skipped"],
                findings=tuple(Finding(**row) for row in content["findings"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"Cannot read the dataset report: {error}. Create it again.") from None

    def to_text(self) -> str:
        """Format the report for a terminal: the table of classes, the image sizes, the findings."""
        splits = list(dict.fromkeys(row.split for row in self.classes))
        counts = {(row.split, row.label): row for row in self.classes}
        total = sum(row.bytes for row in self.classes)
        width = max([len("class"), *(len(shorten(label)) for label in self.labels)])
        lines = [f"{self.images:,} images, {format_bytes(total)}, {len(self.labels)} classes", ""]
        lines += [f"{'class':{width}}" + "".join(f"  {split:>10}" for split in splits) + f"  {'size':>9}"]
        for label in self.labels:
            rows = [counts[split, label] for split in splits]
            cells = "".join(f"  {row.images:>10,}" for row in rows)
            lines.append(f"{shorten(label):{width}}{cells}  {format_bytes(sum(row.bytes for row in rows)):>9}")
        if self.sizes:
            (w0, w1, w2), (h0, h1, h2) = self.sizes["width"], self.sizes["height"]
            if (w0, h0) == (w2, h2):
                lines += ["", f"All images have {w0} x {h0} pixels."]
            else:
                lines += ["", f"Width {w0} to {w2} pixels (median {w1}), height {h0} to {h2} (median {h1})."]
        lines += ["", *map(format_finding, self.findings)]
        return "\n".join(lines).rstrip() + "\n"


def format_finding(finding: Finding) -> str:
    """Format a finding as a line for a terminal."""
    marks = {"fatal": "ERROR", "warning": "Warning", "note": "Note"}
    return f"{marks[finding.severity]}: {finding.message}"


def count_items(items: Sized, singular: str, plural: str = "") -> str:
    """Format the number of `items` with its noun, such as `1 image` or `1,200 images`."""
    return f"{len(items):,} {singular if len(items) == 1 else plural or singular + 's'}"


def shorten(text: str) -> str:
    """Replace unprintable characters by `?`, and cut the start of a long text: file names differ at the end."""
    return printable(text if len(text) <= MAX_SHOWN else f"...{text[3 - MAX_SHOWN :]}")


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


def check_counts(splits: Mapping[str, ImageDataset]) -> None:
    """Raise `DataError` for what a report finds fatal in the labels and numbers of images alone; none is read."""
    labels = splits[TRAIN].labels
    counts = {split: np.bincount(images.targets, minlength=len(labels)).tolist() for split, images in splits.items()}
    classes = (ClassCount(split, label, counts[split][row], 0) for split in splits for row, label in enumerate(labels))
    report = DatasetReport(labels, tuple(classes), {}, (), (), {})
    replace(report, findings=tuple(find_problems(report, {}))).check()


def iterate_report(splits: Mapping[str, ImageDataset]) -> Generator[tuple[int, int], None, DatasetReport]:
    """Create a report step by step: yields (inspected images, total) after each image and returns the report."""
    labels = next(iter(splits.values())).labels
    total, fingerprints = sum(map(len, splits.values())), list[Fingerprint]()
    readable: list[ImageRef] = []
    unreadable: list[UnreadableImage] = []
    counts, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    with closing(_process_images(splits, _inspect)) as results:
        for number, (split, index, result) in enumerate(results, 1):
            image = ImageRef(split, labels[splits[split].targets[index]], splits[split].name(index))
            if isinstance(result, ImageError):
                unreadable.append(UnreadableImage(*image, reason=str(result)))
            else:
                readable.append(image)
                fingerprints.append(result)
                counts[split, image.label] += 1
                sizes[split, image.label] += result.bytes
            yield number, total
    report = DatasetReport(
        labels=labels,
        classes=tuple(ClassCount(*key, counts[key], sizes[key]) for key in product(splits, labels)),
        sizes={key: _summarize([getattr(image, key) for image in fingerprints]) for key in _SIZES if fingerprints},
        unreadable=tuple(unreadable),
        duplicates=tuple(
            DuplicateGroup(tuple(readable[i] for i in group), files) for group, files in find_duplicates(fingerprints)
        ),
        skipped=getattr(splits, "skipped", {}),
    )
    return replace(report, findings=tuple(find_problems(report, getattr(splits, "merged", {}))))


def iterate_headers(
    splits: Mapping[str, ImageDataset],
) -> Generator[tuple[int, int], None, list[UnreadableImage]]:
    """Find files that cannot be read by their first bytes, step by step as `iterate_report`.

    This takes seconds for 100,000 files. Images in archives and tables are not read.
    """
    files = {split: images for split, images in splits.items() if has_files(images)}
    total, unreadable = sum(map(len, files.values())), list[UnreadableImage]()

    def check(images: ImageDataset, index: int) -> Fingerprint | ImageError | None:
        source = images.sources[index]
        return None if not isinstance(source, Path) or has_image_header(source) else _inspect(images, index)

    with closing(_process_images(files, check)) as results:
        for number, (split, index, result) in enumerate(results, 1):
            if isinstance(result, ImageError):
                images = files[split]
                label = images.labels[images.targets[index]]
                unreadable.append(UnreadableImage(split, label, images.name(index), str(result)))
            yield number, total
    return unreadable


def _process_images(
    splits: Mapping[str, ImageDataset], function: Callable[[ImageDataset, int], T]
) -> Generator[tuple[str, int, T], None, None]:
    """Call a function with each image in threads, and yield split, index and result in order."""

    def call(task: tuple[str, int]) -> tuple[str, int, T]:
        split, index = task
        return split, index, function(splits[split], index)

    tasks = ((split, index) for split, images in splits.items() for index in range(len(images)))
    return map_ahead(call, tasks, threads=THREADS, ahead=_AHEAD)


def has_files(images: ImageDataset) -> bool:
    """Whether images are files of their own, by the first one: reading all of a table only to see that takes long."""
    with suppress(ImageError):
        return len(images) > 0 and isinstance(images.sources[0], Path)
    return False


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
    for reason in (reason for reason in _LOST if reason in report.skipped):
        names = report.skipped[reason]
        message = f"Left out {count_items(names, 'item')} ({reason}): {_list_lost(names)}. {_LOST[reason]}"
        yield Finding("warning", "skipped", message)
    copies = [group for group in report.duplicates if len(group.splits) == len(group.labels) == 1]
    if copies:
        extra = count_items([image for group in copies for image in group.images[1:]], "copy", "copies")
        exact = f"{sum(group.is_exact for group in copies) or 'none'} with identical files"
        counts_text = f"{extra} of {count_items(copies, 'image')} ({exact}), such as {_format_pair(copies[0])}"
        message = f"The dataset has {counts_text}. Copies stay on the same side of the validation split."
        yield Finding("note", "duplicates", message)
    for reason, names in report.skipped.items():
        if reason not in _LOST:
            message = f"Left out {count_items(names, 'item')} ({reason}): {_list_lost(names)}."
            yield Finding("note", "skipped", message)


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
    for split in dict.fromkeys(row.split for row in report.classes):
        if split != TRAIN and not any(row.images for row in report.classes if row.split == split):
            yield (
                "nothing",
                f"None of the {split} images can be read. Save them again, or remove the split.",
            )
    if any(not label.strip() for label in report.labels):
        yield "name", "A class has no name. Give each class a name."
    for label in report.labels:
        if label.strip() and not is_valid_label(label):
            yield "name", f"The label {shorten(label)!r} is unprintable or too long. Rename it."


def _find_warnings(report: DatasetReport, counts: Mapping[str, int], merged: Names) -> Iterator[tuple[str, str]]:
    if report.unreadable:
        names = _list_lost([image.name for image in report.unreadable])
        yield "unreadable", f"{count_items(report.unreadable, 'image')} cannot be read and will be left out: {names}."
    for split in dict.fromkeys(row.split for row in report.classes):
        missing = [row.label for row in report.classes if row.split == split and not row.images]
        if missing and len(missing) < len(report.labels):
            yield "missing", f"The {split} split has no images of {_list_names(missing)}."
    if leaks := report.leaks:
        count, pairs = count_items(leaks, "image"), list_some(leaks, _SHOWN, _format_pair)
        yield "leak", f"Several splits share {count}, which inflates the accuracy: {pairs}. Keep each in one split."
    if conflicts := report.conflicts:
        count, pairs = count_items(conflicts, "image"), list_some(conflicts, _SHOWN, _format_pair)
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
        elif label.lower() in ASSETS:
            yield f"A class is named {label!r}. If it is none, move its folder out of the dataset."
        elif len(label) > MAX_SHOWN:
            yield f"The label {shorten(label)!r} has {len(label)} characters. A shorter one is easier to display."
        elif label.strip() and label != label.strip():
            yield f"The label {label!r} begins or ends with a space. Remove the space."


def _format_pair(group: DuplicateGroup) -> str:
    """Name two images of a group, from different splits or classes if the group has such."""
    first, second = group.images[:2]
    if len(group.splits) > 1:
        second = next(image for image in group.images if image.split != first.split)
    elif len(group.labels) > 1:
        second = next(image for image in group.images if image.label != first.label)
    return f"{shorten(first.name)} = {shorten(second.name)}"


def _list_lost(names: Sequence[str]) -> str:
    return list_some(names, _SHOWN_LOST, shorten)


def _list_names(names: Sequence[str]) -> str:
    return list_some(names, _SHOWN, shorten)
