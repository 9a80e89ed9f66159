"""Find or create a repo on the Hub, and upload many files with few requests."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resnet_hub.hub_client.errors import is_token_error
from resnet_hub.hub_client.hub_compat import fetch_upload_modes, is_xet_available
from resnet_hub.hub_client.listing import malformed_response_error
from resnet_hub.hub_client.retry import retry_call

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi


def find_or_create_repo(
    api: "HfApi", repo_id: str, *, repo_type: str = "model", private: bool | None = None, may_create: bool = True
) -> str:
    """Return the present name of a repo, with its owner, and create it if the Hub has none of that name.

    The Hub redirects requests about a renamed repo, but it would create a second, empty repo under the old name.

    Args:
        api: The client, with its token.
        repo_id: The repo `user/name`, or a name for a repo of the token's user.
        repo_type: "model", "dataset" or "space".
        private: Whether a new repo is private.
        may_create: Whether a missing repo is created, or `RepositoryNotFoundError` raised.
    """
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    if "/" not in repo_id:
        repo_id = f"{retry_call(api.whoami)['name']}/{repo_id}"
    try:
        name = retry_call(api.repo_info, repo_id, repo_type=repo_type).id
    except errors.RepositoryNotFoundError as error:
        if is_token_error(error.response) or not may_create:
            raise
        return retry_call(api.create_repo, repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
    try:
        validate_repo_id(name)
    except errors.HFValidationError:
        raise malformed_response_error(repo_id, f"its name {name!r}") from None
    return name


def upload_large_files(
    api: "HfApi",
    repo_id: str,
    additions: "Sequence[CommitOperationAdd]",
    *,
    repo_type: str = "model",
    revision: str | None = None,
    create_pr: bool = False,
) -> None:
    """Upload those files that the Hub stores outside of git; the commit that follows carries the content of the others.

    One request asks about all files. Large files go together by Xet; by plain HTTP one after the other, since threads
    of huggingface_hub would have no timeouts. A repeated call continues with those that are missing.
    """
    from huggingface_hub import constants

    branch = revision or constants.DEFAULT_REVISION
    large = retry_call(fetch_upload_modes, api, repo_id, additions, repo_type, branch, create_pr)

    def upload() -> None:
        for batch in [large] if is_xet_available() else [[addition] for addition in large]:
            api.preupload_lfs_files(
                repo_id, batch, repo_type=repo_type, revision=revision, create_pr=create_pr, free_memory=False
            )

    if large:
        retry_call(upload)
