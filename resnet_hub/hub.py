"""Checkpoint folders, on this disk and on the Hugging Face Hub. Imports torch only where weights move.

A checkpoint folder holds `config.json` (see `ResNetConfig.to_dict`), `model.safetensors` with torchvision's key
names, and the model card `README.md`. Those of timm and transformers are read as they are. Pickles are never opened.
"""

import glob
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import CheckpointError, ConfigError, HubError
from resnet_hub.files import replace_folder

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.card import CardFacts

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
GRAPH = "onnx/model.onnx"
CALIBRATION = "onnx/int8.json"  # see `graph.Calibration`
PROCESSOR, INDEX = "preprocessor_config.json", "model.safetensors.index.json"  # of transformers
_STALE = ("onnx", PROCESSOR, INDEX)  # speak of other weights, or overrule the config: they go with the old
DTYPES = ("float32", "bfloat16", "float16")  # that weights are stored as
_MAX_CALIBRATION = 2**20  # bytes; of 1,202 layers it has 250,000
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_MAX_INDEX_BYTES, _MAX_PARTS = 16 * 2**20, 1000
_TIMEOUT = 10  # seconds until a Hub that does not answer counts as unreachable, and the cache is used


class Checkpoint(NamedTuple):
    """What a checkpoint folder holds."""

    config: ResNetConfig
    weights: "dict[str, Tensor]"  # torchvision's key names, on the CPU, in the dtype of the file
    card: str | None
    calibration: bytes | None = None  # of int8, as the file has it

    @property
    def dtype(self) -> str:
        """Of the weights in the file: "float32", or the lowest precision where they are mixed."""
        return stored_dtype(self.weights)


def load_checkpoint(source: str | Path, *, weights: str | None = None, **hub: Any) -> Checkpoint:
    """The checkpoint in a folder, or in the Hub repo `user/name`; of a repo, all files are of one commit.

    `weights` names the file, where there are several. `hub` takes `subfolder`, `revision` (branch, tag, commit),
    `token`, `cache_dir` and `local_files_only`. The config is read first: what does not open here costs no download.
    Without a connection the cached copy is used. Raises `CheckpointError` for a folder or repo that is incomplete or
    disagrees with itself, `ConfigError` for a config that describes no network, `HubError` where the Hub refuses or a
    file comes damaged.
    """
    files = _Files(source, **hub)
    config = _read_config(files)
    names = _weight_files(files, weights)
    folder = files.get(*names, CARD, CALIBRATION)
    tensors = _read_weights(folder, names, source)
    _check_head(config, tensors, source)
    return Checkpoint(config, tensors, _read_card(folder), _read_calibration(folder))


def read_config(source: str | Path, **hub: Any) -> ResNetConfig:
    """The config alone, a few kilobytes; arguments and errors as in `load_checkpoint`."""
    return _read_config(_Files(source, **hub))


def read_card(source: str | Path, **hub: Any) -> str | None:
    """The model card alone, if there is one; arguments and errors as in `load_checkpoint`."""
    return _read_card(_Files(source, **hub).get(CARD))


def stored_numbers(source: str | Path, *, weights: str | None = None, **hub: Any) -> dict[str, int]:
    """How many numbers the weights hold, by safetensors' name of their kind ("F32", "F16", ...), read off the header.

    Needs no torch and, of a Hub repo, no download; arguments and errors as in `load_checkpoint`.
    """
    from safetensors import SafetensorError, safe_open

    files = _Files(source, **hub)
    counts: Counter[str] = Counter()
    for name in _weight_files(files, weights):
        if files.here:
            try:
                with safe_open(files.here / name, "np") as file:
                    for key in file.keys():  # noqa: SIM118, it is no mapping
                        part = file.get_slice(key)
                        counts[part.get_dtype()] += math.prod(part.get_shape())
            except (SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(
                    f"{name} of {source} is damaged ({_line(error)}); fetch or save it again."
                ) from None
        else:
            counts.update(files.header(name).parameter_count)
    return dict(counts)


class Found(NamedTuple):
    """A model that a search found."""

    id: str
    downloads: int
    sure: bool  # that it is a ResNet, by its tags or its name


def search(text: str, *, limit: int = 20, token: str | bool | None = None, timeout: float = _TIMEOUT) -> list[Found]:
    """Image classifiers on the Hub whose names match, most used first: those tagged as ResNets, and timm's.

    Raises `HubError` where the Hub does not answer.
    """
    from huggingface_hub import constants, errors, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    asked: dict[str, Any] = {"search": text, "pipeline_tag": "image-classification", "sort": "downloads"}
    found: dict[str, Found] = {}
    for tag in ("resnet", "timm"):
        try:
            reply = get_session().get(
                f"{constants.ENDPOINT}/api/models",
                params=asked | {"filter": tag, "limit": limit},
                headers=build_hf_headers(token=token),
                timeout=timeout,
            )
            hf_raise_for_status(reply)
            answers = reply.json()
        except (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalTokenNotFoundError, ValueError) as error:
            raise HubError(_sentence(error, "the search", None, False)) from None
        for answer in answers:
            name = str(answer["id"])
            sure = tag == "resnet" or re.search("resne[tx]", name, re.IGNORECASE) is not None
            found.setdefault(name, Found(name, int(answer.get("downloads") or 0), sure))
    return sorted(found.values(), key=lambda model: -model.downloads)[:limit]


def save_checkpoint(
    folder: str | Path,
    config: ResNetConfig,
    weights: "Mapping[str, Tensor]",
    card: "str | CardFacts | None" = None,
    *,
    old_card: str | None = None,
    dtype: str | None = None,
) -> Path:
    """Write a checkpoint folder beside `folder` and put it in its place, whole; other files in it stay.

    `card` is a text that is kept, or facts for a new one; without, `old_card` is kept as far as it is still true.
    `dtype` is what the weights are stored as. Raises `CheckpointError` where the labels and the head disagree, a weight
    has no room in `dtype`, or the disk refuses.
    """
    from safetensors.torch import save_file

    from resnet_hub.card import carry_card, render_card, sign_card

    folder = Path(folder).expanduser()
    _check_head(config, weights, folder)
    weights = cast(weights, dtype) if dtype else weights
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; name a folder to save the model in.")
    try:
        with replace_folder(folder, keep=lambda name: name not in (CONFIG, WEIGHTS, CARD, *_STALE)) as part:
            (part / CONFIG).write_text(config.to_json(), encoding="utf-8")
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in weights.items()}
            save_file(tensors, part / WEIGHTS, metadata={"format": "pt"})
            (part / WEIGHTS).chmod((part / CONFIG).stat().st_mode)  # safetensors gives it to its owner alone
            sha256 = _sha256(part / WEIGHTS)
            if isinstance(card, str):
                text = sign_card(card, sha256)
            else:
                text = render_card(config, card, weights_sha256=sha256, dtype=stored_dtype(weights))
                text = carry_card(old_card, text) if old_card is not None and card is None else text
            (part / CARD).write_bytes(text.encode())
    except OSError as error:
        raise CheckpointError(f"The model cannot be saved to {folder}: {error.strerror or error}.") from None
    return folder


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
) -> str:
    """Upload a checkpoint folder to the Hub repo `user/name` in one commit; returns its URL, or the pull request's.

    Creates the repo (`private` or not) and the branch where they are missing. Hidden files stay here. A README that was
    edited on the Hub keeps its text; only metadata of ours is refreshed. Raises `HubError` where the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    from resnet_hub.card import name_card, refresh_card

    folder = Path(folder).expanduser()
    config = read_config(folder)
    _named(folder, WEIGHTS, folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.split("/"))}

    with hub_errors(repo_id, revision=branch, token=token, writing=True):
        api = HfApi(token=token, library_name="resnet_hub")
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id  # with the user's name before it
        if branch and not create_pr:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        head = api.model_info(repo_id, revision=branch, timeout=_TIMEOUT)
        if private and not head.private:
            raise HubError(f"{repo_id} exists and is public; make it private in its settings, or push to another name.")
        remote = {file.rfilename for file in head.siblings or []}
        additions = {name: CommitOperationAdd(name, path) for name, path in files.items() if name != CARD}
        if CARD in files:
            card = name_card(files[CARD].read_bytes().decode(errors="replace"), repo_id, onnx=GRAPH in files)
            if CARD in remote:
                old = _fetch(repo_id, [CARD], revision=head.sha, token=token) / CARD
                card = refresh_card(old.read_bytes().decode(errors="replace"), card)
            additions[CARD] = CommitOperationAdd(CARD, card.encode())
        stale = [name for name in remote - additions.keys() if name.split("/")[0] in _STALE]
        commit = api.create_commit(
            repo_id,
            [*additions.values(), *(CommitOperationDelete(name) for name in stale)],
            commit_message=message or f"Upload {config.architecture} with resnet_hub",
            revision=branch,
            create_pr=create_pr,
            parent_commit=head.sha,  # whoever pushes at the same time is noticed, not overwritten
        )
    return commit.pr_url or commit.commit_url


def check_weights(expected: "Mapping[str, Tensor]", weights: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """`weights` for a network whose state dict is like `expected`; raises `CheckpointError` with what does not fit.

    Only BatchNorm's `num_batches_tracked`, which older files lack and inference never reads, is filled in.
    """
    import torch

    full = dict(weights)
    for key in expected.keys() - weights.keys():
        if key.endswith(".num_batches_tracked"):
            full[key] = torch.zeros((), dtype=torch.long)
    problems = {
        "missing": [key for key in expected if key not in full],
        "unexpected": [key for key in full if key not in expected],
        "misshapen": [
            f"{key} ({_kind(full[key])} for {_kind(tensor)})"
            for key, tensor in expected.items()
            if key in full and _kind(full[key]) != _kind(tensor)
        ],
    }
    if found := [f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys]:
        raise CheckpointError(f"The weights do not fit the network in {CONFIG}; {'; '.join(found)}.")
    return full


def cast(weights: "Mapping[str, Tensor]", dtype: str) -> "dict[str, Tensor]":
    """The weights as `dtype`, counters as they are; raises `CheckpointError` where a finite one becomes infinite."""
    import torch

    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}; choose one of {', '.join(DTYPES)}.")
    done = {}
    for key, tensor in weights.items():
        done[key] = tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor
        if done[key].dtype != tensor.dtype and dtype == "float16" and bool((done[key].isinf() & ~tensor.isinf()).any()):
            raise CheckpointError(f"{key} holds values above 65504, for which float16 has no room; take bfloat16.")
    return done


def survives(weights: "Mapping[str, Tensor]", dtype: str) -> bool:
    """Whether the weights lose nothing as `dtype`."""
    import torch

    kind = getattr(torch, dtype)
    return all(torch.equal(w.to(kind).to(w.dtype), w) for w in weights.values() if w.is_floating_point())


def stored_dtype(weights: "Mapping[str, Tensor]") -> str:
    """The dtype of the weights, the narrowest where they are mixed; "float32" where there is none of `DTYPES`."""
    present = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}
    return next((dtype for dtype in reversed(DTYPES) if dtype in present), DTYPES[0])


@contextmanager
def hub_errors(
    repo_id: str, *, revision: str | None = None, token: str | bool | None = None, writing: bool = False
) -> Iterator[None]:
    """Turn whatever huggingface_hub raises about the model `repo_id` into a `HubError` of one sentence."""
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        raise HubError("The token holds characters that no token has; copy it again, without blanks around it.")
    try:
        validate_repo_id(repo_id)
        yield
    except (
        errors.HTTPError,  # refusals, and every failure of the connection
        errors.HFValidationError,
        errors.EntryNotFoundError,
        errors.LocalTokenNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.XetDownloadError,
        RuntimeError,  # an upload that failed
        ValueError,  # metadata that the Hub does not accept
        OSError,
    ) as error:
        raise HubError(_sentence(error, repo_id, revision, writing)) from None


def _sentence(error: Exception, repo_id: str, revision: str | None, writing: bool) -> str:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error.__cause__, errors.HTTPError) and not isinstance(error, errors.HTTPError):
        error = error.__cause__  # what kept the cache from being filled, or the upload from going through
    match error:
        case errors.LocalEntryNotFoundError():
            return f"{repo_id} is not in the cache, and it may not be fetched now: go online once, or name a folder."
        case errors.HFValidationError():
            return f"{repo_id!r} is neither a folder here nor the name of a model on the Hub, such as user/name."
        case errors.GatedRepoError():
            return (
                f"{repo_id} is gated: ask for access at {hub}/{repo_id}, then use a token of the account that has it."
            )
        case errors.RepositoryNotFoundError():
            return (
                f"There is no folder and no model on the Hub named {repo_id}, or it is private: check the name, or "
                "log in with `hf auth login` as someone who may see it."
            )
        case errors.RevisionNotFoundError():
            return f"{repo_id} has no branch, tag or commit {revision or 'main'}; see {hub}/{repo_id}/commits."
        case errors.DisabledRepoError():
            return f"The Hub has disabled {repo_id}; choose another model."
        case errors.LocalTokenNotFoundError():
            return "There is no token on this computer; log in with `hf auth login`."
        case errors.OfflineModeIsEnabled():
            return f"The Hub is switched off by HF_HUB_OFFLINE; unset it to reach {repo_id}."
        case errors.HfHubHTTPError():
            return _refusal(error.response.status_code, error, repo_id, writing)
        case errors.HTTPError():
            return f"The Hub at {hub} cannot be reached ({type(error).__name__}); check the connection and try again."
    return f"{repo_id} cannot be {'pushed' if writing else 'fetched'}: {_line(error)}."


def _refusal(status: int, error: Any, repo_id: str, writing: bool) -> str:
    match status:
        case 401:
            return (
                f"The Hub does not accept the token{'' if writing else f' for {repo_id}'}; log in with `hf auth login`."
            )
        case 403 if writing:
            return f"The token may not write to {repo_id}; use one that may, or propose the change with create_pr."
        case 403:
            return f"The token may not read {repo_id}; use one with that permission."
        case 409 | 412:
            return f"{repo_id} was changed by someone else at the same time; look at the change, then push again."
        case 429:
            wait = error.response.headers.get("Retry-After", "")
            return (
                f"The Hub limits how often it is asked; try again in {f'{wait} seconds' if wait else 'some minutes'}."
            )
        case _ if status >= 500:
            return f"The Hub has a problem of its own ({status}); try again in some minutes."
    return f"The Hub refused {repo_id} ({status}): {_line(error.server_message or error)}."


def _line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class _Files:
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
        self._subfolder = subfolder.strip("/")
        self._hub: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
        self._folder: Path | None = None  # where they all are, unless they are fetched
        if ".." in self._subfolder.split("/") or "\\" in subfolder:
            raise CheckpointError(f"{subfolder!r} is no folder inside of {source}.")
        with suppress(OSError, RuntimeError):  # a name too long for this disk, a home that is not there
            folder = Path(source).expanduser()
            if folder.is_dir():
                return self._at(folder)
            if folder.exists():
                raise CheckpointError(f"{source} is a file; name the folder that holds {CONFIG} and {WEIGHTS}.")
        if isinstance(source, Path) or source.startswith(("/", ".", "~")) or "\\" in source or source.count("/") > 1:
            raise CheckpointError(f"There is no folder {source}; a model on the Hub is named user/name.")
        with hub_errors(source, revision=revision, token=token):
            self._ask(source, local_files_only)

    def _at(self, folder: Path) -> None:
        self._folder = folder / self._subfolder
        if not self._folder.is_dir():
            raise CheckpointError(f"{self.source} has no folder {self._subfolder}.")
        inner = (path.relative_to(self._folder).as_posix() for path in self._folder.glob(f"*/{CONFIG}"))
        self.names = sorted([path.name for path in self._folder.iterdir() if path.is_file()] + list(inner))

    def _ask(self, repo_id: str, local_files_only: bool) -> None:
        from huggingface_hub import HfApi, errors, snapshot_download

        offline = {**self._hub, "allow_patterns": [], "local_files_only": True}
        if local_files_only:
            return self._at(Path(snapshot_download(repo_id, **offline)))
        try:  # a quick question first: a download waits long for a Hub that does not answer
            head = HfApi(token=self._hub["token"]).model_info(repo_id, revision=self._hub["revision"], timeout=_TIMEOUT)
        except (errors.HTTPError, errors.OfflineModeIsEnabled) as error:
            if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 429:
                raise  # an answer, not a failure
            try:
                return self._at(Path(snapshot_download(repo_id, **offline)))
            except errors.LocalEntryNotFoundError as missing:
                raise missing from error
        inside = f"{self._subfolder}/" if self._subfolder else ""
        names = [file.rfilename for file in head.siblings or []]
        self.names = [name.removeprefix(inside) for name in names if name.startswith(inside)]

    @property
    def here(self) -> Path | None:
        """The folder that they are in, unless they are fetched."""
        return self._folder

    def header(self, name: str) -> Any:
        """What huggingface_hub reads of a file of weights with a range request."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

        path, source = f"{self._subfolder}/{name}".lstrip("/"), str(self.source)
        with hub_errors(source, revision=self._hub["revision"], token=self._hub["token"]):
            try:
                api = HfApi(token=self._hub["token"])
                return api.parse_safetensors_file_metadata(source, path, revision=self._hub["revision"])
            except (SafetensorsParsingError, NotASafetensorsRepoError):
                raise CheckpointError(f"{name} of {source} is damaged; ask its author to save it again.") from None

    def get(self, *names: str) -> Path:
        """The folder with those of the files that there are."""
        if self._folder:
            return self._folder
        paths = [f"{self._subfolder}/{name}".lstrip("/") for name in names]
        with hub_errors(str(self.source), revision=self._hub["revision"], token=self._hub["token"]):
            folder = _fetch(str(self.source), paths, **self._hub)
        self._hub["revision"] = folder.name  # the commit, for what is asked next
        return folder / self._subfolder


def _fetch(
    repo_id: str,
    names: list[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The folder of a commit in the cache, with those of the files that the repo has.

    The client checks the size of what it fetches, this the digest: of the files that the commit had not in the cache,
    a damaged one is deleted and fetched once more. Raises `HubError` where it comes damaged again.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
    commits = cache / repo_folder_name(repo_id=repo_id, repo_type="model") / "snapshots"
    patterns = [glob.escape(name) for name in names]
    damaged: list[str] = []
    for _ in range(2):
        known = set(commits.rglob("*"))
        asked: Any = {"revision": revision, "token": token, "cache_dir": cache_dir, "allow_patterns": patterns}
        try:
            folder = Path(snapshot_download(repo_id, **asked))
            new = [name for name in names if folder / name not in known and (folder / name).is_file()]
            damaged = _damaged(repo_id, folder, new, token)
        except BaseException:  # what came and was not checked must be new to the next load, which checks it
            came = {path for pattern in patterns for path in commits.glob(f"*/{pattern}")}
            for path in came - known:
                path.unlink(missing_ok=True)
            raise
        if not damaged:
            return folder
        for name in damaged:
            (folder / name).resolve().unlink(missing_ok=True)
            (folder / name).unlink(missing_ok=True)  # the link to what was just deleted
    raise HubError(
        f"{damaged[0]} of {repo_id} came damaged from {constants.ENDPOINT} twice: its digest is not the one that the "
        "Hub names; check the connection and its proxy, or try again later."
    )


def _damaged(repo_id: str, folder: Path, names: list[str], token: str | bool | None) -> list[str]:
    """Those of the files whose content has another digest than the Hub names; a commit's folder, relative names."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    digests = {name: (folder / name).readlink().name for name in names if (folder / name).is_symlink()}
    if copies := [name for name in names if name not in digests]:  # on a disk without links
        for file in HfApi(token=token).get_paths_info(repo_id, copies, revision=folder.name):
            if isinstance(file, RepoFile):
                digests[file.path] = file.lfs.sha256 if file.lfs else file.blob_id
    return [name for name, digest in digests.items() if _digest(folder / name, len(digest)) not in (digest, None)]


def _digest(path: Path, length: int) -> str | None:
    """What the Hub calls a file by: SHA-256 of a large one (64 digits), git's of a small one (40), or nothing known."""
    if length == 64:
        return _sha256(path)
    return hashlib.sha1(b"blob %d\0" % path.stat().st_size + path.read_bytes()).hexdigest() if length == 40 else None


def _weight_files(files: _Files, wanted: str | None) -> list[str]:
    """The file with the weights, or the parts of it; raises `CheckpointError` where there is none, or a choice."""
    names = files.names
    if wanted is not None:
        if wanted not in names or not wanted.endswith(".safetensors"):
            raise CheckpointError(f"{files.source} has no weights {wanted}; it has {_some(names) or 'nothing'}.")
        return [wanted]
    if WEIGHTS in names:
        return [WEIGHTS]
    if INDEX in names:
        return _parts(files.get(INDEX) / INDEX, names, files.source)
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if len(found) > 1:
        raise CheckpointError(f'{files.source} has several files of weights: name one, as weights="{found[0]}".')
    if not found:
        raise CheckpointError(_absent(WEIGHTS, names, files.source))
    return found


def _parts(index: Path, names: list[str], source: str | Path) -> list[str]:
    """The files that an index of weights in parts names: files beside it, whatever it says."""
    try:
        with index.open("rb") as file:
            table = json.loads(file.read(_MAX_INDEX_BYTES))["weight_map"]
        parts = sorted(set(table.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{INDEX} of {source} is damaged; fetch or save it again.") from None
    for part in parts:
        if not isinstance(part, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", part):
            raise CheckpointError(f"{INDEX} of {source} names {part!r:.80}, which is no file of weights beside it.")
        if part not in names:
            raise CheckpointError(f"{source} has no {part}, which its {INDEX} names; fetch or save it again.")
    if not 0 < len(parts) <= _MAX_PARTS:
        raise CheckpointError(f"{INDEX} of {source} names {len(parts)} files; expected 1 to {_MAX_PARTS}.")
    return parts


def _named(folder: Path, name: str, source: str | Path) -> Path:
    if not (folder / name).is_file():
        raise CheckpointError(_absent(name, sorted(entry.name for entry in folder.iterdir()), source))
    return folder / name


def _absent(name: str, present: list[str], source: str | Path) -> str:
    if name == CONFIG and (inner := [other.rpartition("/")[0] for other in present if other.endswith(f"/{CONFIG}")]):
        return f'{source} has no {name} but folders that have one: open one, as subfolder="{inner[0]}".'
    if pickle := next((other for other in present if other.endswith(_PICKLES)), None):
        return (
            f"{source} has no {name} but {pickle}, a pickle, which is never opened because it can run code; "
            f"if you trust it, convert it with `resnet-hub convert {pickle} FOLDER`."
        )
    return f"{source} has no {name}, so it is no checkpoint that can be opened; it has {_some(present) or 'nothing'}."


def _read_config(files: _Files) -> ResNetConfig:
    if CONFIG not in files.names:
        raise CheckpointError(_absent(CONFIG, files.names, files.source))
    folder = files.get(CONFIG, PROCESSOR)
    processor = folder / PROCESSOR
    try:
        content = processor.read_bytes() if processor.is_file() else None
        return ResNetConfig.from_json(_named(folder, CONFIG, files.source).read_bytes(), content)
    except ConfigError as error:
        raise ConfigError(f"{files.source}: {error}") from None


def _read_card(folder: Path) -> str | None:
    card = folder / CARD
    return card.read_bytes().decode(errors="replace").removeprefix("\ufeff") if card.is_file() else None


def _read_calibration(folder: Path) -> bytes | None:
    file = folder / CALIBRATION
    return file.read_bytes() if file.is_file() and file.stat().st_size <= _MAX_CALIBRATION else None


def _read_weights(folder: Path, names: list[str], source: str | Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from resnet_hub.layouts import our_name

    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            part = load_file(_named(folder, name, source))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{name} of {source} is damaged ({_line(error)}); fetch or save it again.") from None
        for key, tensor in part.items():
            if (ours := our_name(key)) in weights:
                raise CheckpointError(f"The weights of {source} have {ours[:80]} twice, the second time in {name}.")
            weights[ours] = tensor
    return weights


def _check_head(config: ResNetConfig, weights: "Mapping[str, Tensor]", source: str | Path) -> None:
    head = weights.get("fc.weight")
    rows = head.shape[0] if head is not None and head.ndim else 0
    if rows != config.num_classes:
        raise CheckpointError(
            f"{source}: {CONFIG} has {config.num_classes} labels, but the head in {WEIGHTS} has {rows} outputs."
        )


def _kind(tensor: "Tensor") -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'scalar'}{'' if tensor.is_floating_point() else ' of whole numbers'}"


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(name[:80] for name in names[:count]) + (", ..." if len(names) > count else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
