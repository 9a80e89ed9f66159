"""How long to wait for the Hub, in seconds: the one table of waits, and the clock that ends a silent request.

| wait | limit | then |
|---|---|---|
| a model, dataset, search or upload of which no byte moves | `SILENCE` | the cached copy, or an error |
| an upload or download by Xet of which no byte moves | `XET_SILENCE` | the same by plain HTTP, within `SILENCE` |
| a dataset that is read as a stream, of which nothing arrives | `STREAM_SILENCE` | an error; the run can be resumed |
| the question whether the Hub has the default model | `DEFAULT_MODEL_SECONDS` | the included model |
| suggestions while a visitor of the page types | `SUGGESTIONS` | no suggestions |

So a broken store behind Xet costs less than 30 seconds in all. What moves is never ended, however slow it is. Other
modules read a limit when they begin to wait: `timeouts.SILENCE`.

Hooks on the HTTP client of huggingface_hub measure the progress of requests within `request_timeout`. Other requests of
the process pass through them unchanged, and are counted by `count_progress`. `xet` watches transfers by Xet.
"""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any

from resnet_hub.hub_client.errors import RETRIED_STATUSES, XetTransferError, parse_retry_after
from resnet_hub.hub_client.hub_compat import DOWNLOAD_LOGGER, HTTP_LOGGER
from resnet_hub.hub_client.send_buffer import read_unsent_bytes

SILENCE = 15.0
XET_SILENCE = 8.0
STREAM_SILENCE = 600.0  # long: the Hub may ask for a pause of 300 s, and a run of days should outlast a short outage
DEFAULT_MODEL_SECONDS = 5.0
SUGGESTIONS = 3.0

MIN_PROGRESS = 2**16  # bytes; a body that grows by fewer within `SILENCE` counts as silent
MAX_BACKOFF = 8.0  # between two requests where the response names no delay; of huggingface_hub

NO_XET_TOKEN = "the Hub gives no access to it"
_TOKEN_ROUTE = r"/xet-(read|write)-token/"  # a pattern of the paths at the Hub that give access to the store behind Xet
_POLL_SECONDS = 0.1


class Clock:
    """When a call last made progress; the time that sending takes is not counted."""

    def __init__(self, timeout: float, *, retry: bool = True) -> None:
        self.timeout = timeout
        self.retry = retry  # whether huggingface_hub may repeat requests
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
            has_broken_off = isinstance(self.failure, _broken_off_errors())
            reason = "the connection broke off" if has_broken_off else f"no response for {self.timeout:.0f} seconds"
            raise import_http_library().HTTPError(reason)


_current_clock: ContextVar[Clock | None] = ContextVar("_current_clock", default=None)  # of this thread's call


class _QuietDuringCalls(logging.Filter):
    """Drops the lines that huggingface_hub logs about its retries within `request_timeout`."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_of_retry = record.name == HTTP_LOGGER or str(record.msg).startswith("Error while downloading")
        return _current_clock.get() is None or not is_of_retry


for _logger in (HTTP_LOGGER, DOWNLOAD_LOGGER):
    logging.getLogger(_logger).addFilter(_QuietDuringCalls())


@contextmanager
def request_timeout(timeout: float | None = None, *, retry: bool = True) -> Iterator[Clock]:
    """Limit how long requests of this thread to the Hub wait without progress, in place of `SILENCE`.

    Without `retry`, a response that huggingface_hub would ask for again raises its error.
    """
    _install_hooks()
    clock = Clock(timeout or SILENCE, retry=retry)
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


def _before_request(request: Any) -> None:
    if (clock := _current_clock.get()) is None:
        return
    clock.raise_if_expired()
    limit = clock.seconds_left
    if _needs_token(request):
        if clock.awaits_token:  # huggingface_hub repeats the request
            raise XetTransferError(NO_XET_TOKEN)
        clock.awaits_token, limit = True, min(limit, XET_SILENCE)
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
            raise XetTransferError(NO_XET_TOKEN)
        clock.awaits_token = False
    if response.status_code in RETRIED_STATUSES:
        clock.failure = response
        retry_after = parse_retry_after(response.headers)
        if not clock.retry or (MAX_BACKOFF if retry_after is None else retry_after + 1) >= clock.seconds_left:
            _raise_for_status(response)
    else:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        response.stream = _measured_stream()(response.stream, clock, response.url.path, int(start[1]) if start else 0)


def _needs_token(request: Any) -> bool:
    """Whether a request is for a token of the store behind Xet."""
    return re.search(_TOKEN_ROUTE, request.url.path) is not None


def _raise_for_status(response: Any) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    if not response.is_closed:
        response.read()
    hf_raise_for_status(response)


def import_http_library() -> Any:
    """The HTTP library of the installed huggingface_hub: httpx, or httpx2 from 2.4 on."""
    from huggingface_hub import errors

    return import_module(errors.HTTPError.__module__.partition(".")[0])


def _broken_off_errors() -> tuple[type[Exception], ...]:
    """The errors of the HTTP library for a connection that ends before the response does."""
    http = import_http_library()
    return http.RemoteProtocolError, http.ReadError


def _await_receipt(clock: Clock) -> None:
    """Wait while the body of a request leaves the send buffer, as long as it moves; that stops the clock too."""
    start = moved_at = time.monotonic()
    unsent = sent = read_unsent_bytes()
    while sent and sent.keys() <= unsent.keys():  # until one connection has nothing left to send
        if time.monotonic() - moved_at > clock.timeout:
            raise import_http_library().HTTPError(f"no byte moved for {clock.timeout:.0f} seconds")
        time.sleep(_POLL_SECONDS)
        if (current := read_unsent_bytes()) != unsent:
            unsent, moved_at = current, time.monotonic()
    clock.last_progress += time.monotonic() - start


@cache
def _measured_stream() -> Any:
    class MeasuredStream(import_http_library().SyncByteStream):  # type: ignore[misc]
        """The body of a request (without `path`) or of a response, whose bytes move the clock."""

        def __init__(self, stream: Any, clock: Clock, path: str | None = None, start: int = 0):
            self.stream, self.clock, self.path, self.start = stream, clock, path, start

        def __iter__(self) -> Iterator[bytes]:
            clock, position, sent_at = self.clock, self.start, time.monotonic()
            reached = self.start if self.path is None else clock.furthest_byte.setdefault(self.path, self.start)
            for chunk in self._split_stream():
                position += len(chunk)
                if position >= reached + MIN_PROGRESS:
                    now, reached = time.monotonic(), position
                    if self.path is None:  # sending stops the clock: only a response is progress
                        clock.last_progress, sent_at = clock.last_progress + now - sent_at, now
                    else:
                        clock.last_progress, clock.failure, clock.furthest_byte[self.path] = now, None, position
                clock.raise_if_expired()
                yield chunk
            if self.path is None and position >= MIN_PROGRESS:
                _await_receipt(clock)
            if self.path is not None and clock.failure is None:
                clock.last_progress = time.monotonic()

        def _split_stream(self) -> Iterator[bytes]:
            try:
                for chunk in self.stream:  # of a commit: its whole body
                    for start in range(0, len(chunk), MIN_PROGRESS):
                        yield chunk[start : start + MIN_PROGRESS]
            except _broken_off_errors() as error:  # huggingface_hub resumes the download
                self.clock.failure = error
                raise

        def close(self) -> None:
            if close := getattr(self.stream, "close", None):
                close()

    return MeasuredStream


@cache
def _counted_stream() -> Any:
    class CountedStream(import_http_library().SyncByteStream):  # type: ignore[misc]
        """The body of a response: each `MIN_PROGRESS` bytes of it are progress, and its end."""

        def __init__(self, stream: Any):
            self.stream = stream

        def __iter__(self) -> Iterator[bytes]:
            global _progress
            size = 0
            for chunk in self.stream:
                size += len(chunk)
                if size >= MIN_PROGRESS:
                    _progress, size = _progress + 1, 0
                yield chunk
            _progress += 1

        def close(self) -> None:
            if close := getattr(self.stream, "close", None):
                close()

    return CountedStream
