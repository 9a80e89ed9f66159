"""Retries of calls of huggingface_hub, by plain HTTP too, until the timeout; see `timeouts`.

huggingface_hub does not retry a 503 on most GET requests, sleeps for as long as `Retry-After` says (even an hour), and
retries other responses without end.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from json import JSONDecodeError
from typing import ParamSpec, TypeVar

from resnet_hub.errors import HubError
from resnet_hub.hub_client.errors import RETRIED_STATUSES, XetTransferError, is_short_body, parse_retry_after
from resnet_hub.hub_client.timeouts import NO_XET_TOKEN, import_http_library, request_timeout
from resnet_hub.hub_client.xet import can_watch, is_store_broken, plain_http, report_store, watched_transfers

_UNEXPECTED = (LookupError, TypeError, AttributeError, AssertionError, NameError)  # raised on malformed responses

_retries: ContextVar[bool] = ContextVar("_retries", default=True)  # whether this thread's calls are retried

P = ParamSpec("P")
T = TypeVar("T")


def retry_call(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Call a function of huggingface_hub, and call it again after a temporary failure until the timeout.

    Args:
        call: A function that may be called twice. Threads that it starts, such as parallel uploads, have no timeout.
        args: Its positional arguments.
        options: Its keyword arguments.

    Raises:
        HubError: The response is not one of a Hub.
        Exception: What huggingface_hub raises.
    """
    return _call(partial(call, *args, **options), retry=True)


def call_once(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """As `retry_call`, but without a retry: for callers that have a fallback."""
    return _call(partial(call, *args, **options), retry=False)


def call_within(timeout: float, call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """As `call_once`, with a timeout in seconds instead of `timeouts.SILENCE`."""
    return _call(partial(call, *args, **options), retry=False, timeout=timeout)


@contextmanager
def without_retries() -> Iterator[None]:
    """Make each `retry_call` of this thread a `call_once`."""
    token = _retries.set(False)
    try:
        yield
    finally:
        _retries.reset(token)


def _call(call: Callable[[], T], *, retry: bool, timeout: float | None = None) -> T:
    """Call a function, and again by plain HTTP if the store behind Xet fails."""
    from huggingface_hub import constants, errors

    attempt = partial(_call_with_retries, call, retry=retry and _retries.get(), timeout=timeout)
    if constants.HF_HUB_DISABLE_XET:
        return attempt()
    if is_store_broken() or not can_watch():
        with plain_http():
            return attempt()
    try:
        with watched_transfers():
            return attempt()
    except XetTransferError as error:
        failure = error
    report_store(broken=True)
    try:
        with plain_http():
            return attempt()
    except (errors.HTTPError, RuntimeError, ValueError) as error:
        report_store(broken=False)  # plain HTTP is no better
        cause = error if isinstance(error, errors.HTTPError) else error.__cause__
        response = getattr(cause, "response", None)
        if response is not None and response.status_code in (401, 403, 404, 409, 412, 429):
            raise
        raise failure from None


def _call_with_retries(call: Callable[[], T], *, retry: bool, timeout: float | None) -> T:
    from huggingface_hub import constants, errors

    http = import_http_library()
    with request_timeout(timeout, retry=retry) as clock:
        backoff, was_short = 1.0, False
        while True:
            try:
                return call()
            except (JSONDecodeError, RecursionError, *_UNEXPECTED, http.InvalidURL):
                raise HubError(
                    f"The server at {constants.ENDPOINT} does not respond like a Hugging Face Hub. Check HF_ENDPOINT, "
                    "the connection and its proxy."
                ) from None
            except errors.HTTPError as error:
                if clock.awaits_token:
                    raise XetTransferError(NO_XET_TOKEN) from None
                if not isinstance(error, errors.HfHubHTTPError | http.RemoteProtocolError | http.ReadError):
                    raise
                response = getattr(error, "response", None)
                retry_after = parse_retry_after(response.headers) if response is not None else None
                delay = backoff if retry_after is None else retry_after
                is_temporary = response is None or response.status_code in RETRIED_STATUSES
                clock.failure = error if response is None else response
                if not retry or not is_temporary or delay >= clock.seconds_left:
                    raise
            except OSError as error:  # a body that is shorter than the Hub lists is fetched once more
                if was_short or not is_short_body(error):
                    raise
                was_short, delay = True, backoff
            time.sleep(delay)
            backoff *= 2
