"""Loads datasets of parquet files from a folder or the Hugging Face Hub, with the `datasets` library.

A dataset on the Hub is untrusted. Before `datasets` sees it, its card is checked: it must not refer to files outside
the dataset. Before the download, the sizes of its files are checked, and before a stream that of their row groups.
"""

import contextlib
import glob
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from resnet_hub.atomic import write_atomic
from resnet_hub.datasets.dataset import SPLIT_NAMES, SPLITS, TRAIN, Splits
from resnet_hub.datasets.parquet import limit_batches
from resnet_hub.datasets.remote_errors import wrap_errors
from resnet_hub.datasets.split_names import UNLABELED, find_split
from resnet_hub.datasets.storage import Storage, check_free_space, check_row_groups
from resnet_hub.datasets.tables import METADATA_NAMES, load_tables
from resnet_hub.errors import DataError, HubError, TooLargeError, format_bytes
from resnet_hub.hub_client.listing import read_listing
from resnet_hub.hub_client.retry import retry_call
from resnet_hub.hub_client.timeouts import request_timeout
from resnet_hub.images.load import SUFFIXES
from resnet_hub.threads import map_ahead

T = TypeVar("T")

HUB_PREFIX = "hf://datasets/"  # before an id: the dataset on the Hub, even if a folder has the same name
_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")  # the files that configure `datasets`
_MAX_CARD = 10**6  # bytes
_TABLES = {".parquet", ".arrow", ".csv", ".tsv", ".json", ".jsonl", ".zip", ".tar", ".gz", ".tgz"}
_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}")
_DOWNLOADS = 8  # images at a time
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OUTSIDE = re.compile(r"^[/\\~]|:|(^|[/\\])\.\.([/\\]|$)")  # an absolute path, a URL, a drive, the parent folder


def parse_repo_id(source: str) -> str:
    """Return the id of a dataset on the Hub. Raises `DataError` if `datasets` would take it for a folder or format."""
    name = source.removeprefix(HUB_PREFIX)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        problem = f"There is no folder or file {source!r}, and it is not the id of a dataset on the Hub (user/name)."
        raise DataError(f"{problem} Check the path or id.")
    if Path(name).exists():
        raise DataError(f"{name!r} is both a folder here and a dataset on the Hub. Start from another folder.")
    return name


def load_parquet_or_hub(
    source: str | Path,
    *,
    subset: str | None,
    split: str | None,
    image_column: str | None,
    label_column: str | None,
    tables: Sequence[Path] = (),
    load_images: Callable[[Path], Splits] | None = None,
    **hub: Any,
) -> Splits:
    """Load a folder of parquet files (a `Path`), or a dataset on the Hub by its id.

    The arguments are those of `load_dataset`; `hub` are `revision`, `token` and `max_bytes`. `tables` are the parquet
    files of the folder, which are read unless its card names others. `load_images` reads the copy of a dataset on the
    Hub that is a folder of images.
    """
    with wrap_errors(str(source), hub.get("revision")), request_timeout():
        import datasets

        builder, commit = open_builder(source, subset, tables, takes_images=not split, **hub)
        if isinstance(builder, Path):
            assert load_images is not None
            splits = load_images(builder)
            splits.commit = commit
            return splits
        root = source if isinstance(source, Path) else _find_repo_cache(source)
        limit_batches(builder)
        if isinstance(source, Path):  # of a dataset on the Hub it is checked before the download
            check_free_space(source.name, {Path(builder.cache_dir): _measure_copy(builder, _measure_files(builder))})
        builder.download_and_prepare()
        loaded = builder.as_dataset(split=split)
        by_name = loaded if isinstance(loaded, datasets.DatasetDict) else {TRAIN: loaded}
        splits = load_tables(name_splits(by_name, str(source)), image_column, label_column, root.resolve())
        splits.commit = commit
        return splits


def open_builder(
    source: str | Path, subset: str | None, tables: Sequence[Path] = (), *, takes_images: bool, **hub: Any
) -> tuple[Any, str | None]:
    """Check a dataset and get the builder of `datasets` that reads it; the arguments are those of the callers.

    Returns:
        The builder, or the folder of a dataset that is a folder of images; and the commit that is read, if known.
    """
    import datasets

    if not isinstance(source, Path):
        return _get_hub_builder(source, subset, takes_images=takes_images, **hub)
    has_configs = _check_cards(str(source), [source / name for name in _CARDS if (source / name).is_file()])
    if tables and not subset and not has_configs:
        groups = group_by_split(source, tables)
        files = {split: [glob.escape(str(path)) for path in paths] for split, paths in groups.items()}
        builder = datasets.load_dataset_builder("parquet", data_files=files)
    else:
        builder = datasets.load_dataset_builder(str(source), subset)
    return builder, None


def _measure_files(builder: Any) -> dict[str, int]:
    """Return the sizes of the local files that a builder reads."""
    files = {str(file) for group in (builder.config.data_files or {}).values() for file in group}
    return {file: Path(file).stat().st_size for file in files}


def _measure_copy(builder: Any, sizes: Mapping[str, int]) -> int:
    """Return the bytes that a builder writes: images are no smaller in its copy, which may be there already."""
    return 0 if Path(builder.cache_dir).is_dir() else sum(sizes.values())


def measure_tables(
    source: str | Path,
    *,
    subset: str | None,
    split: str | None,
    tables: Sequence[Path] = (),
    revision: str | None = None,
    token: str | bool | None = None,
) -> Storage | None:
    """Return what `load_parquet_or_hub` would write to the disk; None for a dataset that is a folder of images."""
    with wrap_errors(str(source), revision), request_timeout():
        if isinstance(source, Path):
            builder, _ = open_builder(source, subset, tables, takes_images=not split)
            sizes, download = _measure_files(builder), 0
        else:
            files = _list_hub_files(source, subset, takes_images=not split, revision=revision, token=token)
            if not files.builder:
                return None
            builder, sizes, download = files.builder, files.by_url(), files.count_missing()
        by_name = {
            name: sum(sizes[str(file)] for file in group)
            for name, group in (builder.config.data_files or {}).items()
            if split in (None, str(name))
        }
        return Storage(download, _measure_copy(builder, sizes), name_splits(by_name or {TRAIN: 0}, str(source)))


def name_splits(by_name: Mapping[Any, T], source: str) -> dict[str, T]:
    """Return the tables of a dataset by the splits that their names mean. Raises `DataError` without one to train on.

    A table that is alone is for training.
    """
    if len(by_name) == 1:
        return {TRAIN: next(iter(by_name.values()))}
    by_split: dict[str, T] = {}
    for name in sorted(map(str, by_name), key=lambda name: name.lower() not in SPLIT_NAMES):  # exact names first
        by_split.setdefault(find_split(name) or UNLABELED, by_name[name])
    if TRAIN not in by_split:
        names = ", ".join(map(str, by_name))
        raise DataError(f"The dataset {source!r} has no split train. Set split to one of {names}.")
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _get_hub_builder(
    name: str,
    subset: str | None,
    *,
    takes_images: bool,
    revision: str | None,
    token: str | bool | None = None,
    max_bytes: int | None = None,
    streams: bool = False,
) -> tuple[Any, str | None]:
    """Check a dataset on the Hub, and get the builder that reads it. Its files are downloaded, unless it `streams`.

    The layout of a folder of images is not for `datasets` to decide: with `takes_images`, and without subsets, it is
    downloaded here, and its folder is returned in place of a builder.

    If the Hub cannot be reached, the builder reads the cached copy. A commit as `revision` is only read from a copy
    of that commit.

    Returns:
        The builder, and the commit that it reads, if known.
    """
    from huggingface_hub import errors

    try:
        files = _list_hub_files(name, subset, takes_images=takes_images, revision=revision, token=token)
        if streams:
            largest = max(files.by_url().items(), key=lambda item: item[1], default=("", 0))  # stands for the others
            check_row_groups(name, dict([largest]), token=token)
            return files.builder or files.cache, files.commit
        size = sum(files.sizes.values())
        if max_bytes is not None and size > max_bytes:
            raise TooLargeError(name, size, max_bytes)
        if not files.cache.is_dir():
            copy = {files.cache: size} if files.builder else {}
            check_free_space(name, {_find_repo_cache(name): files.count_missing()} | copy)
        if files.builder:  # `datasets` would download them without these timeouts, and then finds them in the cache
            for path in files.sizes:
                retry_call(files.download, path)
        else:  # many small files
            one = partial(retry_call, files.download)
            with contextlib.closing(map_ahead(one, files.sizes, threads=_DOWNLOADS, ahead=4 * _DOWNLOADS)) as downloads:
                deque(downloads, maxlen=0)
            _mark_complete(files.cache, revision)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except (errors.HTTPError, OSError, RuntimeError, HubError):
        if streams:
            raise
        if takes_images and not subset and (folder := _find_cached_folder(name, revision)):
            return folder
        if cached := _find_cached_copy(name, subset, revision):
            return cached
        raise
    return files.builder or files.cache, files.commit


class _HubFiles(NamedTuple):
    """The files of a dataset on the Hub that are read."""

    name: str
    commit: str
    sizes: dict[str, int]  # path -> bytes
    builder: Any  # None for a folder of images
    cache: Path  # the folder of the copy that is read
    download: Callable[..., str]  # maps a path to that of the downloaded file

    def by_url(self) -> dict[str, int]:
        return {f"hf://datasets/{self.name}@{self.commit}/{path}": size for path, size in self.sizes.items()}

    def count_missing(self) -> int:
        """Count the bytes that are not downloaded yet."""
        from huggingface_hub import try_to_load_from_cache

        find = partial(try_to_load_from_cache, self.name, repo_type="dataset", revision=self.commit)
        return sum(size for path, size in self.sizes.items() if not isinstance(find(path), str))


def _list_hub_files(
    name: str, subset: str | None, *, takes_images: bool, revision: str | None, token: str | bool | None
) -> _HubFiles:
    """Check the cards of a dataset on the Hub, and list the files that are read; the arguments are those above."""
    import datasets
    from datasets.packaged_modules.cache.cache import Cache
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    info = retry_call(api.dataset_info, name, revision=revision, files_metadata=True)
    commit, sizes = read_listing(name, info)
    cards = [card for card in _CARDS if card in sizes]
    if any(sizes[card] > _MAX_CARD for card in cards):
        raise DataError(_explain_long_card(name))
    download: Callable[..., str] = partial(api.hf_hub_download, name, repo_type="dataset", revision=commit)
    has_configs = _check_cards(name, [Path(retry_call(download, card)) for card in cards])
    builder: Any = None
    if takes_images and not subset and not has_configs and (paths := _list_images(sizes)):
        cache = _find_repo_cache(name) / "snapshots" / commit
    else:
        builder = datasets.load_dataset_builder(name, subset, revision=commit, token=token)
        if isinstance(builder, Cache):  # after a failed request `datasets` takes a copy of any commit
            raise HubError(f"The dataset {name!r} cannot be fetched: the Hub does not respond. Try again later.")
        paths, cache = _list_data_files(builder, name, commit, sizes), Path(builder.cache_dir)
    return _HubFiles(name, commit, {path: sizes[path] for path in paths}, builder, cache, download)


def _list_images(sizes: dict[str, int]) -> list[str]:
    """The images and metadata files of a dataset that is a folder of images; none of one with tables or archives."""
    names = {name: PurePosixPath(name) for name in sizes if ".." not in name.split("/") and name not in _CARDS}
    metadata = [name for name, path in names.items() if path.name.lower() in METADATA_NAMES]
    images = [name for name, path in names.items() if path.suffix.lower() in SUFFIXES]
    tables = [name for name in names.keys() - metadata if names[name].suffix.lower() in _TABLES]
    return sorted(images + metadata) if images and not tables else []


def _find_repo_cache(name: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE, "datasets--" + name.replace("/", "--"))


def _mark_complete(folder: Path, revision: str | None) -> None:
    """Note that a folder of the cache holds all images of its commit, which `revision` names now."""
    for name in {folder.name, revision or "main"}:
        mark = folder.parents[1] / ".complete" / name
        mark.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(mark, folder.name)


def _find_cached_folder(name: str, revision: str | None) -> tuple[Path, str] | None:
    """The folder that `_mark_complete` noted for a revision, and its commit."""
    cache = _find_repo_cache(name)
    with contextlib.suppress(OSError, ValueError):
        commit = (cache / ".complete" / (revision or "main")).read_text()
        if _COMMIT.fullmatch(commit) and (cache / "snapshots" / commit).is_dir():
            return cache / "snapshots" / commit, commit
    return None


def _list_data_files(builder: Any, name: str, commit: str, sizes: dict[str, int]) -> list[str]:
    """The paths of the files that a builder downloads; raises `DataError` if one of them lies elsewhere."""
    prefix = f"hf://datasets/{name}@{commit}/"
    files = {str(file) for files in (builder.config.data_files or {}).values() for file in files}
    for file in files:
        if file.removeprefix(prefix) not in sizes:
            raise DataError(_explain_outside(name, file))
    return sorted(file.removeprefix(prefix) for file in files)


def _find_cached_copy(name: str, subset: str | None, revision: str | None) -> tuple[Any, str | None] | None:
    """A builder that reads the cached copy, and its commit, if known; None if there is none of that revision."""
    from datasets.packaged_modules.cache.cache import Cache

    with contextlib.suppress(Exception):  # `datasets` has this fallback too, but it would call the Hub again first
        copy = Cache(repo_id=name, dataset_name=name.split("/")[1], config_name=subset, version="auto", hash="auto")
        if not _COMMIT.fullmatch(revision or "") or copy.hash == revision:
            return copy, copy.hash if _COMMIT.fullmatch(copy.hash or "") else None
    return None


def group_by_split(root: Path, tables: Sequence[Path]) -> dict[str, list[Path]]:
    """Group files by the split that the name of the file, or else of a folder, means."""
    groups: dict[str, list[Path]] = {}
    for path in tables:
        parts = [path.stem, *reversed(path.relative_to(root).parts[:-1])]
        other = _SHARD.match(path.stem)
        split = next(filter(None, map(find_split, parts)), other[1] if other else TRAIN)
        groups.setdefault(split, []).append(path)
    return groups


def _check_cards(name: str, paths: list[Path]) -> bool:
    """Raise `DataError` for a card by which `datasets` would read local paths or URLs outside the dataset.

    Returns:
        Whether a card names the files of subsets.
    """
    import yaml  # type: ignore[import-untyped]
    from huggingface_hub import DatasetCard

    has_configs = False
    for path in paths:
        if path.stat().st_size > _MAX_CARD:
            raise DataError(_explain_long_card(name))
        if path.suffix == ".json":
            continue
        card = DatasetCard.load(path).data if path.suffix == ".md" else yaml.safe_load(path.read_text("utf-8"))
        configs = (card or {}).get("configs") or ()
        has_configs = has_configs or bool(configs)
        pending = [
            [value for key, value in config.items() if key not in ("features", "description")]
            if isinstance(config, dict)
            else config
            for config in (configs if isinstance(configs, list) else [configs])
        ]
        visited = set()
        while pending:  # no recursion: a YAML alias can contain itself
            value = pending.pop()
            if isinstance(value, dict | list | tuple | set):
                if id(value) not in visited:
                    visited.add(id(value))
                    pending += value.values() if isinstance(value, dict) else value
            elif isinstance(value, bytes) or (isinstance(value, str) and _OUTSIDE.search(value)):
                raise DataError(_explain_outside(name, str(value)))
    return has_configs


def _explain_outside(name: str, file: str) -> str:
    return f"The dataset {name!r} refers to files outside itself ({file[:100]!r}). They are never read; use another."


def _explain_long_card(name: str) -> str:
    return (
        f"The dataset {name!r} has a card of over {format_bytes(_MAX_CARD)}, which is too large. Use another dataset."
    )
