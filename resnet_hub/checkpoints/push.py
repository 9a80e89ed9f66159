"""Upload checkpoint folders to the Hub, in one commit."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.checkpoints.files import REQUEST_TIMEOUT, fetch_files, open_source
from resnet_hub.checkpoints.folder import CARD_FILE, ONNX_FILE, STALE_FILES, WEIGHTS_FILE
from resnet_hub.checkpoints.load import read_config
from resnet_hub.checkpoints.model_card import set_repo_id, update_metadata
from resnet_hub.checkpoints.upload_files import select_upload_files
from resnet_hub.errors import HubError
from resnet_hub.hub_client.errors import hub_errors, is_token_error
from resnet_hub.hub_client.listing import RepoListing, fetch_digests, git_digest, read_listing
from resnet_hub.hub_client.retry import RETRIED_STATUSES, call_once, retry_call

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


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
                if private and retry_call(api.model_info, repo_id, timeout=REQUEST_TIMEOUT).private is not True:
                    raise _public_repo_error(repo_id)
                return
        except errors.RepositoryNotFoundError as error:
            if is_token_error(error.response):
                raise
        try:
            owners, role = retry_call(
                _fetch_token_owners, api
            )  # as late as possible: the Hub limits the rate of whoami
        except errors.HfHubHTTPError as error:
            if error.response.status_code == 429 and "/" in repo_id:
                return  # the creation of the repo will be refused if the token is wrong
            raise
        if role == "read":
            raise HubError(f"The token of {owners[0]} cannot write to {repo_id}, only read. Use one that can.")
        if "/" not in repo_id:
            return check_push_access(f"{owners[0]}/{repo_id}", private=private, token=token)
        owner, _, name = repo_id.partition("/")
        if owner.casefold() not in map(str.casefold, owners):
            suggestions = " or ".join(f"{candidate}/{name}" for candidate in owners[:3])
            raise HubError(f"The token cannot create {repo_id}, as it is not {owner}'s. Push to {suggestions}.")


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
    config = read_config(folder)
    open_source(folder).require(WEIGHTS_FILE)
    files = select_upload_files(folder, include).files
    if not create_pr:
        check_push_access(repo_id, token=token)
    with hub_errors(repo_id, revision=branch, token=token, writing=True):
        api = HfApi(token=token, library_name="resnet_hub")
        repo_id = retry_call(api.create_repo, repo_id, private=private, exist_ok=True).repo_id  # with the user's name
        if branch and not create_pr:
            retry_call(api.create_branch, repo_id, branch=branch, exist_ok=True)
        info = retry_call(api.model_info, repo_id, revision=branch, timeout=REQUEST_TIMEOUT)
        if private and info.private is not True:
            raise _public_repo_error(repo_id)
        listing = read_listing(repo_id, info)
        additions = {name: CommitOperationAdd(name, path) for name, path in files.items()}
        if CARD_FILE in additions:
            card = _merge_cards(api, folder, repo_id, listing, onnx=ONNX_FILE in additions)
            additions[CARD_FILE] = CommitOperationAdd(CARD_FILE, card.encode())
        stale = [name for name in listing.sizes.keys() - additions.keys() if name.split("/")[0] in STALE_FILES]
        for addition in additions.values():  # one by one, since `retry_call` has no timeout for parallel uploads
            retry_call(
                api.preupload_lfs_files, repo_id, [addition], revision=branch, create_pr=create_pr, free_memory=False
            )
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


def _merge_cards(api: "HfApi", folder: Path, repo_id: str, listing: RepoListing, *, onnx: bool) -> str:
    """The folder's card with the repo's name in its code, merged with the card in the repo."""
    card = set_repo_id((folder / CARD_FILE).read_bytes().decode(errors="replace"), repo_id, onnx=onnx)
    if CARD_FILE not in listing.sizes:
        return card
    remote = fetch_files(api, repo_id, [CARD_FILE], listing.commit) / CARD_FILE
    return update_metadata(remote.read_bytes().decode(errors="replace"), card)


def _find_pushed_commit(
    api: "HfApi", repo_id: str, branch: str | None, additions: "dict[str, CommitOperationAdd]", stale: list[str]
) -> str | None:
    """The commit of the branch, if it holds exactly the files of this push."""
    from huggingface_hub import errors

    try:
        info = call_once(api.model_info, repo_id, revision=branch, timeout=REQUEST_TIMEOUT)
        commit = read_listing(repo_id, info).commit
        digests = call_once(fetch_digests, api, repo_id, [*additions, *stale], commit)
    except (errors.HTTPError, HubError):
        return None
    for name, addition in additions.items():
        with addition.as_file() as file:
            if digests.pop(name, None) not in (addition.upload_info.sha256.hex(), git_digest(file.read())):
                return None
    return None if digests else commit
