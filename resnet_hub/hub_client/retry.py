"""Retries and timeouts for calls of huggingface_hub; `timeouts` says how long each wait is.

huggingface_hub does not retry a 503 on most GET requests, sleeps for as long as `Retry-After` says (even an hour), and
retries other responses without end. Hooks on its HTTP client measure the progress of each call made through this
module; other requests of the process pass through them unchanged, and are counted by `count_progress`. Transfers by Xet
are watched by `xet`.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from json import JSONDecodeError
from typing import Any, ParamSpec, TypeVar

from resnet_hub.errors import HubError
from resnet_hub.hub_client import timeouts
from resnet_hub.hub_client.unsent import read_unsent_bytes
from resnet_hub.hub_client.xet import (
    TOKEN_ROUTE,
    XetTransferError,
    is_store_broken,
    plain_http,
    report_store,
    watched_transfers,
)

RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)  # may succeed when retried

_NO_TOKEN = "the Hub gives no access to it"
_MAX_RETRY_AFTER = 1e6  # seconds, about eleven days
_UNEXPECTED = (LookupError, TypeError, AttributeError, AssertionError, NameError)  # raised on malformed responses

_POLL_SECONDS = 0.1

P = ParamSpec("P")
T = TypeVar("T")


class _Clock:
    """When a call last made progress; the time that sending takes is not counted."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.last_progress = time.monotonic()
        self.failure: Any = None  # exception or response since the last progress
        self.awaits_token = False  # of Xet
        self.furthest_byte: dict[str, int] = {}  # of each response body, by its path: a byte read twice is no progress

    @property
    def seconds_left(self) -> float:
        return self.last_progress + self.timeout - time.monotonic()

    def raise_if_expired(self) -> None:
        if self.seconds_left <= 0:
            if hasattr(self.failure, "status_code"):
                _raise_for_status(self.failure)
            # The base class: huggingface_hub retries only subclasses of it.
            raise _import_http_library().HTTPError(f"no answer for {self.timeout:.0f} seconds")


_current_clock: ContextVar[_Clock | None] = ContextVar("_current_clock", default=None)  # of this thread's call


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


def _call(call: Callable[[], T], *, retry: bool, timeout: float | None = None) -> T:
    """Call a function, and again by plain HTTP if the store behind Xet fails."""
    from huggingface_hub import constants, errors

    attempt = partial(_call_with_retries, call, retry=retry, timeout=timeout)
    if constants.HF_HUB_DISABLE_XET:
        return attempt()
    if is_store_broken():
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

    http = _import_http_library()
    with request_timeout(timeout) as clock:
        backoff, was_short = 1.0, False
        while True:
            try:
                return call()
            except (JSONDecodeError, RecursionError, *_UNEXPECTED, http.InvalidURL):
                raise HubError(
                    f"The server at {constants.ENDPOINT} is no Hub. Check HF_ENDPOINT, the connection and its proxy."
                ) from None
            except errors.HTTPError as error:
                if clock.awaits_token:
                    raise XetTransferError(_NO_TOKEN) from None
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


class _QuietDuringCalls(logging.Filter):
    """Drops the lines that huggingface_hub logs about its retries within a call of this module."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _current_clock.get() is None


logging.getLogger("huggingface_hub.utils._http").addFilter(_QuietDuringCalls())


@contextmanager
def request_timeout(timeout: float | None = None) -> Iterator[_Clock]:
    """Limit how long requests of this thread to the Hub wait without progress, in place of `timeouts.SILENCE`."""
    _install_hooks()
    clock = _Clock(timeout or timeouts.SILENCE)
    token = _current_clock.set(clock)
    try:
        yield clock
    finally:
        _current_clock.reset(token)


def _install_hooks() -> None:
    from huggingface_hub import get_session

    client = get_session()
    hooks = client.event_hooks
    if _before_request not in hooks["request"]:
        client.event_hooks = {
            "request": [*hooks["request"], _before_request],
            "response": [*hooks["response"], _after_response],
        }


_progress = 0  # of all threads


def count_progress() -> int:
    """Return a number that grows while responses of the Hub arrive, in whichever thread, however slowly.

    For callers that wait for requests which they do not make themselves, as those of `datasets`.
    """
    _install_hooks()  # huggingface_hub replaces its client after a failed connection
    return _progress


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


def _before_request(request: Any) -> None:
    if (clock := _current_clock.get()) is None:
        return
    clock.raise_if_expired()
    limit = clock.seconds_left
    if _needs_token(request):
        if clock.awaits_token:  # huggingface_hub repeats the request
            raise XetTransferError(_NO_TOKEN)
        clock.awaits_token, limit = True, min(limit, timeouts.XET_SILENCE)
    limits = request.extensions.get("timeout") or {}
    request.extensions["timeout"] = {
        phase: min(limits.get(phase) or clock.timeout, limit) for phase in ("connect", "read", "write", "pool")
    }
    request.stream = _measured_stream()(request.stream, clock)


def _after_response(response: Any) -> None:
    if response.status_code not in RETRIED_STATUSES:
        response.stream = _counted_stream()(response.stream)
    if (clock := _current_clock.get()) is None:
        return
    if _needs_token(response.request):
        if response.status_code != 200 or "X-Xet-Access-Token" not in response.headers:
            raise XetTransferError(_NO_TOKEN)
        clock.awaits_token = False
    if response.status_code in RETRIED_STATUSES:
        clock.failure = response
        retry_after = parse_retry_after(response.headers)
        if (timeouts.MAX_BACKOFF if retry_after is None else retry_after + 1) >= clock.seconds_left:
            _raise_for_status(response)
    else:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        response.stream = _measured_stream()(response.stream, clock, response.url.path, int(start[1]) if start else 0)


def _needs_token(request: Any) -> bool:
    """Whether a request is for a token of the store behind Xet."""
    return re.search(TOKEN_ROUTE, request.url.path) is not None


def _raise_for_status(response: Any) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    if not response.is_closed:
        response.read()
    hf_raise_for_status(response)


def _import_http_library() -> Any:
    """The HTTP library of the installed huggingface_hub: httpx, or httpx2 from 2.4 on."""
    from huggingface_hub import errors

    return import_module(errors.HTTPError.__module__.partition(".")[0])


def _await_receipt(clock: _Clock) -> None:
    """Wait while the body of a request leaves the send buffer, as long as it moves; that stops the clock too."""
    start = moved_at = time.monotonic()
    unsent = sent = read_unsent_bytes()
    while sent and sent.keys() <= unsent.keys():  # until one connection has nothing left to send
        if time.monotonic() - moved_at > clock.timeout:
            raise _import_http_library().HTTPError(f"no byte moved for {clock.timeout:.0f} seconds")
        time.sleep(_POLL_SECONDS)
        if (current := read_unsent_bytes()) != unsent:
            unsent, moved_at = current, time.monotonic()
    clock.last_progress += time.monotonic() - start


@cache
def _measured_stream() -> Any:
    class MeasuredStream(_import_http_library().SyncByteStream):  # type: ignore[misc]
        """The body of a request (without `path`) or of a response, whose bytes move the clock."""

        def __init__(self, stream: Any, clock: _Clock, path: str | None = None, start: int = 0):
            self.stream, self.clock, self.path, self.start = stream, clock, path, start

        def __iter__(self) -> Iterator[bytes]:
            clock, position, sent_at = self.clock, self.start, time.monotonic()
            reached = self.start if self.path is None else clock.furthest_byte.setdefault(self.path, self.start)
            for chunk in self._split_stream():
                position += len(chunk)
                if position >= reached + timeouts.MIN_PROGRESS:
                    now, reached = time.monotonic(), position
                    if self.path is None:  # sending stops the clock: only a response is progress
                        clock.last_progress, sent_at = clock.last_progress + now - sent_at, now
                    else:
                        clock.last_progress, clock.failure, clock.furthest_byte[self.path] = now, None, position
                clock.raise_if_expired()
                yield chunk
            if self.path is None and position >= timeouts.MIN_PROGRESS:
                _await_receipt(clock)
            if self.path is not None and clock.failure is None:
                clock.last_progress = time.monotonic()

        def _split_stream(self) -> Iterator[bytes]:
            for chunk in self.stream:  # of a commit: its whole body
                for start in range(0, len(chunk), timeouts.MIN_PROGRESS):
                    yield chunk[start : start + timeouts.MIN_PROGRESS]

        def close(self) -> None:
            if close := getattr(self.stream, "close", None):
                close()

    return MeasuredStream


@cache
def _counted_stream() -> Any:
    class CountedStream(_import_http_library().SyncByteStream):  # type: ignore[misc]
        """The body of a response: each `timeouts.MIN_PROGRESS` bytes of it are progress, and its end."""

        def __init__(self, stream: Any):
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            global _progress
            size = 0
            for chunk in self.stream:
                size += len(chunk)
                if size >= timeouts.MIN_PROGRESS:
                    _progress, size = _progress + 1, 0
                yield chunk
            _progress += 1

        def close(self) -> None:
            if close := getattr(self.stream, "close", None):
                close()

    return CountedStream
