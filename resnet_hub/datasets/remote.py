"""Datasets of parquet files in a folder, or on the Hugging Face Hub."""

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_hub.datasets.dataset import SPLIT_NAMES, TRAIN, Splits
from resnet_hub.datasets.tables import load_tables
from resnet_hub.errors import DataError, ResNetHubError, TooLargeError, one_line
from resnet_hub.hub_client.retry import request_timeout, retry_call

if TYPE_CHECKING:
    pass


HUB_PREFIX = "hf://datasets/"  # before an id: the data set of that name on the Hub, never a folder that is called so
MAX_DOWNLOAD = 32 * 2**30  # bytes of the files of a data set on the Hub; ImageNet has 150 GB
_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")  # what `datasets` is configured by
_MAX_CARD = 2**20  # bytes
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OUTSIDE = re.compile(r"^[/\\~]|:|(^|[/\\])\.\.([/\\]|$)")  # a path here, an address, a drive, the folder above


def load_parquet_or_hub(
    source: str | Path,
    *,
    subset: str | None,
    split: str | None,
    image_column: str | None,
    label_column: str | None,
    **hub: Any,
) -> Splits:
    with _calm(str(source)), request_timeout() if not isinstance(source, Path) else contextlib.nullcontext():
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
        splits = load_tables(picked, image_column, label_column, _roots(source))
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

    from resnet_hub.hub_client.listing import read_listing

    api = HfApi(token=token)
    try:
        info = retry_call(api.dataset_info, name, revision=revision, files_metadata=True)
        commit, sizes = read_listing(name, info)
        cards = [card for card in _CARDS if card in sizes]
        if any(sizes[card] > _MAX_CARD for card in cards):
            raise DataError(_long_card(name))
        fetch: Callable[..., str] = partial(api.hf_hub_download, name, repo_type="dataset", revision=commit)
        _check_cards(name, [Path(retry_call(fetch, card)) for card in cards])
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
