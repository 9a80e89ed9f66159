"""Reads a dataset as a stream, file after file and without storing it: parquet files, WebDataset tars, or the Hub.

The files of a split are read in any order, the images of a file in its own. A sample, the first images of files all
over the dataset, is read at once: it stands for the dataset where a part of it must do.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from resnet_hub.datasets.dataset import TRAIN, ImageDataset, Splits
from resnet_hub.datasets.labels import encode_label, natural_key
from resnet_hub.datasets.layout import sort_files
from resnet_hub.datasets.listing import FolderListing
from resnet_hub.datasets.parquet import count_labels, get_file_name, limit_batches, read_remote
from resnet_hub.datasets.remote import HUB_PREFIX, group_by_split, name_splits, open_builder, parse_repo_id
from resnet_hub.datasets.remote_errors import explain_error, wrap_errors
from resnet_hub.datasets.split_names import are_all_splits
from resnet_hub.datasets.tables import MAX_LABELS, choose_columns, explain_no_label_column
from resnet_hub.datasets.tar import TarArchive, is_tar, read_label_files
from resnet_hub.errors import DataError, ImageError, ResNetHubError
from resnet_hub.hub_client import timeouts
from resnet_hub.hub_client.timeouts import count_progress, request_timeout
from resnet_hub.paths import expand_home
from resnet_hub.threads import ReadAhead

MAX_SAMPLED = 5_000  # images of a split
_SAMPLE_BYTES = 2**28  # encoded images of a split, which stay in memory
_SAMPLED_FILES = 16


class ShardFile(Protocol):
    """A file of a stream: yields the encoded image and the label of each row, from a state on that it once had."""

    name: str

    def __iter__(self) -> Iterator[tuple[bytes, Any]]: ...

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state: Any) -> None: ...


class _Table:
    """A file that `datasets` streams. Only images inside the file are read; its rows could name any other file."""

    def __init__(self, name: str, table: Any, image_column: str, label_column: str):
        self.name, self._table, self._columns = name, table, (image_column, label_column)
        self.state_dict, self.load_state_dict = table.state_dict, table.load_state_dict

    def __iter__(self) -> Iterator[tuple[bytes, Any]]:
        image_column, label_column = self._columns
        for row in self._table:
            image = row[image_column]
            yield bytes((image and image["bytes"]) or b""), row[label_column]


class _Tar:
    """A tar of images, with label files beside them. The state is a number of images."""

    def __init__(self, path: Path):
        self.name, self._archive, self._done = path.name, TarArchive(path), 0
        files = sort_files(self._archive)
        images = set(files.images)
        self.images = [name for name in self._archive.files if name in images]  # in the order of the file
        self.labels = read_label_files(self._archive, files.images, files.skipped["not an image"])

    def __iter__(self) -> Iterator[tuple[bytes, Any]]:
        while self._done < len(self.images):
            name, content = self.images[self._done], b""
            self._done += 1
            with suppress(ImageError):
                content = self._archive.read(name)
            yield content, self.labels.get(name)

    def state_dict(self) -> int:
        return self._done

    def load_state_dict(self, state: int) -> None:
        self._done = state


class StreamedImage(NamedTuple):
    """An encoded image of a stream."""

    content: bytes
    target: int
    name: str


class FileSlice(NamedTuple):
    """The rows of a file from `start` on, every `step`-th: `rows[start::step]`."""

    file: int
    start: int = 0
    step: int = 1


Location = tuple[int, int]  # of an image: its file and its row in it


@dataclass
class ImageStream:
    """The training images of a dataset, and a sample of each of its splits.

    Attributes:
        title: The name of the dataset in messages.
        labels: The labels.
        count: The number of training images, if it is known.
        files: Opens each file of the training images.
        sample: Images of each split, in memory.
        locations: Where the training images of `sample` are.
        is_remote: Whether the files are on the Hub.
        rows: Rows that were read, also of images that were left out.
    """

    title: str
    labels: tuple[str, ...]
    count: int | None
    files: Sequence[Callable[[], ShardFile]]
    sample: Splits
    locations: list[Location]
    encode: Callable[[Any, str], int | None]
    is_remote: bool = False
    rows: int = 0

    def read(self, slices: Sequence[FileSlice], skipped: Collection[Location] = (), state: Any = None) -> "Reader":
        """Read `slices` one after the other, without the images at `skipped`, from the `state` of an earlier reader."""
        return Reader(self, slices, frozenset(skipped), state)

    def describe(self) -> str:
        """Describe the sample in a sentence for the report and the model card."""
        of_all = "" if self.count is None else f" of {self.count:,}"
        counts = [f"{len(self.sample[TRAIN]):,}{of_all} training images"]
        counts += [f"{len(images):,} images of {split}" for split, images in self.sample.items() if split != TRAIN]
        files = f"{min(len(self.files), _SAMPLED_FILES):,} of {len(self.files):,} files"
        return (
            "The dataset is read as a stream. Its report, with all numbers of images, is on a sample: the first images "
            f"of {files}, {', '.join(counts)}."
        )


class Reader:
    """Iterates over the images of slices of files; `state` is its position, which JSON can hold."""

    def __init__(self, stream: ImageStream, slices: Sequence[FileSlice], skipped: frozenset[Location], state: Any):
        self._stream, self._slices, self._skipped = stream, slices, skipped
        self._number: int
        self._row: int
        self._inner: Any
        self._number, self._row, self._inner = state or (0, 0, None)
        self._file: ShardFile | None = None
        self._images = self._iterate()

    def __iter__(self) -> Iterator[StreamedImage]:
        return self

    def __next__(self) -> StreamedImage:
        return next(self._images)

    def state(self) -> Any:
        return [self._number, self._row, self._file.state_dict() if self._file else self._inner]

    def _iterate(self) -> Iterator[StreamedImage]:
        stream = self._stream
        while self._number < len(self._slices):
            rows = self._slices[self._number]
            self._file = stream.files[rows.file]()
            if self._inner is not None:
                self._file.load_state_dict(self._inner)
            for content, label in _read_rows(stream.title, self._file):
                location, name = (rows.file, self._row), f"{TRAIN}[{rows.file}:{self._row}]"
                self._row += 1
                stream.rows += 1
                target = stream.encode(label, name)
                if location[1] % rows.step == rows.start and location not in self._skipped and target is not None:
                    yield StreamedImage(content, target, name)
            self._number, self._row, self._inner, self._file = self._number + 1, 0, None, None


def _read_rows(title: str, file: ShardFile) -> Iterator[tuple[bytes, Any]]:
    """Yield the rows of a file; raise `DataError` with its name if it cannot be read."""
    try:
        yield from file
    except ResNetHubError:
        raise
    except Exception as error:  # `datasets` raises nearly any exception
        raise DataError(explain_error(title, None, error, file.name)) from None


class SilenceLimit:
    """Raises `DataError` in a wait for a dataset on the Hub of which nothing arrives for `timeouts.STREAM_SILENCE`.

    The timeout of requests does not hold here: they are made in other threads, and `datasets` repeats each for half an
    hour.

    Args:
        title: The name of the dataset.
        count_rows: Returns the number of rows that were read.
        seconds: Another limit.
    """

    def __init__(self, title: str, count_rows: Callable[[], int] = lambda: 0, seconds: float | None = None):
        self._title, self._count_rows, self._seconds = title, count_rows, seconds or timeouts.STREAM_SILENCE
        self._seen, self._moved_at = self._count(), time.monotonic()

    def _count(self) -> tuple[int, int]:
        return self._count_rows(), count_progress()

    def check(self, waited: float) -> None:
        """To be called during a wait that began `waited` seconds ago; between two waits, nothing need arrive."""
        now, seen = time.monotonic(), self._count()
        if seen != self._seen:
            self._seen, self._moved_at = seen, now
        elif min(waited, now - self._moved_at) >= self._seconds:
            raise DataError(
                f"Nothing of the dataset {self._title!r} has arrived for {self._seconds:.0f} seconds. Check "
                "the connection, and try again."
            )


def open_stream(
    source: str | Path,
    *,
    subset: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    silence: float | None = None,
) -> ImageStream:
    """Open a dataset as a stream and read its sample; the arguments are those of `load_dataset`.

    Args:
        source: A folder of parquet files, a tar or a folder of tars in the form of WebDataset, or the id of a dataset
            on the Hub whose files are tables or tars.
        silence: Seconds without any data from the Hub after which the opening fails; by default
            `timeouts.STREAM_SILENCE`.

    Raises:
        DataError: The source has another form, has no training images, or its labels cannot be found.
    """
    path = None if str(source).startswith(HUB_PREFIX) else Path(expand_home(source))
    if path and path.exists():
        if revision is not None:
            reason = "only datasets on the Hub have one"
            raise DataError(f"{path.resolve().name} has no revision {revision!r}: {reason}. Leave it out.")
        tables, tars = _list_shards(path)
        if tars:
            selection = {"subset": subset, "split": split, "image_column": image_column, "label_column": label_column}
            for argument, value in selection.items():
                if value is not None:
                    raise DataError(f"{path.name} has no {argument} {value!r}: it holds tars. Leave it out.")
            return _open_tars(path.resolve().name, name_splits(group_by_split(path, tars), path.name))
    columns = image_column, label_column
    open_tables = partial(_open_tables, subset=subset, split=split, columns=columns, revision=revision, token=token)
    if path and path.exists():
        return open_tables(path, path.resolve().name, tables)
    name = parse_repo_id(str(source))
    limit = SilenceLimit(name, seconds=silence)
    with closing(ReadAhead((open_tables(name, name, []) for _ in range(1)), 1, limit.check)) as opened:
        return next(opened)


def _open_tables(
    origin: str | Path,
    title: str,
    tables: Sequence[Path],
    *,
    subset: str | None,
    split: str | None,
    columns: tuple[str | None, str | None],
    revision: str | None,
    token: str | bool | None,
) -> ImageStream:
    """Open files of a folder, or a dataset on the Hub; the arguments are those of `open_stream`."""
    with wrap_errors(title, revision):
        import datasets

        with request_timeout():
            hub = {} if isinstance(origin, Path) else {"revision": revision, "token": token, "streams": True}
            builder, commit = open_builder(origin, subset, tables, takes_images=not split, **hub)
            if isinstance(builder, Path):
                raise DataError(_explain_form(title))
            limit_batches(builder, partial(read_remote, token))
            is_parquet = hasattr(builder.config, "columns") and hasattr(builder.config, "filters")
            loaded = builder.as_streaming_dataset(split=split)
            by_name = loaded if isinstance(loaded, dict) else {split: loaded}
            by_split = name_splits(by_name, title)
            names = {id(table): str(name) for name, table in by_name.items()}  # as the builder has them
            names_of = {name: names[id(table)] for name, table in by_split.items()}  # of the builder's splits
            features = by_split[TRAIN].features or _infer_features(by_split[TRAIN])
        image_column, label_column = choose_columns(features, *columns)
        feature = features[label_column]
        as_bytes = datasets.Image(decode=False)
        by_split = {
            name: table.select_columns([image_column, label_column]).cast_column(image_column, as_bytes)
            for name, table in by_split.items()
        }
        paths = {name: [*(builder.config.data_files or {}).get(of, ())] for name, of in names_of.items()}
        files = {name: _split_table(table, paths[name], image_column, label_column) for name, table in by_split.items()}
        info = (builder.info.splits or {}).get(names_of[TRAIN])
        count = (info.num_examples if info else None) or None
        has_indices = isinstance(feature, datasets.ClassLabel)
        if not has_indices and not isinstance(feature, datasets.Value):
            raise DataError(explain_no_label_column(label_column))
        labels = tuple(feature.names) if has_indices else None
        if is_parquet:  # the labels can be read alone
            if labels is None:
                counts = {name: count_labels(title, group, label_column, token) for name, group in paths.items()}
                label_of = {value: encode_label(label_column, value) for group in counts.values() for value in group}
                labels = _sort_labels({label for label in label_of.values() if label is not None}, label_column)
                count = sum(number for value, number in counts[TRAIN].items() if label_of[value] is not None)
            elif count is None:
                of_train = count_labels(title, paths[TRAIN], label_column, token)
                count = sum(number for value, number in of_train.items() if value in range(len(labels)))
        stream = _create_stream(title, labels, count, files, label_column, has_indices=has_indices)
        stream.sample.commit, stream.is_remote = commit, not isinstance(origin, Path)
        return stream


def _infer_features(table: Any) -> Any:
    """The features of a table whose files do not name them, such as CSV: those of its first row."""
    import datasets

    row = next(iter(table.with_format("arrow")), None)
    return datasets.Features({} if row is None else datasets.Features.from_arrow_schema(row.schema))


def _list_shards(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the parquet files and the tars of a folder, in natural order; one of them is empty."""
    if not path.is_dir():
        if path.suffix.lower() == ".parquet":
            raise DataError(f"{path.name} is a file. Give the folder that it is in.")
        if not is_tar(path):
            raise DataError(_explain_form(path.name))
        return [], [path]
    listing = FolderListing(path)
    files = sort_files(listing)
    tars = [listing.files[name] for name in files.archives if is_tar(listing.files[name])]
    tables, title = [listing.files[name] for name in files.tables], path.resolve().name
    if not tars and not tables:
        raise DataError(_explain_form(title))
    if tars and tables:
        raise DataError(f"{title} holds tars, such as {tars[0].name}, and parquet files. Keep one kind.")
    return tables, tars


def _explain_form(title: str) -> str:
    return (
        f"{title} cannot be read as a stream: it holds neither parquet files of images nor WebDataset tars. Leave out "
        "stream, or write such files."
    )


def _open_tars(title: str, paths: Mapping[str, Sequence[Path]]) -> ImageStream:
    labels, count = set[str](), 0
    for split, group in paths.items():
        for path in group:
            tar = _Tar(path)
            if split == TRAIN and tar.images and not tar.labels:
                raise DataError(
                    f"{tar.name} has no files with labels (1.cls or 1.json beside 1.jpg), as the tars of a stream "
                    "need. Leave out stream, or write WebDataset tars."
                )
            labels, count = labels | set(tar.labels.values()), count + len(tar.labels) * (split == TRAIN)
    files = {split: [partial(_Tar, path) for path in group] for split, group in paths.items()}
    return _create_stream(title, _sort_labels(labels, "cls"), count, files, "cls", has_indices=False)


def _split_table(table: Any, paths: Sequence[str], *columns: str) -> list[Callable[[], ShardFile]]:
    count = table.num_shards
    names = [get_file_name(path) for path in paths] if len(paths) == count else [f"file {n}" for n in range(count)]

    def open_file(number: int) -> ShardFile:
        return _Table(names[number], table.shard(count, number), *columns)

    return [partial(open_file, number) for number in range(count)]


def _sort_labels(labels: Collection[str], column: str) -> tuple[str, ...]:
    if len(labels) > MAX_LABELS:
        raise DataError(explain_no_label_column(column))
    ordered = tuple(sorted(labels, key=natural_key))
    if are_all_splits(ordered):
        raise DataError(f"The labels in {column!r} are the names of splits: {', '.join(ordered)}. Name another column.")
    return ordered


def _create_stream(
    title: str,
    labels: tuple[str, ...] | None,
    count: int | None,
    files: Mapping[str, Sequence[Callable[[], ShardFile]]],
    column: str,
    *,
    has_indices: bool,
) -> ImageStream:
    """Read the sample, and create the stream. Without `labels` they are those of the sample.

    Args:
        title: The name of the dataset.
        labels: The labels, if they are known.
        count: The number of training images, if it is known.
        files: The files of each split.
        column: The column of the labels.
        has_indices: Whether that column holds indices in `labels`.
    """
    rows = {split: _read_sample(title, group) for split, group in files.items()}
    if labels is None:
        values = [encode_label(column, value) for group in rows.values() for *_, value in group]
        labels = _sort_labels({value for value in values if value is not None}, column)
    index_of = {label: index for index, label in enumerate(labels)}

    def encode(value: Any, name: str) -> int | None:
        if has_indices:
            return int(value) if value in range(len(index_of)) else None
        label = encode_label(column, value)
        if label is not None and label not in index_of:
            raise DataError(
                f"The image {name} of {title} has the label {label!r}, which none of the images has that were read "
                "to learn the labels. Store the labels as a ClassLabel, or write parquet files."
            )
        return None if label is None else index_of[label]

    sample, locations, unlabeled = {}, list[Location](), list[str]()
    for split, group in rows.items():
        names = [f"{split}[{file}:{row}]" for (file, row), *_ in group]
        targets = [encode(value, name) for (*_, value), name in zip(group, names, strict=True)]
        labeled = [index for index, target in enumerate(targets) if target is not None]
        unlabeled += [name for name, target in zip(names, targets, strict=True) if target is None]
        if split == TRAIN:
            locations = [group[index][0] for index in labeled]
        contents, classes = [group[index][1] for index in labeled], np.array([targets[i] for i in labeled], np.int64)
        if labeled:
            sample[split] = ImageDataset(labels, contents, classes, [names[index] for index in labeled])
    if TRAIN not in sample:
        raise DataError(f"{title} has no training images with labels. Choose another split or dataset.")
    skipped = {"image without a label": unlabeled} if unlabeled else None
    splits = Splits(sample, skipped, sample_of=f"{count} images in {len(files[TRAIN])} files")
    return ImageStream(title, labels, count, files[TRAIN], splits, locations, encode)


def _read_sample(title: str, files: Sequence[Callable[[], ShardFile]]) -> list[tuple[Location, bytes, Any]]:
    """Read the first rows of files all over a split."""
    chosen = np.unique(np.linspace(0, len(files) - 1, min(len(files), _SAMPLED_FILES)).astype(np.int64)).tolist()
    rows = []
    for file in chosen:
        size = 0
        for row, (content, value) in enumerate(_read_rows(title, files[file]())):
            rows.append(((file, row), content, value))
            size += len(content)
            if (row + 1) * len(chosen) >= MAX_SAMPLED or size * len(chosen) >= _SAMPLE_BYTES:
                break
    return rows
