"""Labelled pictures from wherever they lie: class folders, a ZIP of them, lists of files, parquet, or the Hub."""

import contextlib
import re
import tempfile
import unicodedata
import zipfile
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np

from resnet_hub.archive import UNREAD, Archive
from resnet_hub.errors import DataError, ImageError, ResNetHubError, TooLargeError, disk_is_full, one_line
from resnet_hub.files import walk
from resnet_hub.images import MAX_BYTES, SUFFIXES
from resnet_hub.patience import ask, patience

if TYPE_CHECKING:
    from PIL import Image

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_ALIASES = {TRAIN: ("train", "training"), VALIDATION: ("validation", "valid", "val", "dev"), TEST: ("test", "testing")}
SPLIT_NAMES = {alias: split for split, aliases in _ALIASES.items() for alias in aliases}  # lower case

HUB = "hf://datasets/"  # before an id: the data set of that name on the Hub, never a folder that is called so
MAX_DOWNLOAD = 32 * 2**30  # bytes of the files of a data set on the Hub; ImageNet has 150 GB
MAX_LABELS = 10_000  # a column with more of them holds numbers or captions, not classes

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_SYSTEM_FOLDERS = {"__macosx", "$recycle.bin", "@eadir"}
_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")  # what `datasets` is configured by
_MAX_CARD = 2**20  # bytes
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OUTSIDE = re.compile(r"^[/\\~]|:|(^|[/\\])\.\.([/\\]|$)")  # a path here, an address, a drive, the folder above
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}

Folder = tuple[str, ...]


@dataclass(frozen=True)
class ImageSet:
    """Pictures as encoded bytes or paths, in a fixed order, each with the index of its label."""

    labels: tuple[str, ...]
    sources: Sequence[Any]
    targets: np.ndarray  # int64 (N,)
    names: Sequence[str] = ()  # what to call each picture in a message; unique within the set

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"picture {index}"

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        places = np.asarray(indices, dtype=np.int64)
        names = _Picked(self.names, places) if self.names else ()
        return ImageSet(self.labels, _Picked(self.sources, places), self.targets[places], names)

    def read(self, index: int) -> bytes:
        """The encoded picture, at most `images.MAX_BYTES` and one; raises `ImageError`."""
        source = self.sources[index]
        if isinstance(source, bytes):
            return source
        try:
            with Path(source).open("rb") as file:
                return file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ImageError(f"{self.name(index)} cannot be read: {error.strerror}.") from None

    def decode(self, render: "Callable[[Image.Image], Image.Image]", threads: int = 2) -> np.ndarray:
        """Every picture, rendered to one size, as uint8 (N, H, W, C); bounded threads decode ahead."""
        from resnet_hub.images import load_image

        def pixels(index: int) -> np.ndarray:
            return np.asarray(render(load_image(self.sources[index], name=self.name(index))))

        if not len(self):
            raise DataError("There are no pictures to decode.")
        with ThreadPoolExecutor(threads) as pool:
            arrays = pool.map(pixels, range(len(self)))
            first = next(arrays)
            out = np.empty((len(self), *first.shape), np.uint8)
            out[0] = first
            for index, array in enumerate(arrays, 1):
                out[index] = array
        return out


class Splits(dict[str, ImageSet]):
    """The splits of a data set by name, all with the same labels, and what was left out of them on the way."""

    def __init__(
        self,
        splits: Mapping[str, ImageSet],
        *,
        skipped: Mapping[str, list[str]] | None = None,  # names by reason
        gathered: Mapping[str, list[str]] | None = None,  # folders by class, where they are more than one
    ):
        super().__init__(splits)
        self.skipped, self.gathered = dict(skipped or {}), dict(gathered or {})
        self.commit: str | None = None  # that they were read at, of a data set on the Hub


class _Picked(Sequence[Any]):
    """The items of a sequence at given places, read when asked for."""

    items: Sequence[Any]
    places: np.ndarray

    def __init__(self, items: Sequence[Any], places: np.ndarray):
        if isinstance(items, _Picked):  # a subset of a subset is no deeper
            self.items, self.places = items.items, items.places[places]
        else:
            self.items, self.places = items, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        return self.items[int(self.places[index])]


def load(
    source: str | Path | Mapping[str, Sequence[Any]],
    *,
    subset: str | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    max_bytes: int | None = None,
) -> Splits:
    """The splits of a data set by name: `train`, and `validation` and `test` where it has them.

    `source` is a folder of class folders, with or without folders train, validation and test above them; a ZIP of the
    same, at any depth; a mapping of labels to picture files or bytes; a folder of parquet files; or the id of a data
    set on the Hub. The other arguments are for parquet and the Hub: the name of a subset, an expression for the split
    to train on (such as `train[:10%]`), the columns (found by their type where they are not named), and the token of
    whoever asks; False asks as nobody, where None may use the one saved on this machine. Of the Hub no more than
    `max_bytes` are downloaded (`MAX_DOWNLOAD`, where it is None). `Splits.commit` is the `revision` that
    reads the same again.

    Labels are in natural order (`class 2` before `class 10`), or in the order of a `ClassLabel` column. Raises
    `DataError` where there is nothing to train on, and `TooLargeError` before a download over `max_bytes`.
    """
    hub: dict[str, Any] = {
        "revision": revision,
        "token": token,
        "max_bytes": MAX_DOWNLOAD if max_bytes is None else max_bytes,
    }
    named = {"subset": subset, "split": split, "image_column": image_column, "label_column": label_column}
    known: set[str] = set()  # of the names, those that such a source has
    if isinstance(source, Mapping):
        splits = _from_mapping(source)
    elif str(source).startswith(HUB):
        splits, known = _from_datasets(_repo_id(str(source)), **named, **hub), {*named, "revision"}
    elif Path(source).is_dir():
        classes = _from_folder(Path(source))
        splits, known = (classes, known) if classes else (_from_datasets(Path(source), **named), {*named})
    elif Path(source).is_file():
        splits = _from_archive(Path(source))
    else:
        splits, known = _from_datasets(_repo_id(str(source)), **named, **hub), {*named, "revision"}
    for what, name in {**named, "revision": revision}.items():
        if name is not None and what not in known:
            others = "data sets on the Hub" if what == "revision" else "parquet and data sets on the Hub"
            raise DataError(f"{_called(source)} has no {what} {name!r}: only {others} have one; leave it out.")
    if TRAIN not in splits:
        raise DataError(f"{_called(source)} has no training pictures, only {' and '.join(splits)}.")
    return splits


def _repo_id(source: str) -> str:
    """The id of a data set on the Hub, and nothing that `datasets` would take for a folder here or a format."""
    name = source.removeprefix(HUB)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise DataError(f"There is no folder or file {source!r}, nor is it a data set on the Hub (user/name).")
    if Path(name).exists():
        raise DataError(f"{name!r} is a folder here as well as a name on the Hub; start from another folder.")
    return name


def natural(label: str) -> tuple[Any, ...]:
    """A key that sorts `class 2` before `class 10`, the same on every machine."""
    parts = re.split(r"([0-9]+)", label.casefold())
    numbers = [part.lstrip("0") for part in parts[1::2]]
    return (parts[0], [(len(n), n, rest) for n, rest in zip(numbers, parts[2::2], strict=True)], label)


def _called(source: Any) -> str:
    return "The data set" if isinstance(source, Mapping) else f"{Path(source).name or source}"


# -- class folders, as files or in a ZIP -------------------------------------------------------------------------------


def _from_folder(root: Path) -> Splits | None:
    """None for a folder that has no pictures but parquet files."""
    files: dict[str, Path] = {}
    folders, parquet = [], False
    for parent, inner, names in walk(root):
        inner[:] = [name for name in inner if not _is_system(name)]
        below = _utf8(Path(parent).relative_to(root).as_posix())
        folders.append(below)
        for name in names:
            path = Path(parent, name)
            if path.is_file():  # neither a pipe nor a broken link
                files[str(PurePosixPath(below, _utf8(name)))] = path
                parquet = parquet or name.endswith(".parquet")
    if parquet and not any(PurePosixPath(name).suffix.lower() in SUFFIXES for name in files):
        return None
    return _arranged(root.name, list(files), folders, {}, lambda names: [files[name] for name in names])


def _from_archive(path: Path) -> Splits:
    archive = Archive(path)
    return _arranged(
        path.name, list(archive.files), archive.folders, archive.skipped, lambda names: _Zipped(archive, names)
    )


class _Zipped(Sequence[Any]):
    """Files of a ZIP, read when asked for."""

    def __init__(self, archive: Archive, names: list[str]):
        self.archive, self.names = archive, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> bytes:
        return self.archive.read(self.names[int(index)])


def _arranged(
    title: str,
    files: list[str],
    folders: list[str],
    skipped: Mapping[str, list[str]],
    sources: Callable[[list[str]], Sequence[Any]],
) -> Splits:
    """Splits and labels from the names of files, which are relative paths with forward slashes."""
    left_out = defaultdict(list, skipped)
    pictures: dict[str, Folder] = {}
    for name in files:
        *above, last = name.split("/")
        suffix = PurePosixPath(last).suffix.lower()
        if any(map(_is_system, above)) or _is_system(last):
            left_out["system file"].append(name)
        elif suffix in _ARCHIVES:
            left_out["archive inside"].append(name)
        elif suffix not in SUFFIXES:
            left_out["no picture"].append(name)
        else:
            pictures[name] = tuple(above)
    places, gathered = _places(set(pictures.values()))
    left_out["picture outside the class folders"] += [name for name in pictures if pictures[name] not in places]
    left_out["folder without pictures"] += _empty(folders, set(pictures.values()))
    if not places:
        raise DataError(_nothing(title, left_out))

    labels = tuple(sorted({label for _, label in places.values()}, key=natural))
    index = {label: number for number, label in enumerate(labels)}
    members = defaultdict(list)
    for name in sorted(pictures, key=natural):
        if pictures[name] in places:
            split, label = places[pictures[name]]
            members[split].append((index[label], name))
    splits = {}
    for split in _ALIASES:
        if split in members:
            found = sorted(members[split], key=lambda member: member[0])
            names = [name for _, name in found]
            splits[split] = ImageSet(labels, sources(names), np.array([target for target, _ in found], np.int64), names)
    return Splits(splits, skipped={reason: names for reason, names in left_out.items() if names}, gathered=gathered)


def _nothing(title: str, left_out: Mapping[str, list[str]]) -> str:
    if left_out["archive inside"]:
        return f"{title} holds no pictures but archives such as {left_out['archive inside'][0]}; unpack them first."
    if left_out[UNREAD]:
        return f"{title} holds no pictures but files {UNREAD}; pack it again as a plain ZIP."
    if left_out["picture outside the class folders"]:
        return f"{title} has pictures but no class folders; put the pictures of each class into a folder of its name."
    return f"{title} holds no pictures; expected a folder for each class with its pictures inside."


def _places(folders: set[Folder]) -> tuple[dict[Folder, tuple[str, str]], dict[str, list[str]]]:
    """Split and label of each folder that has pictures, where it has them, and the labels of more than one folder."""
    root, inner = _below_wrapper(folders)
    depth = len(root)
    tops = {folder[depth].lower() for folder in inner if len(folder) > depth}
    trains = any(len(folder) > depth + 1 and SPLIT_NAMES.get(folder[depth].lower()) == TRAIN for folder in inner)
    if trains and len({SPLIT_NAMES[top] for top in tops if top in SPLIT_NAMES}) > 1:
        splits = {folder: SPLIT_NAMES.get(folder[depth].lower()) for folder in inner}
        inside = {folder: folder[depth + 1 :] for folder, split in splits.items() if split and folder[depth + 1 :]}
    else:
        splits, inside = dict.fromkeys(inner, TRAIN), {folder: folder for folder in inner if folder}
    classes = _classes(set(inside.values()))
    parents = defaultdict(set)
    for path in classes.values():
        parents[_unescape(path[-1])].add("/".join(path))
    return (
        {f: (str(splits[f]), _unescape(classes[path][-1])) for f, path in inside.items() if path in classes},
        {label: sorted(paths) for label, paths in parents.items() if len(paths) > 1},
    )


def _empty(folders: list[str], used: set[Folder]) -> list[str]:
    """The topmost folders that have no picture in them or below."""
    full = sorted("/".join(folder) + "/" for folder in used)

    def is_empty(folder: str) -> bool:
        place = bisect_left(full, folder + "/")  # of the first that could lie in it
        return place == len(full) or not full[place].startswith(folder + "/")

    empty = {folder for folder in folders if folder not in ("", ".") and is_empty(folder)}
    return sorted(f for f in empty if f.rpartition("/")[0] not in empty and not any(map(_is_system, f.split("/"))))


def _below_wrapper(folders: set[Folder]) -> tuple[Folder, set[Folder]]:
    """The folder around all others, and those others: pictures that lie in the wrapper itself belong to no class."""
    inner = set(folders)
    while inner:
        first, last = min(inner), max(inner)  # what these two share, all share
        same = [one == other for one, other in zip(first, last, strict=False)]
        root = first[: [*same, False].index(False)]
        if len(inner) == 1 or root not in inner:
            return root, inner
        inner.remove(root)
    return (), inner


def _classes(folders: set[Folder]) -> dict[Folder, Folder]:
    """The class folder of each folder: the topmost below the wrapper that has pictures itself.

    A name at the end that all of them share (`cat/images`, `dog/images`) is no class.
    """
    root, inner = _below_wrapper(folders)
    start = len(root) + 1 if len(inner) > 1 else len(root)
    tops = {f: next(f[:n] for n in range(start, len(f) + 1) if f[:n] in inner) for f in inner}
    while len({top[-1] for top in tops.values()}) == 1 and min(map(len, tops.values())) > start:
        tops = {folder: top[:-1] for folder, top in tops.items()}
    return tops


def _is_system(name: str) -> bool:
    lower = name.lower()
    return lower.startswith(".") or lower in _SYSTEM_FILES or lower in _SYSTEM_FOLDERS


def _utf8(name: str) -> str:
    """A name without the escapes that Python puts in for bytes which are no UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


# -- lists of files ----------------------------------------------------------------------------------------------------


def _from_mapping(source: Mapping[str, Sequence[Any]]) -> Splits:
    labels = tuple(sorted((label for label in source if source[label]), key=natural))
    if not labels:
        raise DataError("There are no pictures yet; add some to at least two classes.")
    sources: list[Any] = []
    targets: list[int] = []
    names: list[str] = []
    for target, label in enumerate(labels):
        for number, picture in enumerate(source[label], 1):
            last = str(number) if isinstance(picture, bytes) else Path(picture).name
            sources.append(picture)
            targets.append(target)
            names.append(f"{label}/{last}")
    for name, count in Counter(names).items():
        if count > 1:
            places = [place for place, other in enumerate(names) if other == name]
            for number, place in enumerate(places[1:], 2):
                names[place] = f"{name} ({number})"
    empty = [label for label in source if not source[label]]
    images = ImageSet(labels, sources, np.array(targets, np.int64), names)
    return Splits({TRAIN: images}, skipped={"folder without pictures": empty} if empty else None)


# -- parquet and the Hub -----------------------------------------------------------------------------------------------


def _from_datasets(
    source: str | Path,
    *,
    subset: str | None,
    split: str | None,
    image_column: str | None,
    label_column: str | None,
    **hub: Any,
) -> Splits:
    with _calm(str(source)), patience() if not isinstance(source, Path) else contextlib.nullcontext():
        import datasets

        commit = None
        if isinstance(source, Path):
            _check_cards(str(source), [source / name for name in _CARDS if (source / name).is_file()])
            builder = datasets.load_dataset_builder(str(source), subset)
        else:
            builder, commit = _builder(source, subset, **hub)
        builder.download_and_prepare()
        found = builder.as_dataset(split=split)
        tables = found if isinstance(found, datasets.DatasetDict) else {TRAIN: found}
        if len(tables) == 1:
            tables = {TRAIN: next(iter(tables.values()))}
        picked: dict[str, Any] = {}
        for name, table in tables.items():
            picked.setdefault(SPLIT_NAMES.get(str(name).lower(), ""), table)
        picked.pop("", None)
        if TRAIN not in picked:
            names = ", ".join(map(str, tables))
            title = str(source)
            raise DataError(f"{title!r} has no training split but {names}; name the one to train on.")
        splits = _from_tables(picked, image_column, label_column, _roots(source))
        splits.commit = commit
        return splits


def _builder(
    name: str, subset: str | None, revision: str | None, token: str | bool | None, max_bytes: int
) -> tuple[Any, str | None]:
    """What downloads a data set of the Hub, once it is known what that will be, and the commit of that.

    The last copy where there is no Hub; of a commit that is asked for, its own.
    """
    import datasets
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub import HfApi, errors

    from resnet_hub.hub import listing

    api = HfApi(token=token)
    try:
        info = ask(api.dataset_info, name, revision=revision, files_metadata=True)
        commit, sizes = listing(name, info)
        cards = [card for card in _CARDS if card in sizes]
        if any(sizes[card] > _MAX_CARD for card in cards):
            raise DataError(_long_card(name))
        fetch: Callable[..., str] = partial(api.hf_hub_download, name, repo_type="dataset", revision=commit)
        _check_cards(name, [Path(ask(fetch, card)) for card in cards])
    except (ResNetHubError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception:
        with contextlib.suppress(Exception):  # as `datasets` does, which would ask the Hub again before
            copy = Cache(repo_id=name, dataset_name=name.split("/")[1], config_name=subset, version="auto", hash="auto")
            if not _COMMIT.fullmatch(revision or "") or copy.hash == revision:
                return copy, copy.hash if _COMMIT.fullmatch(copy.hash or "") else None
        raise
    builder = datasets.load_dataset_builder(name, subset, revision=commit, token=token)
    files, inside = builder.config.data_files or {}, f"hf://datasets/{name}@{commit}/"
    size = 0
    for file in {str(file) for split in files.values() for file in split}:
        own = file.removeprefix(inside)
        if own not in sizes:
            raise DataError(_outside(name, file))
        size += sizes[own]
    if size > max_bytes:
        raise TooLargeError(name, size, max_bytes)
    return builder, info.sha


def _check_cards(name: str, paths: list[Path]) -> None:
    """Refuses what would have `datasets` read anything but the data set: any path here, and any address."""
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import DatasetCard

    for path in paths:
        if path.stat().st_size > _MAX_CARD:
            raise DataError(_long_card(name))
        if path.suffix == ".json":
            continue
        card = DatasetCard.load(path).data if path.suffix == ".md" else yaml.safe_load(path.read_text("utf-8"))
        configs = (card or {}).get("configs") or ()
        waiting = [
            [value for key, value in config.items() if key not in ("features", "description")]
            if isinstance(config, dict)
            else config
            for config in (configs if isinstance(configs, list) else [configs])
        ]
        seen = set()
        while waiting:  # no recursion: an alias of YAML may lead back to what it lies in
            value = waiting.pop()
            if isinstance(value, dict | list | tuple | set):
                if id(value) not in seen:
                    seen.add(id(value))
                    waiting += value.values() if isinstance(value, dict) else value
            elif isinstance(value, bytes) or (isinstance(value, str) and _OUTSIDE.search(value)):
                raise DataError(_outside(name, str(value)))


def _outside(name: str, file: str) -> str:
    return f"The data set {name!r} names files outside itself ({file[:100]!r}), which are never read; choose another."


def _long_card(name: str) -> str:
    return f"The data set {name!r} has a card of over {_MAX_CARD // 2**20} MB, which is not read; choose another."


def _from_tables(
    tables: dict[str, Any], image_column: str | None, label_column: str | None, roots: list[Path]
) -> Splits:
    import datasets

    features = tables[TRAIN].features
    image_column = _column(features, image_column, "image", ("image", "img", "picture", "photo"), datasets.Image)
    label_column = _column(
        features, label_column, "label", ("label", "labels", "class", "target", "fine_label"), datasets.ClassLabel
    )
    kind = features[label_column]
    if not isinstance(kind, datasets.ClassLabel | datasets.Value):  # to read a picture may be to fetch it
        raise DataError(_no_classes(label_column))
    values = {split: table.with_format(None)[label_column][:] for split, table in tables.items()}
    if isinstance(kind, datasets.ClassLabel):
        labels = tuple(kind.names)
        others = [split for split, table in tables.items() if table.features[label_column].names != kind.names]
        if others:
            raise DataError(f"The splits disagree: {others[0]} has other labels than {TRAIN} in {label_column!r}.")
        index: dict[Any, int] = {number: number for number in range(len(labels))}
    else:
        distinct = {value for column in values.values() for value in column if value is not None}
        if len(distinct) > MAX_LABELS or not all(isinstance(value, str | int) for value in distinct):
            raise DataError(_no_classes(label_column))
        labels = tuple(sorted({str(value) for value in distinct}, key=natural))
        place = {label: number for number, label in enumerate(labels)}
        index = {value: place[str(value)] for value in distinct}
    splits: dict[str, ImageSet] = {}
    skipped: dict[str, list[str]] = defaultdict(list)
    for split, table in tables.items():
        targets = np.array([index.get(value, -1) for value in values[split]], np.int64)
        column = table.select_columns(image_column).cast_column(image_column, datasets.Image(decode=False))
        images = ImageSet(labels, _Column(column, image_column, roots), targets, _Numbered(split, len(targets)))
        if (targets < 0).any():  # a test split that keeps its answers to itself
            skipped["picture without a label"] += [images.name(int(place)) for place in np.flatnonzero(targets < 0)]
            images = images.subset(np.flatnonzero(targets >= 0))
        if len(images):
            splits[split] = images
    return Splits(splits, skipped=skipped)


def _no_classes(column: str) -> str:
    return f"The column {column!r} holds no classes; name the one that does as label_column."


def _column(features: Mapping[str, Any], name: str | None, what: str, usual: tuple[str, ...], kind: type) -> str:
    """The named column, else the only one of the kind, else one with a usual name."""
    columns = ", ".join(features)
    if name is not None:
        if name not in features:
            raise DataError(f"The data set has no column {name!r}; it has {columns}.")
        return name
    typed = [column for column in features if isinstance(features[column], kind)]
    found = [column for column in usual if column in typed] or (typed if len(typed) == 1 else [])
    found = found or [column for column in usual if column in features]
    if not found:
        raise DataError(f"Which column holds the {what} is not plain to see in {columns}; name it as {what}_column.")
    return found[0]


class _Column(Sequence[Any]):
    """The image column of a `datasets` table: encoded bytes, or the path where the table has no bytes.

    A table can name any path of this machine: only what lies in `roots` is read.
    """

    def __init__(self, table: Any, column: str, roots: list[Path]):
        self.table, self.column, self.roots = table, column, roots

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        value = self.table[int(index)][self.column]
        if value is None:
            raise ImageError(f"Row {index} has no picture.")
        if value["bytes"] is not None:
            return value["bytes"]
        path = Path(value["path"] or "").resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise ImageError(f"Row {index} names a file outside the data set.")
        return path


class _Numbered(Sequence[Any]):
    """`train[0]`, `train[1]`, ...: as one would write it to look at the row."""

    def __init__(self, split: str, length: int):
        self.split, self.length = split, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> str:
        return f"{self.split}[{range(self.length)[int(index)]}]"


def _roots(source: str | Path) -> list[Path]:
    """Where the pictures of a data set may lie: its own folder, or its part of the Hub's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if isinstance(source, Path):
        return [source.resolve()]
    return [Path(HF_HUB_CACHE, "datasets--" + source.replace("/", "--")).resolve()]


@contextlib.contextmanager
def _calm(source: str) -> Iterator[None]:
    """No bars and remarks of `datasets`; whatever it raises becomes one sentence."""
    try:
        import datasets
        import huggingface_hub.utils as hub
    except ImportError:
        raise DataError("Parquet and the Hub are read with datasets: pip install 'resnet_hub[train]'.") from None
    bars, hub_bars = not datasets.are_progress_bars_disabled(), not hub.are_progress_bars_disabled()
    level, hub_level = datasets.logging.get_verbosity(), hub.logging.get_verbosity()
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    hub.logging.set_verbosity_error()
    try:
        yield
    except ResNetHubError:
        raise
    except Exception as error:
        raise DataError(_sentence(source, error)) from None
    finally:
        datasets.logging.set_verbosity(level)
        hub.logging.set_verbosity(hub_level)
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            hub.enable_progress_bars()


def _sentence(source: str, error: Exception) -> str:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            return f"The data set {source!r} is gated: ask for access on its page, then log in as who has it."
        case errors.RepositoryNotFoundError():
            return f"The data set {source!r} is not on the Hub, or private: check the name, or `hf auth login`."
        case errors.RevisionNotFoundError():
            return f"The data set {source!r} has no such branch, tag or commit; see its page for those it has."
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if isinstance(error, ValueError) and "Config name is missing" in reason:
        names = re.findall(r"'([^']+)'", str(error).split("`load_dataset")[0])
        return f"The data set {source!r} has subsets; name one of {', '.join(names)}."
    if isinstance(error, ValueError) and (
        found := re.match(r"BuilderConfig '(.*)' not found. Available: (.*)", reason)
    ):
        names = re.findall(r"'([^']+)'", found[2])
        return f"The data set {source!r} has no subset {found[1]!r}; it has {', '.join(names)}."
    if isinstance(error, ValueError) and (found := re.match(r'Unknown split "(.*)". Should be one of (.*)', reason)):
        names = re.findall(r"'([^']+)'", found[2])
        return f"The data set {source!r} has no split {found[1]!r}; it has {', '.join(names)}."
    if isinstance(error, ValueError) and (found := re.match(r"Unrecognized instruction format: (.*)", reason)):
        return f"The split {found[1]!r} is none that can be read; write its name, or a part of it such as train[:10%]."
    if "scripts are no longer supported" in reason:
        return f"The data set {source!r} needs its own code to be read, which is never run here; choose another."
    unreached = isinstance(error, errors.HTTPError) and not isinstance(error, errors.HfHubHTTPError)
    if unreached or isinstance(error, ConnectionError | TimeoutError):
        return f"The data set {source!r} could not be fetched; check the network, or give a folder or ZIP."
    return f"The data set {source!r} cannot be read: {one_line(reason)}."


# -- split and export --------------------------------------------------------------------------------------------------


def split_off(
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


def export(data: ImageSet | Mapping[str, ImageSet], target: str | Path) -> Path:
    """Writes a data set as a ZIP of class folders that `load` reads back: the same labels, the same bytes.

    Several splits get a folder each. Pictures are numbered within their class; the same pictures give the same file.
    Labels that are no folder names everywhere are percent-encoded. The file is there whole or not at all.
    """
    target = Path(target)
    splits = {TRAIN: data} if isinstance(data, ImageSet) else dict(data)
    partial: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            partial = file.name
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as out:  # pictures are packed already
                for name, content in _entries(splits):
                    out.writestr(zipfile.ZipInfo(name), content)
        Path(partial).chmod(0o644)
        Path(partial).replace(target)
    except OSError as error:
        reason = "the disk is full" if disk_is_full(error) else error.strerror or error
        raise DataError(f"{target} cannot be written: {reason}.") from None
    finally:
        if partial:
            Path(partial).unlink(missing_ok=True)
    return target


def _entries(splits: Mapping[str, ImageSet]) -> Iterator[tuple[str, bytes]]:
    for split, images in splits.items():
        above = f"{split}/" if len(splits) > 1 else ""
        counts = np.bincount(images.targets, minlength=len(images.labels))
        for target, label in enumerate(images.labels):
            if not label.strip("\0"):
                raise DataError("A class without a name cannot be exported; name it first.")
            digits = len(str(counts[target]))
            for number, place in enumerate(np.flatnonzero(images.targets == target), 1):
                content = images.read(int(place))
                yield f"{above}{_escape(label)}/{number:0{digits}}{_suffix(images.name(int(place)), content)}", content


_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"II": ".tif", b"MM": ".tif"}


def _suffix(name: str, content: bytes) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in SUFFIXES:
        return suffix
    if content[8:12] == b"WEBP":
        return ".webp"
    if content[4:8] == b"ftyp":
        return ".avif" if content[8:12] == b"avif" else ".heic"
    return next((suffix for magic, suffix in _MAGIC.items() if content.startswith(magic)), ".jpg")


_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|%]|^[. ]|[. ]$')


def _escape(label: str) -> str:
    """A label as the name of a folder on any system, in percent-encoding, that `load` takes for nothing else."""
    name = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", label)
    if _is_system(name) or name.lower() in SPLIT_NAMES:
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name if unicodedata.is_normalized("NFC", name) else quote(name, safe="% ")


def _unescape(name: str) -> str:
    """The label of a folder: what `_escape` made a name of, else the name itself; composed, as not every system is."""
    label = unquote(name)
    return label if _escape(label) == name else unicodedata.normalize("NFC", name)
