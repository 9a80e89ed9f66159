"""Uploads checkpoint folders to the Hub, in one commit."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.checkpoints.folder import CARD_FILE, ONNX_FILE, STALE_FILES, WEIGHTS_FILE
from resnet_hub.checkpoints.load import read_config, require_file
from resnet_hub.checkpoints.source import REQUEST_TIMEOUT, fetch_files
from resnet_hub.errors import (
    HubError,
)
from resnet_hub.hub_client.errors import _is_of_token, hub_errors
from resnet_hub.hub_client.listing import fetch_digests, git_digest, read_listing
from resnet_hub.hub_client.retry import RETRIED_STATUSES, call_once, retry_call

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


def check_push_access(repo_id: str, *, private: bool | None = None, token: str | bool | None = None) -> None:
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
                retry_call(api.auth_check, repo_id, write=True)
                if private and retry_call(api.model_info, repo_id, timeout=REQUEST_TIMEOUT).private is not True:
                    raise HubError(_exposed(repo_id))
                return
        except errors.RepositoryNotFoundError as error:
            if _is_of_token(error.response):
                raise
        try:
            owners, role = retry_call(_account, api)  # only now: the Hub limits how often it is asked that
        except errors.HfHubHTTPError as error:
            if error.response.status_code == 429 and "/" in repo_id:
                return  # whoever makes the repo is told
            raise
        if role == "read":
            raise HubError(f"The token of {owners[0]} may not write to {repo_id}, only read; use one that may.")
        if "/" not in repo_id:
            return check_push_access(f"{owners[0]}/{repo_id}", private=private, token=token)
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

    from resnet_hub.checkpoints.model_card import set_repo_id, update_metadata

    folder = Path(folder).expanduser()
    config = read_config(folder)
    require_file(folder, WEIGHTS_FILE, folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {name: path for name, path in files.items() if not any(part.startswith(".") for part in name.split("/"))}

    if not create_pr:
        check_push_access(repo_id, token=token)
    with hub_errors(repo_id, revision=branch, token=token, writing=True):
        api = HfApi(token=token, library_name="resnet_hub")
        repo_id = retry_call(
            api.create_repo, repo_id, private=private, exist_ok=True
        ).repo_id  # the user's name before it
        if branch and not create_pr:
            retry_call(api.create_branch, repo_id, branch=branch, exist_ok=True)
        head = retry_call(api.model_info, repo_id, revision=branch, timeout=REQUEST_TIMEOUT)
        listed = read_listing(repo_id, head)
        if private and head.private is not True:
            raise HubError(_exposed(repo_id))
        additions = {name: CommitOperationAdd(name, path) for name, path in files.items() if name != CARD_FILE}
        if CARD_FILE in files:
            card = set_repo_id(files[CARD_FILE].read_bytes().decode(errors="replace"), repo_id, onnx=ONNX_FILE in files)
            if CARD_FILE in listed.sizes:
                old = fetch_files(repo_id, [CARD_FILE], listed.commit, token=token) / CARD_FILE
                card = update_metadata(old.read_bytes().decode(errors="replace"), card)
            additions[CARD_FILE] = CommitOperationAdd(CARD_FILE, card.encode())
        stale = [name for name in listed.sizes.keys() - additions.keys() if name.split("/")[0] in STALE_FILES]
        for addition in additions.values():  # one at a time, in this thread: see `ask`
            retry_call(
                api.preupload_lfs_files, repo_id, [addition], revision=branch, create_pr=create_pr, free_memory=False
            )
        try:
            commit = (
                call_once if create_pr else retry_call
            )(  # which the parent makes safe; a second proposal is one more
                partial(api.create_commit, repo_id),
                [*additions.values(), *(CommitOperationDelete(name) for name in stale)],
                commit_message=message or f"Upload {config.architecture} with resnet_hub",
                revision=branch,
                create_pr=create_pr,
                parent_commit=listed.commit,  # whoever pushes at the same time is noticed, not overwritten
            )
        except errors.HTTPError as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code not in (412, *RETRIED_STATUSES):
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
        commit = read_listing(
            repo_id, call_once(api.model_info, repo_id, revision=branch, timeout=REQUEST_TIMEOUT)
        ).commit
        digests = call_once(fetch_digests, api, repo_id, [*additions, *stale], commit)
    except (errors.HTTPError, HubError):
        return None
    for name, addition in additions.items():
        with addition.as_file() as file:
            if digests.pop(name, None) not in (addition.upload_info.sha256.hex(), git_digest(file.read())):
                return None
    return None if digests else commit
