"""What is in a data set, before anything is learnt from it: counts, damage, duplicates, and what to do about them."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from resnet_hub.datasets.dataset import SPLIT_NAMES, TRAIN, ImageDataset, Splits
from resnet_hub.errors import DataError, ImageError
from resnet_hub.images.load import load_image

FEW = 20  # pictures of a class; with fewer, an accuracy measured on a fifth of them says little
IMBALANCE = 5  # largest class over smallest from which the rare ones suffer
LONG_LABEL = 60  # characters; longer ones are cut wherever labels are shown
THREADS = min(8, os.cpu_count() or 1)  # each holds a whole decoded picture

_SIDE = 32  # pixels of the miniature that pictures are compared by
_HASH_BITS = 8  # of 64 that may differ; candidates share one of four bands of 16 bits, as nearly all such pairs do
_NEIGHBOURS = 64  # candidates a picture is compared with in each band: thousands of equal hashes cost no square
_MEAN_DIFFERENCE = 8.0  # of 255, between miniatures; JPEG at quality 30 or half the size change them by less
_PAIRS = 2048  # candidates compared at a time, 3 MB
_SHOWN = 5  # names in a sentence
_REMEMBERED = 20_000  # pictures, 1 KB each


class Picture(NamedTuple):
    split: str
    label: str
    name: str


@dataclass(frozen=True)
class Unreadable:
    """A picture that training leaves out, and why."""

    split: str
    label: str
    name: str
    reason: str


@dataclass(frozen=True)
class Duplicates:
    """Pictures that look the same: copies of a file, or a picture stored again, resized, or taken twice."""

    pictures: tuple[Picture, ...]
    files: tuple[int, ...]  # a number for each picture, equal where the bytes are

    @property
    def exact(self) -> bool:
        """Whether all are copies of one file."""
        return len(set(self.files)) == 1

    @property
    def splits(self) -> set[str]:
        return {picture.split for picture in self.pictures}

    @property
    def labels(self) -> set[str]:
        return {picture.label for picture in self.pictures}


@dataclass(frozen=True)
class Finding:
    """One sentence about the data; a fatal one stops training."""

    severity: Literal["fatal", "warning", "note"]
    kind: str
    message: str


@dataclass(frozen=True)
class ClassCount:
    split: str
    label: str
    images: int  # readable
    bytes: int


@dataclass(frozen=True)
class DatasetReport:
    """A data set in numbers. It is plain data: `from_json(report.to_json())` is the same report."""

    labels: tuple[str, ...]
    classes: tuple[ClassCount, ...]  # by split, then in the order of the labels
    sizes: dict[str, tuple[int, int, int]]  # width, height (pixels, upright), bytes: smallest, median, largest
    unreadable: tuple[Unreadable, ...]
    duplicates: tuple[Duplicates, ...]
    skipped: dict[str, list[str]]  # names of what was no picture of a class, by reason
    findings: tuple[Finding, ...] = ()  # the fatal ones first

    @property
    def images(self) -> int:
        return sum(row.images for row in self.classes)

    @property
    def leaks(self) -> list[Duplicates]:
        """What is in more than one split: a model that learnt it by heart looks better than it is."""
        return [group for group in self.duplicates if len(group.splits) > 1]

    @property
    def conflicts(self) -> list[Duplicates]:
        """What has more than one label."""
        return [group for group in self.duplicates if len(group.labels) > 1]

    @property
    def fatal(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "fatal"]

    def check(self) -> None:
        """Raises `DataError` with the first reason why nothing can be learnt from this data, if there is one."""
        if self.fatal:
            raise DataError(self.fatal[0].message)

    def renamed(self, names: Mapping[tuple[str, str], str]) -> "DatasetReport":
        """The same with other names for its pictures, each by its split and name; the sentences stay as they are."""

        def new(picture: Picture) -> Picture:
            return picture._replace(name=names[picture.split, picture.name])

        return replace(
            self,
            unreadable=tuple(replace(bad, name=names[bad.split, bad.name]) for bad in self.unreadable),
            duplicates=tuple(replace(group, pictures=tuple(map(new, group.pictures))) for group in self.duplicates),
        )

    def readable(self, splits: Mapping[str, ImageDataset]) -> Splits:
        """The same splits without the pictures that cannot be read."""
        bad = {(picture.split, picture.name) for picture in self.unreadable}
        kept = {}
        for split, images in splits.items():
            places = [place for place in range(len(images)) if (split, images.name(place)) not in bad]
            kept[split] = images if len(places) == len(images) else images.subset(places)
        return Splits(kept, skipped=getattr(splits, "skipped", None), gathered=getattr(splits, "gathered", None))

    def groups(self, images: ImageDataset, split: str = TRAIN) -> np.ndarray:
        """For `split_off`: int64 (N,), the same number for pictures that are duplicates of each other.

        In a class whose pictures all look the same, as those of a webcam may, only copies of a file count as such:
        there would be nothing of it to hold out.
        """
        place = {images.name(index): index for index in range(len(images))}
        groups, uniform = np.arange(len(images)), self._uniform
        for group in self.duplicates:
            first: dict[int, int] = {}
            for picture, file in zip(group.pictures, group.files, strict=True):
                if picture.split == split and picture.name in place:
                    key = file if picture.label in uniform else 0
                    groups[place[picture.name]] = groups[first.setdefault(key, place[picture.name])]
        return groups

    @property
    def _uniform(self) -> set[str]:
        """The classes whose pictures to learn from are one group of duplicates."""
        counts = {row.label: row.images for row in self.classes if row.split == TRAIN}
        groups = (
            Counter(picture.label for picture in group.pictures if picture.split == TRAIN) for group in self.duplicates
        )
        return {label for group in groups for label, count in group.items() if count == counts[label]}

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "DatasetReport":
        """Raises `DataError` for what `to_json` has not written."""
        try:
            content = json.loads(text)
            return cls(
                labels=tuple(content["labels"]),
                classes=tuple(ClassCount(**row) for row in content["classes"]),
                sizes={key: tuple(values) for key, values in content["sizes"].items()},
                unreadable=tuple(Unreadable(**row) for row in content["unreadable"]),
                duplicates=tuple(
                    Duplicates(tuple(Picture(*picture) for picture in row["pictures"]), tuple(row["files"]))
                    for row in content["duplicates"]
                ),
                skipped=content["skipped"],
                findings=tuple(Finding(**row) for row in content["findings"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(f"This is no data report: {error}.") from None

    def to_text(self) -> str:
        """For a terminal: the table of classes, the sizes, the findings."""
        splits = list(dict.fromkeys(row.split for row in self.classes))
        counts = {(row.split, row.label): row for row in self.classes}
        total = sum(row.bytes for row in self.classes)
        width = max([len("class"), *(len(_short(label)) for label in self.labels)])
        lines = [f"{self.images:,} pictures, {format_bytes(total)}, {len(self.labels)} classes", ""]
        lines += [f"{'class':{width}}" + "".join(f"  {split:>10}" for split in splits) + f"  {'size':>9}"]
        for label in self.labels:
            rows = [counts[split, label] for split in splits]
            cells = "".join(f"  {row.images:>10,}" for row in rows)
            lines.append(f"{_short(label):{width}}{cells}  {format_bytes(sum(row.bytes for row in rows)):>9}")
        if self.sizes:
            (w0, w1, w2), (h0, h1, h2) = self.sizes["width"], self.sizes["height"]
            lines += ["", f"Width {w0} to {w2} pixels (median {w1}), height {h0} to {h2} (median {h1})."]
        marks = {"fatal": "ERROR", "warning": "Warning", "note": "Note"}
        lines += ["", *(f"{marks[finding.severity]}: {finding.message}" for finding in self.findings)]
        return "\n".join(lines).rstrip() + "\n"


def create_report(
    splits: Mapping[str, ImageDataset], progress: Callable[[int, int], None] | None = None
) -> DatasetReport:
    """Looks at every picture once and says what is in the data set; `progress` is told how many are done, of how many.

    What `progress` raises ends it. Never raises for what it finds: `check` does. Its work grows with the number of
    pictures, not with their pairs.
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
    """`report` picture by picture: yields how many are done, of how many, and returns what was found."""
    labels = next(iter(splits.values())).labels
    members = [(split, index) for split, images in splits.items() for index in range(len(images))]
    pictures = [
        Picture(split, labels[target], splits[split].name(index))
        for (split, index), target in zip(
            members, (t for images in splits.values() for t in images.targets), strict=True
        )
    ]
    seen: list[_Seen | str] = []
    pool = ThreadPoolExecutor(THREADS)
    try:
        for facts in pool.map(lambda member: _look(splits[member[0]], member[1]), members):
            seen.append(facts)
            yield len(seen), len(members)
    finally:
        pool.shutdown(cancel_futures=True)  # where it ends early, none but those in the threads are waited for
    unreadable = [
        Unreadable(*picture, reason=facts)
        for picture, facts in zip(pictures, seen, strict=True)
        if isinstance(facts, str)
    ]
    good = [(picture, facts) for picture, facts in zip(pictures, seen, strict=True) if not isinstance(facts, str)]
    images, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for picture, facts in good:
        images[picture[:2]] += 1
        sizes[picture[:2]] += facts.bytes
    found = DatasetReport(
        labels=labels,
        classes=tuple(
            ClassCount(split, label, images[split, label], sizes[split, label]) for split in splits for label in labels
        ),
        sizes={
            key: _spread([getattr(facts, key) for _, facts in good]) for key in ("width", "height", "bytes") if good
        },
        unreadable=tuple(unreadable),
        duplicates=tuple(_duplicates([p for p, _ in good], [facts for _, facts in good])),
        skipped=getattr(splits, "skipped", {}),
    )
    return replace(found, findings=tuple(_findings(found, getattr(splits, "gathered", {}))))


class _Seen(NamedTuple):
    """What is kept of a picture."""

    digest: bytes  # of the file
    bytes: int
    width: int
    height: int
    hash: int  # 64 bits
    miniature: np.ndarray  # uint8 (_SIDE / 2, _SIDE / 2, 3)


def _look(images: ImageDataset, index: int) -> "_Seen | str":
    """The facts of a picture, or why it cannot be read."""
    from PIL import Image

    try:
        content = images.read(index)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if known := _remembered.get(digest):
            return known
        image = load_image(content, name=images.name(index).rpartition("/")[2])
    except ImageError as error:
        return str(error)
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(small.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])  # dHash: does it get brighter to the right
    miniature = np.asarray(small.resize((_SIDE // 2, _SIDE // 2), Image.Resampling.BOX))
    if len(_remembered) >= _REMEMBERED:
        _remembered.clear()
    seen = _remembered[digest] = _Seen(digest, len(content), *image.size, int.from_bytes(bits.tobytes()), miniature)
    return seen


_remembered: dict[bytes, _Seen] = {}  # a page that reports twice decodes once


def _spread(values: list[int]) -> tuple[int, int, int]:
    return min(values), int(np.median(values)), max(values)


def _duplicates(pictures: list[Picture], seen: list[_Seen]) -> list[Duplicates]:
    """Groups of pictures that are the same, in the order of their first."""
    leader = list(range(len(seen)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = place = leader[leader[place]]
        return place

    first: dict[bytes, int] = {}
    exact = [(first.setdefault(facts.digest, place), place) for place, facts in enumerate(seen)]
    for one, other in [*exact, *_near(seen, sorted(first.values()))]:
        one, other = sorted((find(one), find(other)))
        leader[other] = one
    groups = defaultdict(list)
    for place in range(len(seen)):
        groups[find(place)].append(place)
    out = []
    for group in groups.values():
        if len(group) > 1:
            places = {place: number for number, place in enumerate(group)}
            files = tuple(places[exact[place][0]] for place in group)
            out.append(Duplicates(tuple(pictures[place] for place in group), files))
    return out


def _near(seen: list[_Seen], places: list[int]) -> Iterable[tuple[int, int]]:
    """Pairs of `places` whose hashes and then miniatures hardly differ."""
    if len(places) < 2:
        return
    hashes = np.array([seen[place].hash for place in places], np.uint64)
    miniatures = np.stack([seen[place].miniature for place in places]).astype(np.int16)
    for shift in range(0, 64, 16):
        band = (hashes >> np.uint64(shift)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes, band))
        for step in range(1, min(_NEIGHBOURS, len(places) - 1) + 1):
            one, other = order[:-step], order[step:]
            same = band[one] == band[other]
            if not same.any():
                break
            same &= np.bitwise_count(hashes[one] ^ hashes[other]) <= _HASH_BITS
            pairs = np.stack([one[same], other[same]], 1)
            for part in np.split(pairs, range(_PAIRS, len(pairs), _PAIRS)):
                difference = np.abs(miniatures[part[:, 0]] - miniatures[part[:, 1]]).mean((1, 2, 3))
                yield from ((places[a], places[b]) for a, b in part[difference <= _MEAN_DIFFERENCE])


def _findings(found: DatasetReport, gathered: Mapping[str, list[str]]) -> Iterable[Finding]:
    """Every sentence there is to say, the worst first."""
    counts = {row.label: row.images for row in found.classes if row.split == TRAIN}
    present = {label: count for label, count in counts.items() if count}
    yield from _fatal(found, present)

    def warning(kind: str, message: str) -> Finding:
        return Finding("warning", kind, message)

    if found.unreadable:
        names = _list([picture.name for picture in found.unreadable])
        yield warning(
            "unreadable", f"{_count(found.unreadable, 'picture')} cannot be read and will be left out: {names}."
        )
    for split in dict.fromkeys(row.split for row in found.classes):
        missing = [row.label for row in found.classes if row.split == split and not row.images]
        if missing and len(missing) < len(found.labels):
            yield warning("missing", f"The {split} split has no pictures of {_list(missing)}.")
    if found.leaks:
        groups = _joined([_group(group) for group in found.leaks[:_SHOWN]], len(found.leaks))
        yield warning(
            "leak",
            f"{_count(found.leaks, 'picture')} in several splits, so accuracy will look better than it is: {groups}.",
        )
    if found.conflicts:
        groups = _joined([_group(group) for group in found.conflicts[:_SHOWN]], len(found.conflicts))
        yield warning("conflict", f"{_count(found.conflicts, 'picture')} have more than one label: {groups}.")
    few = [f"{label} ({count})" for label, count in present.items() if count < FEW]
    if few:
        yield warning("few", f"Fewer than {FEW} pictures to learn from: {_list(few)}; add some if you can.")
    if len(present) > 1 and max(present.values()) >= IMBALANCE * min(present.values()):
        most, least = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        yield warning(
            "imbalance",
            f"{_short(most)} has {present[most]:,} pictures and {_short(least)} {present[least]:,}; "
            "balance the classes when training, or add pictures to the rare ones.",
        )
    yield from (warning("name", message) for message in _suspicious(found.labels))
    if gathered:
        shown = [f"{_short(label)} from {_list(folders)}" for label, folders in list(gathered.items())[:_SHOWN]]
        groups = _joined(shown, len(gathered))
        yield warning("gathered", f"Folders of one name became one class: {groups}.")
    uniform = sorted(found._uniform, key=found.labels.index)
    if uniform:
        yield warning("alike", f"All pictures look the same in {_list(uniform)}; vary them to learn what matters.")
    inside = [group for group in found.duplicates if len(group.splits) == 1 and len(group.labels) == 1]
    if inside:
        extra = sum(len(group.pictures) - 1 for group in inside)
        exact = sum(group.exact for group in inside)
        copies = "1 copy" if extra == 1 else f"{extra:,} copies"
        alike = f"{exact:,} as the same file" if exact else "alike, but not the same file"
        yield Finding(
            "note",
            "duplicates",
            f"{_count(inside, 'picture')} more than once ({copies}, {alike}), "
            f"such as {_group(inside[0])}; copies stay on one side of the validation split.",
        )
    for reason, left_out in found.skipped.items():
        yield Finding("note", "skipped", f"{len(left_out):,} left out ({reason}): {_list(left_out)}.")


def _fatal(found: DatasetReport, present: Mapping[str, int]) -> Iterable[Finding]:
    copies = Counter[str]()
    for group in found.duplicates:
        files = set[int]()
        for picture, file in zip(group.pictures, group.files, strict=True):
            copies[picture.label] += picture.split == TRAIN and file in files
            files.add(file)
    if not present:
        reason = f"; {found.unreadable[0].reason}" if found.unreadable else "."
        yield Finding("fatal", "nothing", f"None of the pictures to learn from can be read{reason}")
    elif len(present) == 1:
        (label,) = present
        yield Finding(
            "fatal",
            "one class",
            f"{_short(label)!r} is the only class with pictures; add pictures of at least one other.",
        )
    elif not any(count - copies[label] > 1 for label, count in present.items()):
        yield Finding(
            "fatal", "single", f"None of the {len(present)} classes has two different pictures; add some to each."
        )
    if any(not label.strip() for label in found.labels):
        yield Finding("fatal", "name", "A class has no name; give each class one.")


def _suspicious(labels: tuple[str, ...]) -> Iterable[str]:
    twins = defaultdict(list)
    for label in labels:
        twins[" ".join(label.casefold().replace("_", " ").replace("-", " ").split())].append(label)
    for same in twins.values():
        if len(same) > 1:
            yield f"Are these one class, written in several ways? {_list([repr(_short(label)) for label in same])}"
    for label in labels:
        if label.lower() in SPLIT_NAMES:
            yield f"A class is called {label!r}; for a split, put class folders inside, and a folder train beside it."
        elif len(label) > LONG_LABEL:
            yield f"The class name {_short(label)!r} has {len(label)} characters; a shorter one is easier to show."
        elif label.strip() and label != label.strip():
            yield f"The class name {label!r} begins or ends with a space."


def _count(things: Any, noun: str) -> str:
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"


def _group(group: Duplicates) -> str:
    first, second = group.pictures[:2]
    if len(group.splits) > 1:
        second = next(picture for picture in group.pictures if picture.split != first.split)
    elif len(group.labels) > 1:
        second = next(picture for picture in group.pictures if picture.label != first.label)
    return f"{_short(first.name)} = {_short(second.name)}"


def _list(names: list[str]) -> str:
    return _joined([_short(name) for name in names[:_SHOWN]], len(names))


def _joined(shown: list[str], count: int) -> str:
    return ", ".join(shown) + (f" and {count - len(shown):,} more" if count > len(shown) else "")


def _short(text: str) -> str:
    """Printable, and the end of what is too long: file names differ there."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= LONG_LABEL else f"...{text[3 - LONG_LABEL :]}"


def format_bytes(count: int) -> str:
    """Bytes for people, such as `12.3 MB`."""
    return f"{count / 2**20:,.1f} MB" if count >= 2**20 else f"{count / 2**10:,.1f} KB"
