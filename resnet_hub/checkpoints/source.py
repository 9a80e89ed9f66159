"""Where the files of a checkpoint come from: a folder, or one commit of a Hub repo by way of the cache."""

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.folder import CONFIG_FILE, WEIGHTS_FILE, list_some
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import (
    CheckpointError,
    HubError,
    ResNetHubError,
)
from resnet_hub.hub_client.errors import error_message, hub_errors
from resnet_hub.hub_client.listing import digest_file, fetch_digests, read_listing
from resnet_hub.hub_client.retry import RETRIED_STATUSES, call_once, retry_call

if TYPE_CHECKING:
    pass

_MAX_TEXT = 16 * 2**20  # bytes of any file but weights: a larger one is not fetched
_BYTES_PER_PARAMETER = 9  # of float64, and a little for BatchNorm's statistics
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_MAX_NAME = 200  # characters of a file's path in a checkpoint: others are not seen
REQUEST_TIMEOUT = 10  # seconds until a Hub that does not answer counts as unreachable, and the cache is used


def is_valid_name(name: str) -> bool:
    """Whether a file of that name is one of ours, and its name may stand in a sentence."""
    return name.isprintable() and len(name) <= _MAX_NAME and ".." not in name.split("/")


class CheckpointSource:
    """The files of a folder, or of one commit of a Hub repo, which are fetched as they are asked for."""

    def __init__(
        self,
        source: str | Path,
        *,
        subfolder: str = "",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ):
        self.source = source
        self.names: list[str] = []  # of the files
        self._sizes: dict[str, int] = {}  # of those on the Hub, in bytes
        self._subfolder = subfolder.strip("/")
        self._cache, self._token = cache_dir, token
        self._revision, self._commit = revision, ""  # as it was asked for, and what it is: all files are of that
        self._folder: Path | None = None  # where they all are, unless they are fetched
        self._trouble: HubError | str | None = None  # why they are of the cache, which may lack some
        if ".." in self._subfolder.split("/") or "\\" in subfolder:
            raise CheckpointError(f"{subfolder!r} is no folder inside of {source}.")
        folder: Path | None = None
        with suppress(OSError, RuntimeError):  # a name too long for this disk, a home that is not there
            found = Path(source).expanduser()
            folder = found if found.exists() else None
        if folder:
            return self._list(folder)
        if isinstance(source, Path) or source.startswith(("/", ".", "~")) or "\\" in source or source.count("/") > 1:
            raise CheckpointError(f"There is no folder {source}; a model on the Hub is named user/name.")
        with hub_errors(source, revision=revision, token=token):
            self._ask(source, local_files_only)

    def _list(self, folder: Path) -> None:
        if not folder.is_dir():
            raise CheckpointError(
                f"{self.source} is a file; name the folder that holds {CONFIG_FILE} and {WEIGHTS_FILE}."
            )
        self._folder = folder / self._subfolder
        if not self._folder.is_dir():
            raise CheckpointError(f"{self.source} has no folder {self._subfolder}.")
        try:
            inner = [path.relative_to(self._folder).as_posix() for path in self._folder.glob(f"*/{CONFIG_FILE}")]
            names = [path.name for path in self._folder.iterdir() if path.is_file()]
            self.names = sorted(filter(is_valid_name, names + inner))
        except OSError as error:
            raise CheckpointError(f"{self.source} cannot be read: {error.strerror}.") from None

    def _ask(self, repo_id: str, local_files_only: bool) -> None:
        from huggingface_hub import HfApi, constants, errors, snapshot_download

        cached: Path | None = None
        with suppress(errors.LocalEntryNotFoundError):
            copy: dict[str, Any] = {"revision": self._revision, "cache_dir": self._cache, "allow_patterns": []}
            cached = Path(snapshot_download(repo_id, **copy, local_files_only=True))
        trouble: Exception = errors.LocalEntryNotFoundError(repo_id)
        if not local_files_only and not constants.is_offline_mode():
            try:  # with a copy there is no need to ask twice
                info = partial(HfApi(token=self._token).model_info, files_metadata=True, timeout=REQUEST_TIMEOUT)
                head = read_listing(
                    repo_id, (call_once if cached else retry_call)(info, repo_id, revision=self._revision)
                )
            except (errors.HTTPError, HubError) as error:
                answered = (
                    isinstance(error, errors.HfHubHTTPError) and error.response.status_code not in RETRIED_STATUSES
                )
                if cached is None or answered:
                    raise
                trouble = error
            else:
                inside = f"{self._subfolder}/" if self._subfolder else ""
                own = {name.removeprefix(inside): size for name, size in head.sizes.items() if name.startswith(inside)}
                self._sizes = {name: size for name, size in own.items() if is_valid_name(name)}
                self.names, self._commit = list(self._sizes), head.commit
                return
        if cached is None:
            raise trouble
        self._list(cached)
        self._trouble = (
            trouble if isinstance(trouble, HubError) else error_message(trouble, repo_id, None, writing=False)
        )

    def check_size(self, weights: list[str], config: ResNetConfig) -> None:
        """Refuses to fetch more than the weights of such a network can be; raises `CheckpointError`."""
        size, most = sum(self._sizes.get(name, 0) for name in weights), config.num_parameters * _BYTES_PER_PARAMETER
        if size > most + _MAX_TEXT:
            raise CheckpointError(
                f"The weights of {self.source} have {size / 1e6:,.0f} MB, but a network as in its {CONFIG_FILE} has no "
                f"more than {most / 1e6:,.0f}; they are not fetched."
            )

    @property
    def here(self) -> Path | None:
        """The folder that they are in, unless they are fetched."""
        return self._folder

    def absent(self, name: str) -> ResNetHubError:
        """What to raise where a file is missing."""
        return (
            HubError(str(self._trouble))
            if self._trouble
            else CheckpointError(missing_file_message(name, self.names, self.source))
        )

    def header(self, name: str) -> Any:
        """What huggingface_hub reads of a file of weights with a range request."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

        path, source = f"{self._subfolder}/{name}".lstrip("/"), str(self.source)
        with hub_errors(source, revision=self._revision, token=self._token):
            try:
                api = HfApi(token=self._token)
                return retry_call(api.parse_safetensors_file_metadata, source, path, revision=self._commit)
            except (SafetensorsParsingError, NotASafetensorsRepoError):
                raise CheckpointError(f"{name} of {source} is damaged; ask its author to save it again.") from None

    def get(self, *names: str) -> Path:
        """The folder with those of the files that there are."""
        if self._folder:
            return self._folder
        source, paths = str(self.source), []
        for name in names:
            if self._sizes.get(name, 0) > _MAX_TEXT and not name.endswith(".safetensors"):
                raise CheckpointError(
                    f"{name} of {source} has {self._sizes[name] / 1e6:,.0f} MB; at most {_MAX_TEXT >> 20} are read."
                )
            if name in self.names:
                paths.append(f"{self._subfolder}/{name}".lstrip("/"))
        with hub_errors(source, revision=self._revision, token=self._token):
            folder = fetch_files(source, paths, self._commit, token=self._token, cache_dir=self._cache)
            _remember(folder, self._revision or "main", set(self.names), self._subfolder)
        return folder / self._subfolder


def fetch_files(
    repo_id: str,
    names: list[str],
    commit: str,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of a commit in the cache, with those files of it.

    The client checks the size of what it fetches, this the digest: a file is marked before it is fetched, until it was
    checked, whatever happens to this process. A damaged one is deleted and fetched once more; raises `HubError` where
    it comes damaged again.
    """
    from huggingface_hub import constants, hf_hub_download
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
            retry_call(hf_hub_download, repo_id, name, revision=commit, token=token, cache_dir=cache_dir)
            if _is_whole(repo_id, folder, name, token):
                mark.unlink(missing_ok=True)
                break
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)  # the link to what was just deleted
        else:
            if mark.exists():
                raise HubError(
                    f"{name} of {repo_id} came damaged from {constants.ENDPOINT} twice: its digest is not the one that "
                    "the Hub names; check the connection and its proxy, or try again later."
                )
    return folder


def _is_whole(repo_id: str, folder: Path, name: str, token: str | bool | None) -> bool:
    """Whether a file has the digest that the Hub names; a commit's folder, relative name."""
    from huggingface_hub import HfApi

    if (folder / name).is_symlink():
        digest: str | None = (folder / name).readlink().name
    else:  # on a disk without links
        digest = retry_call(fetch_digests, HfApi(token=token), repo_id, [name], folder.name).get(name)
    return digest is None or len(digest) not in (40, 64) or digest == digest_file(folder / name, len(digest))


def _remember(folder: Path, revision: str, names: set[str], subfolder: str) -> None:
    """What a branch is at, for a time without the Hub: once all that there was of the commit before is here too."""
    reference = folder.parents[1] / "refs" / revision
    if revision == folder.name:
        return
    with suppress(OSError, ValueError):
        before = folder.parent / reference.read_text() / subfolder if reference.is_file() else folder
        old = {path.relative_to(before).as_posix() for path in before.rglob("*") if path.is_file()}
        if all((folder / subfolder / name).is_file() for name in old & names):
            reference.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(reference, folder.name)


def missing_file_message(name: str, present: list[str], source: str | Path) -> str:
    if name == CONFIG_FILE and (
        inner := [other.rpartition("/")[0] for other in present if other.endswith(f"/{CONFIG_FILE}")]
    ):
        return f'{source} has no {name} but folders that have one: open one, as subfolder="{inner[0]}".'
    if pickle := next((other for other in present if other.endswith(_PICKLES)), None):
        return (
            f"{source} has no {name} but {pickle}, a pickle, which is never opened because it can run code; "
            f"if you trust it, convert it with `resnet-hub convert {pickle} FOLDER`."
        )
    return (
        f"{source} has no {name}, so it is no checkpoint that can be opened; it has {list_some(present) or 'nothing'}."
    )
