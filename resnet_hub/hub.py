"""Checkpoint folders, on this disk and on the Hugging Face Hub. Imports torch only where weights move.

A checkpoint folder holds `config.json` (see `ResNetConfig.to_dict`), `model.safetensors` with torchvision's key
names, and the model card `README.md`. Those of timm and transformers are read as they are. Pickles are never opened.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import (
    CheckpointError,
    ConfigError,
    HubError,
    ResNetHubError,
    disk_is_full,
    memory_errors,
    one_line,
)
from resnet_hub.files import replace_folder, write_atomic
from resnet_hub.patience import PASSING, ask, ask_once, asked_wait

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from torch import Tensor

    from resnet_hub.card import CardFacts

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
GRAPH = "onnx/model.onnx"
CALIBRATION = "onnx/int8.json"  # see `graph.Calibration`
PROCESSOR, INDEX = "preprocessor_config.json", "model.safetensors.index.json"  # of transformers
_STALE = ("onnx", PROCESSOR, INDEX)  # speak of other weights, or overrule the config: they go with the old
DTYPES = ("float32", "bfloat16", "float16")  # that weights are stored as
_MAX_CALIBRATION = 2**20  # bytes; of 1,202 layers it has 250,000
_MAX_TEXT = 16 * 2**20  # bytes of any file but weights: a larger one is not fetched
_BYTES_PER_PARAMETER = 9  # of float64, and a little for BatchNorm's statistics
_PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")
_MAX_INDEX_BYTES, _MAX_PARTS = 16 * 2**20, 1000
_MAX_NAME = 200  # characters of a file's path in a checkpoint: others are not seen
_ID = re.compile(r"([\w.-]{1,96}/)?[\w.-]{1,96}", re.ASCII)  # of a model
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
    files.check_size(names, config)
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
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    def answer(tag: str) -> list[dict[str, Any]]:
        reply = get_session().get(
            f"{constants.ENDPOINT}/api/models",
            params=asked | {"filter": tag, "limit": limit},
            headers=build_hf_headers(token=token),
            timeout=timeout,
        )
        hf_raise_for_status(reply)
        return [{"id": model["id"], "downloads": model.get("downloads") or 0} for model in reply.json()]

    asked: dict[str, Any] = {"search": text, "pipeline_tag": "image-classification", "sort": "downloads"}
    found: dict[str, Found] = {}
    for tag in ("resnet", "timm"):
        with _sentences("The search", None, writing=False):
            answers = ask_once(answer, tag)
        for model in answers:
            name, downloads = model["id"], model["downloads"]
            if not isinstance(name, str) or not _ID.fullmatch(name) or not isinstance(downloads, int):
                raise _nonsense("the search", f"{name!r}, downloaded {downloads!r} times")
            sure = tag == "resnet" or re.search("resne[tx]", name, re.IGNORECASE) is not None
            found.setdefault(name, Found(name, downloads, sure))
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
    from safetensors import SafetensorError
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
    except (OSError, SafetensorError) as error:  # what was there before stays
        reason = "the disk is full" if disk_is_full(error) else getattr(error, "strerror", None) or _line(error)
        raise CheckpointError(f"The model cannot be saved to {folder}: {reason}.") from None
    return folder


def check_push(repo_id: str, *, private: bool | None = None, token: str | bool | None = None) -> None:
    """Raises `HubError` where a push to `repo_id` would be refused: asked before the work that is to be pushed.

    Of its name, a token that is there and is known, and the right to write to the repo, or to make it where it is
    missing. With `private` a repo that is public is refused. Changes nothing on the Hub.
    """
    from huggingface_hub import HfApi, errors, get_token

    with hub_errors(repo_id, token=token, writing=True):
        if token is False or not (isinstance(token, str) or get_token()):
            raise errors.LocalTokenNotFoundError
        api = HfApi(token=token, library_name="resnet_hub")
        try:
            if "/" in repo_id:
                ask(api.auth_check, repo_id, write=True)
                if private and ask(api.model_info, repo_id, timeout=_TIMEOUT).private is not True:
                    raise HubError(_exposed(repo_id))
                return
        except errors.RepositoryNotFoundError as error:
            if _is_of_token(error.response):
                raise
        try:
            owners, role = ask(_account, api)  # only now: the Hub limits how often it is asked that
        except errors.HfHubHTTPError as error:
            if error.response.status_code == 429 and "/" in repo_id:
                return  # whoever makes the repo is told
            raise
        if role == "read":
            raise HubError(f"The token of {owners[0]} may not write to {repo_id}, only read; use one that may.")
        if "/" not in repo_id:
            return check_push(f"{owners[0]}/{repo_id}", private=private, token=token)
        owner, _, name = repo_id.partition("/")
        if owner.casefold() not in map(str.casefold, owners):
            known = " or ".join(f"{own}/{name}" for own in owners[:3])
            raise HubError(f"The token may not make {repo_id}, as it is not {owner}'s; push to {known}.")


def _account(api: "HfApi") -> tuple[list[str], str | None]:
    """Below whose names the token may make a repo, its own first; and what it may do, where the Hub tells."""
    user = api.whoami()
    owners = [user["name"], *(org["name"] for org in user.get("orgs") or () if org.get("roleInOrg") != "read")]
    return owners, ((user.get("auth") or {}).get("accessToken") or {}).get("role")


def _exposed(repo_id: str) -> str:
    return f"{repo_id} exists and is public; make it private in its settings, or push to another name."


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
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors

    from resnet_hub.card import name_card, refresh_card

    folder = Path(folder).expanduser()
    config = read_config(folder)
    _named(folder, WEIGHTS, folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.split("/"))}

    if not create_pr:
        check_push(repo_id, token=token)
    with hub_errors(repo_id, revision=branch, token=token, writing=True):
        api = HfApi(token=token, library_name="resnet_hub")
        repo_id = ask(api.create_repo, repo_id, private=private, exist_ok=True).repo_id  # the user's name before it
        if branch and not create_pr:
            ask(api.create_branch, repo_id, branch=branch, exist_ok=True)
        head = ask(api.model_info, repo_id, revision=branch, timeout=_TIMEOUT)
        listed = listing(repo_id, head)
        if private and head.private is not True:
            raise HubError(_exposed(repo_id))
        additions = {name: CommitOperationAdd(name, path) for name, path in files.items() if name != CARD}
        if CARD in files:
            card = name_card(files[CARD].read_bytes().decode(errors="replace"), repo_id, onnx=GRAPH in files)
            if CARD in listed.sizes:
                old = _fetch(repo_id, [CARD], listed.commit, token=token) / CARD
                card = refresh_card(old.read_bytes().decode(errors="replace"), card)
            additions[CARD] = CommitOperationAdd(CARD, card.encode())
        stale = [name for name in listed.sizes.keys() - additions.keys() if name.split("/")[0] in _STALE]
        for addition in additions.values():  # one at a time, in this thread: see `ask`
            ask(api.preupload_lfs_files, repo_id, [addition], revision=branch, create_pr=create_pr, free_memory=False)
        try:
            commit = (ask_once if create_pr else ask)(  # which the parent makes safe; a second proposal is one more
                partial(api.create_commit, repo_id),
                [*additions.values(), *(CommitOperationDelete(name) for name in stale)],
                commit_message=message or f"Upload {config.architecture} with resnet_hub",
                revision=branch,
                create_pr=create_pr,
                parent_commit=listed.commit,  # whoever pushes at the same time is noticed, not overwritten
            )
        except errors.HTTPError as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code not in (412, *PASSING):
                raise
            # A commit whose answer was lost is refused as someone else's when it is sent again.
            if create_pr or not (found := _arrived(api, repo_id, branch, additions, stale)):
                raise
            return f"{constants.ENDPOINT}/{repo_id}/commit/{found}"
    return commit.pr_url or commit.commit_url


def _arrived(
    api: "HfApi", repo_id: str, branch: str | None, additions: "dict[str, CommitOperationAdd]", stale: list[str]
) -> str | None:
    """The commit that a branch is at, where it has just what was to be pushed."""
    from huggingface_hub import errors

    try:
        commit = listing(repo_id, ask_once(api.model_info, repo_id, revision=branch, timeout=_TIMEOUT)).commit
        digests = ask_once(_named_digests, api, repo_id, [*additions, *stale], commit)
    except (errors.HTTPError, HubError):
        return None
    for name, addition in additions.items():
        with addition.as_file() as file:
            if digests.pop(name, None) not in (addition.upload_info.sha256.hex(), _git_digest(file.read())):
                return None
    return None if digests else commit


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
    from huggingface_hub.utils import validate_repo_id

    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        raise HubError("The token holds characters that no token has; copy it again, without blanks around it.")
    with _sentences(repo_id, revision, writing=writing):
        validate_repo_id(repo_id)
        yield


@contextmanager
def _sentences(about: str, revision: str | None, *, writing: bool) -> Iterator[None]:
    from huggingface_hub import errors

    try:
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
        raise HubError(_sentence(error, about, revision, writing)) from None


def _sentence(error: Exception, about: str, revision: str | None, writing: bool) -> str:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error.__cause__, errors.HTTPError) and not isinstance(error, errors.HTTPError):
        error = error.__cause__  # what kept the cache from being filled, or the upload from going through
    failed = f"{about} cannot be {'pushed' if writing else 'fetched'}"
    match error:
        case errors.LocalEntryNotFoundError():
            return f"{about} is not in the cache, and it may not be fetched now: go online once, or name a folder."
        case errors.HFValidationError():
            return f"{about!r} is neither a folder here nor the name of a model on the Hub, such as user/name."
        case errors.GatedRepoError():
            return f"{about} is gated: ask for access at {hub}/{about}, then use a token of the account that has it."
        case errors.RepositoryNotFoundError() if not _is_of_token(error.response):
            return (
                f"There is no folder and no model on the Hub named {about}, or it is private: check the name, or "
                "log in with `hf auth login` as someone who may see it."
            )
        case errors.RevisionNotFoundError():
            return f"{about} has no branch, tag or commit {revision or 'main'}; see {hub}/{about}/commits."
        case errors.DisabledRepoError():
            return f"The Hub has disabled {about}; choose another model."
        case errors.LocalTokenNotFoundError():
            return "There is no token on this computer; log in with `hf auth login`."
        case errors.OfflineModeIsEnabled():
            return f"The Hub is switched off by HF_HUB_OFFLINE; unset it to reach {about}."
        case errors.HfHubHTTPError():
            return _refusal(error.response.status_code, error, about, failed, writing)
        case errors.HTTPError():
            reason = type(error).__name__ if type(error) is not errors.HTTPError else str(error)
            return f"{failed}: the Hub at {hub} cannot be reached ({reason}); check the connection and try again."
    if disk_is_full(error):
        return f"{failed}: the disk of the Hub's cache ({constants.HF_HUB_CACHE}) is full; make room and try again."
    return f"{failed}: {_line(error)}."


def _is_of_token(response: Any) -> bool:
    """Whether a refusal is of a token, one that has expired or been deleted: the client takes it for a missing repo."""
    return response.status_code == 401 and "token" in response.headers.get("X-Error-Message", "").lower()


def _refusal(status: int, error: Any, about: str, failed: str, writing: bool) -> str:
    match status:
        case 401:
            said = f" ({one_line(error.server_message)})" if _is_of_token(error.response) else ""
            return f"{failed}: the Hub does not accept the token{said}; log in with `hf auth login`."
        case 403 if writing:
            return f"The token may not write to {about}; use one that may, or propose the change with create_pr."
        case 403:
            return f"The token may not read {about}; use one with that permission."
        case 409 | 412:
            return f"{about} was changed by someone else at the same time; look at the change, then push again."
        case 429:
            wait = asked_wait(error.response.headers)
            return f"{failed}: the Hub limits how often it is asked; try again in {_time(wait)}."
        case _ if status >= 500:
            return f"{failed}: the Hub has a problem of its own ({status}); try again in some minutes."
    return f"The Hub refused {about} ({status}): {one_line(error.server_message or _line(error))}."


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "some minutes"
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds > 2 * length:
            return f"{math.ceil(seconds / length)} {unit}"
    return f"{math.ceil(seconds)} seconds"


def _line(error: object) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


class Listing(NamedTuple):
    """What the Hub says of a repo."""

    commit: str
    sizes: dict[str, int]  # of its files, in bytes


def listing(repo_id: str, info: Any) -> Listing:
    """The commit and the files of what `HfApi.model_info` answered; raises `HubError` where that makes no sense."""
    sizes: dict[str, int] = {}
    for file in info.siblings or ():
        name, size = file.rfilename, file.size or 0
        if not isinstance(name, str) or not isinstance(size, int) or size < 0:
            raise _nonsense(repo_id, f"a file {name!r} of {size!r} bytes")
        sizes[name] = size
    if not isinstance(info.sha, str) or not re.fullmatch(r"[0-9a-f]{40}", info.sha):  # it becomes a folder's name
        raise _nonsense(repo_id, f"the commit {info.sha!r}")
    return Listing(info.sha, sizes)


def _nonsense(about: str, what: str) -> HubError:
    return HubError(f"The Hub's answer about {about} makes no sense ({one_line(what, 80)}); check HF_ENDPOINT.")


def _is_sane(name: str) -> bool:
    """Whether a file of that name is one of ours, and its name may stand in a sentence."""
    return name.isprintable() and len(name) <= _MAX_NAME and ".." not in name.split("/")


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
            raise CheckpointError(f"{self.source} is a file; name the folder that holds {CONFIG} and {WEIGHTS}.")
        self._folder = folder / self._subfolder
        if not self._folder.is_dir():
            raise CheckpointError(f"{self.source} has no folder {self._subfolder}.")
        try:
            inner = [path.relative_to(self._folder).as_posix() for path in self._folder.glob(f"*/{CONFIG}")]
            names = [path.name for path in self._folder.iterdir() if path.is_file()]
            self.names = sorted(filter(_is_sane, names + inner))
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
                info = partial(HfApi(token=self._token).model_info, files_metadata=True, timeout=_TIMEOUT)
                head = listing(repo_id, (ask_once if cached else ask)(info, repo_id, revision=self._revision))
            except (errors.HTTPError, HubError) as error:
                answered = isinstance(error, errors.HfHubHTTPError) and error.response.status_code not in PASSING
                if cached is None or answered:
                    raise
                trouble = error
            else:
                inside = f"{self._subfolder}/" if self._subfolder else ""
                own = {name.removeprefix(inside): size for name, size in head.sizes.items() if name.startswith(inside)}
                self._sizes = {name: size for name, size in own.items() if _is_sane(name)}
                self.names, self._commit = list(self._sizes), head.commit
                return
        if cached is None:
            raise trouble
        self._list(cached)
        self._trouble = trouble if isinstance(trouble, HubError) else _sentence(trouble, repo_id, None, writing=False)

    def check_size(self, weights: list[str], config: ResNetConfig) -> None:
        """Refuses to fetch more than the weights of such a network can be; raises `CheckpointError`."""
        size, most = sum(self._sizes.get(name, 0) for name in weights), config.num_parameters * _BYTES_PER_PARAMETER
        if size > most + _MAX_TEXT:
            raise CheckpointError(
                f"The weights of {self.source} have {size / 1e6:,.0f} MB, but a network as in its {CONFIG} has no more "
                f"than {most / 1e6:,.0f}; they are not fetched."
            )

    @property
    def here(self) -> Path | None:
        """The folder that they are in, unless they are fetched."""
        return self._folder

    def absent(self, name: str) -> ResNetHubError:
        """What to raise where a file is missing."""
        return (
            HubError(str(self._trouble)) if self._trouble else CheckpointError(_absent(name, self.names, self.source))
        )

    def header(self, name: str) -> Any:
        """What huggingface_hub reads of a file of weights with a range request."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

        path, source = f"{self._subfolder}/{name}".lstrip("/"), str(self.source)
        with hub_errors(source, revision=self._revision, token=self._token):
            try:
                api = HfApi(token=self._token)
                return ask(api.parse_safetensors_file_metadata, source, path, revision=self._commit)
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
            folder = _fetch(source, paths, self._commit, token=self._token, cache_dir=self._cache)
            _remember(folder, self._revision or "main", set(self.names), self._subfolder)
        return folder / self._subfolder


def _fetch(
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
            ask(hf_hub_download, repo_id, name, revision=commit, token=token, cache_dir=cache_dir)
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
        digest = ask(_named_digests, HfApi(token=token), repo_id, [name], folder.name).get(name)
    return digest is None or len(digest) not in (40, 64) or digest == _digest(folder / name, len(digest))


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


def _named_digests(api: "HfApi", repo_id: str, names: list[str], commit: str) -> dict[str, str]:
    """Of files as the Hub lists them: SHA-256 of a large one (64 digits), git's of a small one (40)."""
    files: list[Any] = api.get_paths_info(repo_id, names, revision=commit)
    return {file.path: str(file.lfs.sha256 if file.lfs else file.blob_id) for file in files}


def _digest(path: Path, length: int) -> str:
    return _sha256(path) if length == 64 else _git_digest(path.read_bytes())


def _git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


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
        raise files.absent(WEIGHTS)
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
        raise files.absent(CONFIG)
    folder = files.get(CONFIG, PROCESSOR)
    processor = folder / PROCESSOR
    try:
        content = processor.read_bytes() if processor.is_file() else None
        return ResNetConfig.from_json((folder / CONFIG).read_bytes(), content)
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
            with memory_errors(f"{name} of {source}"):
                part = load_file(_named(folder, name, source))
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
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
