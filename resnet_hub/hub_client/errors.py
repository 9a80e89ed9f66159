"""Turns whatever huggingface_hub raises into a `HubError` of one sentence."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from resnet_hub.errors import (
    HubError,
    disk_is_full,
    one_line,
)
from resnet_hub.hub_client.retry import parse_retry_after

if TYPE_CHECKING:
    pass


@contextmanager
def hub_errors(
    repo_id: str, *, revision: str | None = None, token: str | bool | None = None, writing: bool = False
) -> Iterator[None]:
    """Turn whatever huggingface_hub raises about the model `repo_id` into a `HubError` of one sentence."""
    from huggingface_hub.utils import validate_repo_id

    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        raise HubError("The token holds characters that no token has; copy it again, without blanks around it.")
    with translate_errors(repo_id, revision, writing=writing):
        validate_repo_id(repo_id)
        yield


@contextmanager
def translate_errors(about: str, revision: str | None, *, writing: bool) -> Iterator[None]:
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
        raise HubError(error_message(error, about, revision, writing)) from None


def error_message(error: Exception, about: str, revision: str | None, writing: bool) -> str:
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
    return f"{failed}: {first_line(error)}."


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
            wait = parse_retry_after(error.response.headers)
            return f"{failed}: the Hub limits how often it is asked; try again in {_time(wait)}."
        case _ if status >= 500:
            return f"{failed}: the Hub has a problem of its own ({status}); try again in some minutes."
    return f"The Hub refused {about} ({status}): {one_line(error.server_message or first_line(error))}."


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "some minutes"
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds > 2 * length:
            return f"{math.ceil(seconds / length)} {unit}"
    return f"{math.ceil(seconds)} seconds"


def first_line(error: object) -> str:
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
