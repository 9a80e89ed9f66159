"""Upload checkpoint folders to the Hub, in one commit: only the files of the checkpoint, none else of this machine."""

import re
from collections.abc import Collection, Sequence, Set
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from html import unescape
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from resnet_hub.checkpoints.load import fetch_files, find_weights_files, open_source, read_config, read_shard_names
from resnet_hub.checkpoints.model_card import has_same_weights, remove_missing_images, set_repo_id, update_metadata
from resnet_hub.checkpoints.save import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    ONNX_FILE,
    PROCESSOR_FILE,
    STALE_FILES,
    WEIGHTS_FILE,
    check_head,
)
from resnet_hub.config import ResNetConfig
from resnet_hub.convert.state_dict import describe_shape_mismatch, list_expected_shapes
from resnet_hub.convert.weights_file import rename_key
from resnet_hub.errors import CheckpointError, HubError, one_line
from resnet_hub.hub_client.errors import RETRIED_STATUSES, hub_errors, is_token_error
from resnet_hub.hub_client.listing import RepoListing, fetch_digests, git_digest, read_listing
from resnet_hub.hub_client.retry import call_once, retry_call
from resnet_hub.hub_client.upload import find_or_create_repo, upload_large_files

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_OWN_FILES = {CONFIG_FILE, PROCESSOR_FILE, CARD_FILE, WEIGHTS_FILE, INDEX_FILE, CALIBRATION_FILE}
_LICENSE = re.compile(r"(licen[sc]e|copying|notice)(\.txt|\.md)?", re.IGNORECASE)
_ONNX = re.compile(r"onnx/model[\w.-]*\.onnx(_data)?", re.ASCII)
_CACHED_FILE = re.compile(
    r"/((models|datasets|spaces)--[^/]+/blobs|blobs/[0-9a-f]{2})/[0-9a-f]{40,64}"
)  # of a Hub cache
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}
# comments and code
_NOT_SHOWN = re.compile(r"<!--.*?-->|^ {0,3}(```|~~~).*?(^ {0,3}\1|\Z)|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_TARGET = r"\s*(?:<([^>\n]+)>|((?:[^()\s]|\([^()\s]*\))+))"  # of a link in Markdown
_ALT_TEXT = r"!\[((?:[^\[\]]|\[[^\[\]]*\])*)\]"
_MARKDOWN_IMAGE = re.compile(rf"{_ALT_TEXT}\({_TARGET}")
_REFERENCE = re.compile(rf"{_ALT_TEXT}(?:\[([^\]]*)\])?")
_DEFINITION = re.compile(rf"^ {{0,3}}\[([^\]]+)\]:{_TARGET}", re.MULTILINE)
_HTML_IMAGE = re.compile(
    r"<(?:img|source)\b[^>]*?\bsrc(?:set)?\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>\"']+))", re.IGNORECASE
)


class UploadFiles(NamedTuple):
    """The files that are uploaded, and what is left out."""

    files: dict[str, Path]  # path in the repo -> file on this disk
    skipped: list[str]  # the folders of which nothing is uploaded, and files


def select_upload_files(folder: Path, include: Sequence[str] = ()) -> UploadFiles:
    """Select a checkpoint's own files: config, weights, model card and its images, ONNX graphs, license.

    A link is followed only if it leads to a regular file in the folder or in the Hub's cache.

    Args:
        folder: The checkpoint folder.
        include: Shell patterns of further files by their relative path, such as `eval/*.json`.

    Raises:
        CheckpointError: A pattern matches no file that can be uploaded, or config or weights are a link that leaves the
            folder.
    """
    entries = [path.name for path in folder.iterdir()] + [f"onnx/{path.name}" for path in folder.glob("onnx/*")]
    names = (
        _OWN_FILES
        | {name for name in entries if _LICENSE.fullmatch(name) or _ONNX.fullmatch(name)}
        | _find_card_images(folder)
    )
    if index := _resolve(folder, INDEX_FILE):
        with suppress(CheckpointError):
            names |= {*read_shard_names(index, entries, folder)}
    for pattern in include:
        paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
        matches = {name for name in paths if _matches(name, pattern) and _resolve(folder, name)}
        if not matches:
            raise CheckpointError(f"{folder} has no file that matches {pattern!r}. Check the pattern of --include.")
        names |= matches
    files = {name: path for name in sorted(names) if (path := _resolve(folder, name))}
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in files and (folder / name).is_symlink():
            raise CheckpointError(f"{name} of {folder} is a link to a file outside the folder. Copy the file there.")
    return UploadFiles(files, _list_skipped(folder, files))


def _list_skipped(folder: Path, files: Collection[str], prefix: str = "") -> list[str]:
    """The names in a folder of which nothing is uploaded; those in its folders of which something is or could be."""
    skipped = []
    for path in sorted(folder.iterdir()):
        name = prefix + path.name
        is_open = name == "onnx" or any(file.startswith(f"{name}/") for file in files)
        if is_open and path.is_dir() and not path.is_symlink():
            skipped += _list_skipped(path, files, f"{name}/")
        elif name not in files:
            skipped.append(name)
    return skipped


def check_uploadable_folder(folder: Path) -> ResNetConfig:
    """Return the config of a checkpoint folder that can be uploaded. Of the weights only the headers are read.

    Raises:
        CheckpointError: The config or the weights are missing or damaged, or do not fit each other.
        ConfigError: The config is not valid.
    """
    config = read_config(folder)
    source = open_source(folder)
    source.require(INDEX_FILE if INDEX_FILE in source.names else WEIGHTS_FILE)
    shapes: dict[str, Sequence[int]] = {}
    unsupported = []
    for name in find_weights_files(source):
        for key, (dtype, shape) in source.read_header(name).items():
            if (our_key := rename_key(key)) in shapes:
                raise CheckpointError(f"The weights of {folder} have {one_line(our_key, 80)} twice. Save them again.")
            shapes[our_key] = shape
            if not dtype.startswith(("F", "BF")) and not our_key.endswith("num_batches_tracked"):
                unsupported.append(our_key)
    check_head(config, shapes, folder)
    if mismatch := describe_shape_mismatch(list_expected_shapes(config), shapes, unsupported):
        raise CheckpointError(
            f"The weights of {folder} do not fit its {CONFIG_FILE}: {mismatch}. Save both from one model."
        )
    return config


def _matches(name: str, pattern: str) -> bool:
    """Whether a path matches a shell pattern, which must name hidden files by their dot."""
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    names_hidden = any(part.startswith(".") for part in pattern.split("/"))
    return fnmatch(name, pattern) and (names_hidden or not is_hidden)


def _resolve(folder: Path, name: str) -> Path | None:
    """The regular file behind a name, if it lies in the folder or in a cache of the Hub."""
    with suppress(OSError, RuntimeError):  # a cycle of links
        path = (folder / name).resolve(strict=True)
        is_ours = path.is_relative_to(folder.resolve()) or _CACHED_FILE.search(path.as_posix())
        if path.is_file() and is_ours:
            return path
    return None


def _find_card_images(folder: Path) -> set[str]:
    """The image files beside the model card, or in folders below, that it shows; none that is hidden."""
    path = _resolve(folder, CARD_FILE)
    if path is None:
        return set()
    card = _NOT_SHOWN.sub("", path.read_bytes().decode(errors="replace"))
    labels = {(match[2] or match[1]).casefold() for match in _REFERENCE.finditer(card)}
    targets = [match[2] or match[3] for match in _MARKDOWN_IMAGE.finditer(card)]
    targets += [match[2] or match[3] for match in _DEFINITION.finditer(card) if match[1].casefold() in labels]
    for match in _HTML_IMAGE.finditer(card):
        candidates = match[1] or match[2] or match[3] or ""
        targets += [unescape(part.split()[0]) for part in candidates.split(",") if part.strip()]  # of a srcset
        targets.append(unescape(candidates))
    names = {PurePosixPath(unquote(re.split("[?#]", target)[0])) for target in targets}
    images = {name for name in names if name.suffix.lower() in _IMAGE_SUFFIXES}
    is_refused = {name for name in images if name.is_absolute() or re.search(r"(^|/)\.|[\\\0]", str(name))}
    return {name.as_posix() for name in images - is_refused}


def check_push_access(repo_id: str, *, private: bool | None = None, token: str | bool | None = None) -> None:
    """Check that a push would be accepted, before starting the work to be pushed. Changes nothing on the Hub.

    Args:
        repo_id: The repo `user/name`, or a name for a repo of the token's user.
        private: Whether the repo must be private if it exists.
        token: A token of the Hub; None for the one that is logged in.

    Raises:
        HubError: The name is invalid, there is no valid token, it has no permission to write to the repo or to create
            it, or the repo is public despite `private`.
    """
    from huggingface_hub import HfApi, errors, get_token

    with hub_errors(repo_id, token=token, writing=True):
        if token is False or not (isinstance(token, str) or get_token()):
            raise errors.LocalTokenNotFoundError
        api = HfApi(token=token, library_name="resnet_hub")
        try:
            if "/" in repo_id:
                retry_call(api.auth_check, repo_id, write=True)
                if private and retry_call(api.model_info, repo_id).private is not True:
                    raise _public_repo_error(repo_id)
                return
        except errors.RepositoryNotFoundError as error:
            if is_token_error(error.response):
                raise
        if "/" not in repo_id:
            owner = check_creation(api, repo_id).partition("/")[0]
            return check_push_access(f"{owner}/{repo_id}", private=private, token=token)
        check_creation(api, repo_id)


def check_creation(api: "HfApi", repo_id: str) -> str:
    """Check that the token may create a repo that does not exist, whatever its type. Call it within `hub_errors`.

    Returns:
        The repo as `user/name`, where `repo_id` may be a name alone.

    Raises:
        HubError: The token can only read, or not create repos of that owner.
    """
    from huggingface_hub import errors

    try:
        # As late as possible: the Hub limits the rate of whoami.
        owners, role = retry_call(_fetch_token_owners, api)
    except errors.HfHubHTTPError as error:
        if error.response.status_code == 429 and "/" in repo_id:
            return repo_id  # the creation of the repo will be refused if the token is wrong
        raise
    if role == "read":
        raise HubError(f"The token of {owners[0]} cannot write to {repo_id}, only read. Use one that can.")
    if "/" not in repo_id:
        return f"{owners[0]}/{repo_id}"
    owner, _, name = repo_id.partition("/")
    if owner.casefold() not in map(str.casefold, owners):
        suggestions = " or ".join(f"{candidate}/{name}" for candidate in owners[:3])
        raise HubError(f"The token cannot create {repo_id}, as it is not {owner}'s. Push to {suggestions}.")
    return repo_id


def _fetch_token_owners(api: "HfApi") -> tuple[list[str], str | None]:
    """The user and organizations that the token can create repos for, the user first, and the token's role."""
    user = api.whoami()
    owners = [user["name"], *(org["name"] for org in user.get("orgs") or () if org.get("roleInOrg") != "read")]
    return owners, ((user.get("auth") or {}).get("accessToken") or {}).get("role")


def _public_repo_error(repo_id: str) -> HubError:
    return HubError(f"{repo_id} exists and is public. Make it private in its settings, or push to another name.")


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    include: Sequence[str] = (),
) -> str:
    """Upload a checkpoint folder to a Hub repo in one commit.

    Only the files of `select_upload_files` are uploaded. Files in the repo that belong to the old weights are deleted.
    A model card that was edited on the Hub keeps its text; only its metadata is updated.

    Args:
        folder: The checkpoint folder.
        repo_id: The repo `user/name`, created if it does not exist.
        private: Whether a new repo is private; an existing public one is then refused.
        token: A token of the Hub; None for the one that is logged in.
        branch: The branch to commit to, created if it does not exist; None for `main`.
        create_pr: Open a pull request instead of committing to the branch.
        message: The commit message.
        include: Shell patterns of further files to upload, by their path in the folder.

    Returns:
        The URL of the commit or of the pull request.

    Raises:
        CheckpointError: The folder is not a checkpoint.
        HubError: The Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors

    folder = Path(folder).expanduser()
    config = check_uploadable_folder(folder)
    files = select_upload_files(folder, include).files
    if not create_pr:
        check_push_access(repo_id, token=token)
    with hub_errors(repo_id, revision=branch, token=token, writing=True):
        api = HfApi(token=token, library_name="resnet_hub")
        repo_id = find_or_create_repo(api, repo_id, private=private)
        if branch and not create_pr:
            retry_call(api.create_branch, repo_id, branch=branch, exist_ok=True)
        info = retry_call(api.model_info, repo_id, revision=branch)
        if private and info.private is not True:
            raise _public_repo_error(repo_id)
        listing = read_listing(repo_id, info)
        additions = {name: CommitOperationAdd(name, path) for name, path in files.items()}
        if CARD_FILE in additions:
            card = _merge_cards(api, folder, repo_id, listing, additions.keys())
            additions[CARD_FILE] = CommitOperationAdd(CARD_FILE, card.encode())
        others = listing.sizes.keys() - additions.keys()
        stale = [name for name in others if name in STALE_FILES or _ONNX.fullmatch(name)]
        upload_large_files(api, repo_id, [*additions.values()], revision=branch, create_pr=create_pr)
        # A repeated commit fails, since its parent has moved; a repeated pull request would be opened twice.
        commit_call = call_once if create_pr else retry_call
        try:
            commit = commit_call(
                partial(api.create_commit, repo_id),
                [*additions.values(), *(CommitOperationDelete(name) for name in stale)],
                commit_message=message or f"Upload {config.architecture} with resnet_hub",
                revision=branch,
                create_pr=create_pr,
                parent_commit=listing.commit,  # a push at the same time is detected, not overwritten
            )
        except errors.HTTPError as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code not in (412, *RETRIED_STATUSES):
                raise
            # If the response to a commit was lost, its retry is refused: the branch has moved.
            if create_pr or not (pushed := _find_pushed_commit(api, repo_id, branch, additions, stale)):
                raise
            return f"{constants.ENDPOINT}/{repo_id}/commit/{pushed}"
    return commit.pr_url or commit.commit_url


def _merge_cards(api: "HfApi", folder: Path, repo_id: str, listing: RepoListing, names: Set[str]) -> str:
    """The folder's card with the repo's name in its code, merged with the card in the repo.

    It keeps the images that are among the `names` to upload, or already in the repo beside the same weights.
    """
    card = set_repo_id((folder / CARD_FILE).read_bytes().decode(errors="replace"), repo_id, onnx=ONNX_FILE in names)
    if CARD_FILE not in listing.sizes:
        return remove_missing_images(card, names)
    file = fetch_files(api, repo_id, [CARD_FILE], listing.commit) / CARD_FILE
    remote = file.read_bytes().decode(errors="replace")
    others = listing.sizes.keys() if has_same_weights(remote, card) else set()
    return update_metadata(remote, remove_missing_images(card, names | others))


def _find_pushed_commit(
    api: "HfApi", repo_id: str, branch: str | None, additions: "dict[str, CommitOperationAdd]", stale: list[str]
) -> str | None:
    """The commit of the branch, if it holds exactly the files of this push."""
    from huggingface_hub import errors

    try:
        info = call_once(api.model_info, repo_id, revision=branch)
        commit = read_listing(repo_id, info).commit
        digests = call_once(fetch_digests, api, repo_id, [*additions, *stale], commit)
    except (errors.HTTPError, HubError):
        return None
    for name, addition in additions.items():
        with addition.as_file() as file:
            if digests.pop(name, None) not in (addition.upload_info.sha256.hex(), git_digest(file.read())):
                return None
    return None if digests else commit
