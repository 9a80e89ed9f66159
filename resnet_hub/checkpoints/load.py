"""Read checkpoints from folders and, through the cache, from Hub repos. Pickles are never opened."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.save import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
    check_head,
    storage_dtype,
)
from resnet_hub.config import ResNetConfig
from resnet_hub.convert.config_json import parse_config
from resnet_hub.convert.state_dict import describe_mismatch, fill_counters
from resnet_hub.convert.weights_file import rename_key
from resnet_hub.errors import (
    CheckpointError,
    ConfigError,
    HubError,
    first_line,
    format_bytes,
    list_untrusted,
    memory_errors,
    one_line,
)
from resnet_hub.hub_client.errors import RETRIED_STATUSES, error_message, hub_errors
from resnet_hub.hub_client.listing import digest_file, fetch_digests, read_listing
from resnet_hub.hub_client.retry import call_once, retry_call
from resnet_hub.included_models import find_local_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from torch import Tensor

_MAX_TEXT_BYTES = 16 * 10**6  # of each file except weights; larger ones are not fetched
_BYTES_PER_PARAMETER = 9  # 8 of float64, and room for BatchNorm's statistics
_MAX_NAME_LENGTH = 200  # characters of a file's path in a checkpoint; longer ones are ignored
_MAX_CALIBRATION_BYTES = 2**20  # 1,202 layers need 250,000
_MAX_INDEX_BYTES, _MAX_SHARDS = 16 * 10**6, 1000
_MAX_HEADER_BYTES = 4 * 10**6  # of a weights file; 1,202 layers need 0.8 million, and 13 million take 9 s
_POINTER, _MAX_POINTER_BYTES = b"version https://git-lfs", 1024  # of Git LFS
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")


class TensorHeader(NamedTuple):
    """The entry of a tensor in the header of a safetensors file."""

    dtype: str  # as safetensors names it, such as "F32"
    shape: Sequence[int]


@dataclass(kw_only=True)
class _Files:
    source: str | Path  # as the caller named it; a repo id for a repo
    names: list[str]  # paths inside the checkpoint
    hub_error: HubError | None = None  # why a cached copy is used, which may lack files

    def require(self, name: str) -> None:
        """Raise an error that says what to do if there is no such file."""
        if name not in self.names:
            raise self.hub_error or _missing_file_error(name, self.names, self.source)


@dataclass(kw_only=True)
class LocalFiles(_Files):
    """The files of a folder on this disk, which may be the cached copy of a Hub repo."""

    folder: Path

    def fetch(self, *names: str) -> Path:
        """Return the folder, which may lack some of the files."""
        return self.folder

    def check_size(self, weights: list[str], config: ResNetConfig) -> None:
        """Accept any size: nothing is downloaded."""

    def read_header(self, name: str) -> dict[str, TensorHeader]:
        """Read the header of a weights file: the dtype and shape of each tensor."""
        from safetensors import SafetensorError, safe_open

        try:
            _check_header_size(self.folder / name, self.source)
            with safe_open(self.folder / name, "np") as file:
                tensors = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
                return {key: TensorHeader(tensor.get_dtype(), tensor.get_shape()) for key, tensor in tensors.items()}
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged_error(name, self.source, error, self.folder / name) from None


@dataclass(kw_only=True)
class HubFiles(_Files):
    """The files of one commit of a Hub repo, fetched into the cache on request."""

    source: str
    api: "HfApi"
    revision: str | None  # branch, tag or commit as the caller named it
    commit: str
    subfolder: str
    sizes: dict[str, int]  # name -> bytes
    cache_dir: str | Path | None

    def fetch(self, *names: str) -> Path:
        """Fetch those of the files that exist, and return their folder in the cache."""
        for name in names:
            size = self.sizes.get(name, 0)
            if size > _MAX_TEXT_BYTES and not name.endswith(".safetensors"):
                limit = format_bytes(_MAX_TEXT_BYTES)
                raise CheckpointError(f"{name} of {self.source} has {format_bytes(size)}; at most {limit} are read.")
        paths = [self._path(name) for name in names if name in self.sizes]
        with hub_errors(self.source, revision=self.revision):
            folder = fetch_files(self.api, self.source, paths, self.commit, self.cache_dir)
            _update_ref(folder, self.revision or "main", set(self.names), self.subfolder)
        return folder / self.subfolder

    def check_size(self, weights: list[str], config: ResNetConfig) -> None:
        """Raise `CheckpointError` if the files are larger than the weights of such a network can be."""
        size, limit = sum(self.sizes.get(name, 0) for name in weights), config.num_parameters * _BYTES_PER_PARAMETER
        if size > limit + _MAX_TEXT_BYTES:
            raise CheckpointError(
                f"The weights of {self.source} have {format_bytes(size)}, but those of the network in its "
                f"{CONFIG_FILE} have at most {format_bytes(limit)}. They are not fetched."
            )

    def read_header(self, name: str) -> dict[str, TensorHeader]:
        """Read the header of a weights file by a range request: the dtype and shape of each tensor."""
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

        with hub_errors(self.source, revision=self.revision):
            try:
                parse_header = self.api.parse_safetensors_file_metadata
                metadata = retry_call(parse_header, self.source, self._path(name), revision=self.commit)
            except (SafetensorsParsingError, NotASafetensorsRepoError) as error:
                raise damaged_error(name, self.source, error) from None
        return {key: TensorHeader(str(tensor.dtype), tensor.shape) for key, tensor in metadata.tensors.items()}

    def _path(self, name: str) -> str:
        return f"{self.subfolder}/{name}".lstrip("/")


def open_source(
    source: str | Path,
    *,
    subfolder: str = "",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> LocalFiles | HubFiles:
    """List the files of a checkpoint, without fetching any.

    Args:
        source: A folder, the name `user/name` of a Hub repo, or the name of an included model.
        subfolder: Path of the checkpoint inside the source.
        revision: Branch, tag or commit of a repo.
        token: A token of the Hub; False for none, None for the one that is logged in.
        cache_dir: The cache to fetch into, instead of the default one.
        local_files_only: Use the cached copy of a repo, without any request.

    Returns:
        `LocalFiles` for a folder, and for a repo whose cached copy is used since the Hub cannot be reached; else
        `HubFiles`.

    Raises:
        CheckpointError: There is no such folder.
        HubError: The Hub refuses, or it cannot be reached and the repo is not in the cache.
    """
    if ".." in subfolder.split("/") or "\\" in subfolder:
        raise CheckpointError(f"{subfolder!r} is not a folder inside {source}.")
    subfolder = subfolder.strip("/")
    if folder := find_local_model(source):
        return _open_folder(source, folder, subfolder)
    if isinstance(source, Path) or source.startswith(("/", ".", "~")) or "\\" in source or source.count("/") != 1:
        raise CheckpointError(f"There is no folder {one_line(source)}. A model on the Hub is named user/name.")
    with hub_errors(source, revision=revision, token=token):
        from huggingface_hub import HfApi

        return _open_repo(HfApi(token=token), source, subfolder, revision, cache_dir, not local_files_only)


def _open_folder(source: str | Path, folder: Path, subfolder: str, hub_error: HubError | None = None) -> LocalFiles:
    if not folder.is_dir():
        raise CheckpointError(f"{source} is a file. Name the folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}.")
    if not (folder := folder / subfolder).is_dir():
        raise CheckpointError(f"{source} has no folder {subfolder}.")
    try:
        names = [path.relative_to(folder).as_posix() for path in folder.glob(f"*/{CONFIG_FILE}")]
        names += [path.name for path in folder.iterdir() if path.is_file()]
    except OSError as error:
        raise CheckpointError(f"Cannot read {source}: {error.strerror}.") from None
    return LocalFiles(source=source, names=sorted(filter(_is_valid_name, names)), folder=folder, hub_error=hub_error)


def _open_repo(
    api: "HfApi", repo_id: str, subfolder: str, revision: str | None, cache_dir: str | Path | None, online: bool
) -> LocalFiles | HubFiles:
    from huggingface_hub import constants, errors, snapshot_download

    cached: Path | None = None
    failure: Exception = errors.LocalEntryNotFoundError(repo_id)
    with suppress(errors.LocalEntryNotFoundError):
        find_cached = partial(snapshot_download, allow_patterns=[], local_files_only=True)
        cached = Path(find_cached(repo_id, revision=revision, cache_dir=cache_dir))
    if online and not constants.is_offline_mode():
        call = call_once if cached else retry_call  # with a cached copy there is no need to wait
        model_info = partial(api.model_info, files_metadata=True)
        try:
            listing = read_listing(repo_id, call(model_info, repo_id, revision=revision))
        except (errors.HTTPError, HubError) as error:
            refused = isinstance(error, errors.HfHubHTTPError) and error.response.status_code not in RETRIED_STATUSES
            if cached is None or refused:
                raise
            failure = error
        else:
            prefix = f"{subfolder}/" if subfolder else ""
            sizes = {name.removeprefix(prefix): n for name, n in listing.sizes.items() if name.startswith(prefix)}
            sizes = {name: size for name, size in sizes.items() if _is_valid_name(name)}
            hub: dict[str, Any] = {"api": api, "revision": revision, "commit": listing.commit, "cache_dir": cache_dir}
            return HubFiles(source=repo_id, names=list(sizes), sizes=sizes, subfolder=subfolder, **hub)
    if cached is None:
        raise failure
    if not isinstance(failure, HubError):
        failure = HubError(error_message(failure, repo_id, None, writing=False))
    return _open_folder(repo_id, cached, subfolder, failure)


def fetch_files(api: "HfApi", repo_id: str, names: list[str], commit: str, cache_dir: str | Path | None = None) -> Path:
    """Fetch files of a commit into the cache and check their digests; huggingface_hub checks only their sizes.

    A marker file beside the cache stays until the file is checked, even if this process is killed. A damaged file is
    deleted and fetched once more.

    Returns:
        The folder of the commit in the cache.

    Raises:
        HubError: A file arrived damaged twice.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
    repo = cache / repo_folder_name(repo_id=repo_id, repo_type="model")
    folder = repo / "snapshots" / commit
    for name in names:
        file, mark = folder / name, repo / ".unchecked" / commit / name
        if not file.is_file():
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        for _ in range(2 if mark.exists() else 0):
            retry_call(api.hf_hub_download, repo_id, name, revision=commit, cache_dir=cache_dir)
            if _has_right_digest(api, repo_id, folder, name):
                mark.unlink(missing_ok=True)
                break
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)  # the link to the deleted file
        if mark.exists():
            raise HubError(
                f"{name} of {repo_id} arrived damaged from {constants.ENDPOINT} twice: its digest differs from the one "
                "that the Hub lists. Check the connection and its proxy, or try again later."
            )
    return folder


def _has_right_digest(api: "HfApi", repo_id: str, folder: Path, name: str) -> bool:
    """Whether a file in the folder of a commit has the digest that the Hub lists."""
    if (folder / name).is_symlink():
        digest: str | None = (folder / name).readlink().name
    else:  # on a disk without links
        digest = retry_call(fetch_digests, api, repo_id, [name], folder.name).get(name)
    return digest is None or len(digest) not in (40, 64) or digest == digest_file(folder / name, len(digest))


def _update_ref(folder: Path, revision: str, names: set[str], subfolder: str) -> None:
    """Point the cache's ref of a branch to the new commit, for later use offline.

    The ref stays until each file that was fetched from the previous commit, and still exists, is fetched from the new.
    """
    ref = folder.parents[1] / "refs" / revision
    if revision == folder.name:
        return
    with suppress(OSError, ValueError):
        previous = folder.parent / ref.read_text() / subfolder if ref.is_file() else folder
        previous_names = {path.relative_to(previous).as_posix() for path in previous.rglob("*") if path.is_file()}
        if all((folder / subfolder / name).is_file() for name in previous_names & names):
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(ref, folder.name)


def _is_valid_name(name: str) -> bool:
    """Whether a file name can belong to a checkpoint and be printed in a message."""
    return name.isprintable() and len(name) <= _MAX_NAME_LENGTH and ".." not in name.split("/")


def _missing_file_error(name: str, names: list[str], source: str | Path) -> CheckpointError:
    """The error for a checkpoint without the file `name` that has the files `names`."""
    subfolders = [other.rpartition("/")[0] for other in names if other.endswith(f"/{CONFIG_FILE}")]
    if name == CONFIG_FILE and subfolders:
        nested = "model" if "model" in subfolders else subfolders[0]  # a run directory has its base model, too
        is_local = (Path(source).expanduser() / nested / name).is_file()
        choice = (
            f"Name that folder: {Path(source, nested)}" if is_local else f'Choose one, such as subfolder="{nested}"'
        )
        return CheckpointError(f"{source} has no {name}, but its subfolder {nested} has one. {choice}.")
    if pickle := next((other for other in names if other.endswith(_PICKLES)), None):
        return CheckpointError(
            f"{source} has no {name} but {pickle}, a pickle, which is never opened because it can run code. "
            f"If you trust it, convert it with `resnet-hub convert {pickle} FOLDER`."
        )
    present = list_untrusted(names) or "no files"
    return CheckpointError(f"{source} has no {name}, so it is not a checkpoint. It has {present}.")


def damaged_error(name: str, source: str | Path, error: Exception, file: Path | None = None) -> CheckpointError:
    """The error for a file that cannot be parsed; `file` is where it lies, if it is on this disk."""
    with suppress(OSError):
        if file and file.stat().st_size < _MAX_POINTER_BYTES and file.read_bytes().startswith(_POINTER):
            pointer = f"{name} of {source} is a Git LFS pointer and not the weights themselves"
            return CheckpointError(f"{pointer}. Fetch them with `git lfs pull`.")
    return CheckpointError(f"{name} of {source} is damaged ({first_line(error)}). Fetch or save it again.")


class Checkpoint(NamedTuple):
    """The content of a checkpoint folder."""

    config: ResNetConfig
    weights: "dict[str, Tensor]"  # torchvision's keys, on the CPU, in the dtype of the file
    card: str | None
    calibration: bytes | None = None  # the content of `onnx/int8.json`

    @property
    def dtype(self) -> str:
        """The dtype that the weights are stored as: the narrowest if they are mixed."""
        return storage_dtype(self.weights)


def load_checkpoint(source: str | Path, *, weights: str | None = None, **hub: Any) -> Checkpoint:
    """Load the checkpoint of a folder or of the Hub repo `user/name`, whose files are all of one commit.

    The config is read first, so that an unsupported model costs no download. Without a connection the cached copy is
    used.

    Args:
        source: The folder or repo.
        weights: Name of the weights file, if there are several.
        hub: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`: see `open_source`.

    Raises:
        CheckpointError: A file is missing or damaged, or config and weights disagree.
        ConfigError: The config is invalid, or describes a network that is not supported.
        HubError: The Hub refuses or cannot be reached, or a file arrives damaged.
    """
    folder, config, names = fetch_checkpoint(source, weights=weights, **hub)
    tensors = _read_weights(folder, names, source)
    check_head(config, {key: tensor.shape for key, tensor in tensors.items()}, source)
    return Checkpoint(config, tensors, _read_card(folder), _read_calibration(folder))


def fetch_checkpoint(
    source: str | Path, *, weights: str | None = None, **hub: Any
) -> tuple[Path, ResNetConfig, list[str]]:
    """Bring the files of a checkpoint onto this disk, without reading its weights, which needs no torch.

    Returns:
        The folder with the files, the config, and the names of the weights files; arguments and errors as in
        `load_checkpoint`.
    """
    files = open_source(source, **hub)
    config = _read_config(files)
    names = find_weights_files(files, weights)
    files.check_size(names, config)
    return files.fetch(*names, CARD_FILE, CALIBRATION_FILE), config, names


def read_config(source: str | Path, **hub: Any) -> ResNetConfig:
    """Load the config alone, a few kilobytes; arguments and errors as in `load_checkpoint`."""
    return _read_config(open_source(source, **hub))


def read_card(source: str | Path, **hub: Any) -> str | None:
    """Load the model card alone, None where there is none; arguments and errors as in `load_checkpoint`."""
    return _read_card(open_source(source, **hub).fetch(CARD_FILE))


def count_parameters_by_dtype(source: str | Path, *, weights: str | None = None, **hub: Any) -> dict[str, int]:
    """Count the values of the weights by their safetensors dtype ("F32", "F16", ...), from the headers of the files.

    Needs no torch, and no download of the weights; arguments and errors as in `load_checkpoint`.
    """
    files = open_source(source, **hub)
    counts: Counter[str] = Counter()
    for name in find_weights_files(files, weights):
        for tensor in files.read_header(name).values():
            counts[tensor.dtype] += prod(tensor.shape)
    return dict(counts)


def find_weights_files(files: LocalFiles | HubFiles, requested: str | None = None) -> list[str]:
    """The weights file, or its shards; raises `CheckpointError` if there is none, or more than one to choose from."""
    names = files.names
    if requested is not None:
        if requested not in names or not requested.endswith(".safetensors"):
            present = list_untrusted(names) or "no files"
            raise CheckpointError(f"{files.source} has no weights {requested}. It has {present}.")
        return [requested]
    if WEIGHTS_FILE in names:
        return [WEIGHTS_FILE]
    if INDEX_FILE in names:
        return read_shard_names(files.fetch(INDEX_FILE) / INDEX_FILE, names, files.source)
    candidates = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if len(candidates) > 1:
        raise CheckpointError(
            f'{files.source} has several weights files. Choose one, such as weights="{candidates[0]}".'
        )
    if not candidates:
        files.require(WEIGHTS_FILE)
    return candidates


def read_shard_names(index: Path, names: list[str], source: str | Path) -> list[str]:
    """The weights files that an index lists; only files beside it are accepted."""
    try:
        with index.open("rb") as file:
            weight_map = json.loads(file.read(_MAX_INDEX_BYTES))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{INDEX_FILE} of {source} is damaged. Fetch or save it again.") from None
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise CheckpointError(
                f"{INDEX_FILE} of {source} names {shard!r:.80}, which is not a weights file beside it."
            )
        if shard not in names:
            raise CheckpointError(f"{source} has no {shard}, which its {INDEX_FILE} names. Fetch or save it again.")
    if not 0 < len(shards) <= _MAX_SHARDS:
        raise CheckpointError(f"{INDEX_FILE} of {source} names {len(shards)} files; expected 1 to {_MAX_SHARDS}.")
    return shards


def _read_config(files: LocalFiles | HubFiles) -> ResNetConfig:
    files.require(CONFIG_FILE)
    folder = files.fetch(CONFIG_FILE, PROCESSOR_FILE)
    processor = folder / PROCESSOR_FILE
    try:
        content = processor.read_bytes() if processor.is_file() else None
        return parse_config((folder / CONFIG_FILE).read_bytes(), content)
    except ConfigError as error:
        raise ConfigError(f"{files.source}: {error}") from None


def _read_card(folder: Path) -> str | None:
    card = folder / CARD_FILE
    return card.read_bytes().decode(errors="replace").removeprefix("\ufeff") if card.is_file() else None


def _read_calibration(folder: Path) -> bytes | None:
    file = folder / CALIBRATION_FILE
    return file.read_bytes() if file.is_file() and file.stat().st_size <= _MAX_CALIBRATION_BYTES else None


def _read_weights(folder: Path, names: list[str], source: str | Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            _check_header_size(folder / name, source)
            with memory_errors(f"{name} of {source}"):
                shard = load_file(folder / name)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise damaged_error(name, source, error, folder / name) from None
        for key, tensor in shard.items():
            if (our_key := rename_key(key)) in weights:
                duplicate = one_line(our_key, 80)
                raise CheckpointError(f"The weights of {source} have {duplicate} twice, the second time in {name}.")
            weights[our_key] = tensor
    return weights


def _check_header_size(file: Path, source: str | Path) -> None:
    """Refuse a header that lists more tensors than a network has; a length beyond the file's end is for safetensors."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
    if _MAX_HEADER_BYTES < length < file.stat().st_size:
        raise CheckpointError(
            f"The header of {file.name} of {source} has {format_bytes(length)}; at most "
            f"{format_bytes(_MAX_HEADER_BYTES)} are read. Save the weights of one network alone."
        )


def check_weights(expected: "Mapping[str, Tensor]", weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Check that a state dict fits a network.

    Args:
        expected: The state dict of the network.
        weights: The state dict to load.

    Returns:
        The weights in the order of `expected`, with zeros for the `num_batches_tracked` that old files lack.

    Raises:
        CheckpointError: A key is missing or unexpected, or has another shape or type; the message lists them.
    """
    shapes = {key: tensor.shape for key, tensor in expected.items()}
    if mismatch := describe_mismatch(shapes, weights):
        raise CheckpointError(f"The weights do not fit the network in {CONFIG_FILE}: {mismatch}.")
    return fill_counters(shapes, weights)
