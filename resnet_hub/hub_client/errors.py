"""What errors of the Hub mean: which may pass, and when; `HubError` with one readable message for each."""

import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from resnet_hub.errors import HubError, disk_is_full, first_line, one_line

RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)  # may succeed when retried
_MAX_RETRY_AFTER = 1e6  # seconds, about eleven days


class XetTransferError(RuntimeError):
    """A transfer by Xet failed, or its store does not respond."""


@contextmanager
def hub_errors(
    repo_id: str, *, revision: str | None = None, token: str | bool | None = None, writing: bool = False
) -> Iterator[None]:
    """Raise `HubError` for any error of huggingface_hub about the repo, and for an invalid name or token."""
    from huggingface_hub.utils import validate_repo_id

    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        raise HubError("The token contains characters that no token has. Copy it again, without blanks around it.")
    with translate_errors(repo_id, revision, writing=writing):
        validate_repo_id(repo_id)
        yield


def check_repo_id(repo_id: str) -> None:
    """Raise `HubError` unless a text has the form of a repo's name. Sends no request."""
    from huggingface_hub.utils import validate_repo_id

    with translate_errors(repo_id, None, writing=True):
        validate_repo_id(repo_id)


@contextmanager
def translate_errors(
    subject: str, revision: str | None = None, *, writing: bool = False, action: str = ""
) -> Iterator[None]:
    """Raise `HubError` for any error of huggingface_hub.

    Args:
        subject: The repo id, or what was requested, such as "The job 12".
        revision: Branch, tag or commit of a repo.
        writing: Whether the request changes a repo.
        action: What cannot be done with a subject that is no repo, such as "canceled".
    """
    from huggingface_hub import errors

    try:
        yield
    except (
        errors.HTTPError,  # responses with an error, and all connection failures
        errors.XetDownloadError,
        RuntimeError,  # a failed upload
        ValueError,  # an invalid repo id, or metadata that the Hub does not accept
        OSError,  # no token, offline mode, a file that is not in the cache, a full disk
    ) as error:
        raise HubError(error_message(error, subject, revision, writing, action=action)) from None


def error_message(
    error: Exception, subject: str, revision: str | None, writing: bool, *, action: str = "", kind: str = "model"
) -> str:
    """The message for an error of huggingface_hub: subject, cause, what to do. `kind` of repo: "model" or "dataset"."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error.__cause__, errors.HTTPError) and not isinstance(error, errors.HTTPError):
        error = error.__cause__  # why the cache lacks a file, or why an upload failed
    failure = f"{subject} cannot be {action or ('pushed' if writing else 'fetched')}"
    page = f"{hub}/{subject}" if kind == "model" else f"{hub}/datasets/{subject}"
    match error:
        case errors.LocalEntryNotFoundError():
            return f"{subject} is not in the cache, and downloads are switched off. Go online once, or name a folder."
        case errors.HFValidationError():
            return f"{subject!r} is neither a folder nor the name of a model on the Hub. Write it as user/name."
        case errors.GatedRepoError():
            return f"{subject} is gated. Request access at {page}, then use a token of that account."
        case errors.RepositoryNotFoundError() if not is_token_error(error.response):
            return (
                f"There is no folder and no {kind} on the Hub named {subject}, or it is private. Check the name, or "
                "log in with `hf auth login`."
            )
        case errors.RevisionNotFoundError():
            return f"{subject} has no branch, tag or commit {revision or 'main'}. See {page}/commits."
        case errors.DisabledRepoError():
            return f"The Hub has disabled {subject}. Choose another {kind}."
        case errors.LocalTokenNotFoundError():
            return "There is no token on this computer. Log in with `hf auth login`."
        case errors.OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set. Unset it to reach the Hub."
        case errors.HfHubHTTPError():
            return _explain_status(error, subject, failure, writing, action)
        case errors.HTTPError():
            name = type(error).__name__
            reason = str(error) if type(error) is errors.HTTPError else name
            if name in ("RemoteProtocolError", "ReadError"):
                reason = "the connection broke off"
            return f"{failure}: the Hub at {hub} cannot be reached ({reason}). Check the connection and try again."
    if isinstance(error, XetTransferError):
        return f"{failure}: its store fails ({error}), by plain HTTP too. Try again in some minutes."
    if isinstance(error, OSError) and is_short_body(error):
        return f"{failure}: a file arrived incomplete twice. Check the connection and its proxy, or try again later."
    if disk_is_full(error):
        return f"{failure}: the disk of the Hub's cache ({constants.HF_HUB_CACHE}) is full. Make room and try again."
    return f"{failure}: {first_line(error)}."


def is_token_error(response: Any) -> bool:
    """Whether the token is expired or deleted; huggingface_hub raises `RepositoryNotFoundError` for that too."""
    return response.status_code == 401 and "token" in response.headers.get("X-Error-Message", "").lower()


def is_short_body(error: OSError) -> bool:
    """Whether huggingface_hub received a file shorter or longer than the Hub lists it."""
    return str(error).startswith("Consistency check failed")


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """The delay in seconds that a response asks for, by any of the headers for that."""
    from email.utils import parsedate_to_datetime

    from huggingface_hub.utils import parse_ratelimit_headers

    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), _MAX_RETRY_AFTER)
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - time.time()), _MAX_RETRY_AFTER)
    except (ValueError, OverflowError):
        limit = parse_ratelimit_headers(headers)
        return min(float(limit.reset_in_seconds), _MAX_RETRY_AFTER) if limit and not limit.remaining else None


def _explain_status(error: Any, subject: str, failure: str, writing: bool, action: str) -> str:
    """The message for a response with an error status."""
    status = error.response.status_code
    match status:
        case 401:
            detail = f" ({one_line(error.server_message)})" if is_token_error(error.response) else ""
            return f"{failure}: the Hub does not accept the token{detail}. Log in with `hf auth login`."
        case 403 | 404 if action:  # the Hub hides what a token has no access to
            return f"{failure}: it does not exist, or not for this token ({status}). Use a token of its owner."
        case 403 if writing:
            return (
                f"The token cannot write to {subject}. Use one that can, or open a pull request (--create-pr, in "
                "Python create_pr=True)."
            )
        case 403:
            return f"The token cannot read {subject}. Use one with that permission."
        case 409 | 412:
            return f"{subject} was changed by someone else at the same time. Look at the change, then push again."
        case 429:
            delay = _format_delay(parse_retry_after(error.response.headers))
            return f"{failure}: the Hub limits the rate of requests. Try again in {delay}."
        case _ if status >= 500:
            return f"{failure}: the Hub has a server error ({status}). Try again in some minutes."
    reason = error.server_message or re.split(" for url|: http", first_line(error))[0]  # without the address
    return f"{failure}: the Hub refuses it ({status}: {one_line(reason, 160)}). Update resnet_hub, or try again later."


def _format_delay(seconds: float | None) -> str:
    if seconds is None:
        return "some minutes"
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds > 2 * length:
            return f"{math.ceil(seconds / length)} {unit}"
    return f"{math.ceil(seconds)} seconds"
