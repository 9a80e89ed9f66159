"""How long a Hub that is slow, busy or broken is waited for: until nothing has come for `SECONDS`.

huggingface_hub asks again by itself, but waits as long as the Hub says (an hour, where that is its `Retry-After`), and
for some answers without end. Its requests pass through hooks here while `ask` calls it, and through none otherwise:
whatever else this process asks the Hub is left alone. Xet, which moves large files of the Hub itself, has no hooks."""

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

TIMEOUT = 15.0
_PROGRESS = 2**16  # bytes since the last progress that count as some: whoever sends fewer has stalled
_PAUSE = 8.0  # seconds, at most, that huggingface_hub waits where the Hub names no wait
_MISREAD = (LookupError, TypeError, AttributeError, AssertionError, NameError)  # an answer of another kind
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)  # faults that may be gone when one asks again

P = ParamSpec("P")
T = TypeVar("T")


class _Clock:
    """Of a call: since when nothing has come, the time of what was sent meanwhile left out."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.failure: Any = None  # since then, an answer if there was one: small ones on the way to the next are none

        self.reached: dict[str, int] = {}  # of bodies by their path, in bytes: the same ones again are no progress

    @property
    def left(self) -> float:
        return self.since + TIMEOUT - time.monotonic()

    def check(self) -> None:
        if self.left <= 0:
            if hasattr(self.failure, "status_code"):
                _refuse(self.failure)
            # Of no kind that huggingface_hub would answer by asking again.
            raise _http().HTTPError(f"no answer for {TIMEOUT:.0f} seconds")


_clock: ContextVar[_Clock | None] = ContextVar("_clock", default=None)  # of the call that this thread is in


def retry_call(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """A call of huggingface_hub, asked again after a fault that passes, for as long as our patience lasts.

    The call must be one that may be made twice. Raises what huggingface_hub does, and `HubError` for an answer that no
    Hub gives. What the client does in threads of its own, such as several uploads at once, is not hurried.
    """
    return _asked(partial(call, *args, **options), again=True)


def call_once(call: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """The same for a call that has another answer than asking again."""
    return _asked(partial(call, *args, **options), again=False)


def _asked(call: Callable[[], T], *, again: bool) -> T:
    from huggingface_hub import constants, errors

    with request_timeout() as clock:
        pause = 1.0
        while True:
            try:
                return call()
            except (errors.HfHubHTTPError, _http().RemoteProtocolError, _http().ReadError) as error:
                response = getattr(error, "response", None)
                wait = parse_retry_after(response.headers) if response is not None else None
                wait = pause if wait is None else wait
                passes = response is None or response.status_code in RETRIED_STATUSES
                clock.failure = error if response is None else response
                if not again or not passes or wait >= clock.left:
                    raise
            except (JSONDecodeError, RecursionError, *_MISREAD, _http().InvalidURL):
                raise HubError(
                    f"What answers at {constants.ENDPOINT} is no Hub; check HF_ENDPOINT, the connection and its proxy."
                ) from None
            time.sleep(wait)
            pause *= 2


@contextmanager
def request_timeout() -> Iterator[_Clock]:
    """Requests of this thread to the Hub wait no longer than `SECONDS` for something to come."""
    from huggingface_hub import get_session

    client = get_session()
    hooks = client.event_hooks
    if _before not in hooks["request"]:
        client.event_hooks = {"request": [*hooks["request"], _before], "response": [*hooks["response"], _after]}
    clock = _Clock()
    token = _clock.set(clock)
    try:
        yield clock
    finally:
        _clock.reset(token)


_FOREVER = 1e6  # seconds, about eleven days: whatever a server asks beyond it


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait, by any of the headers for that."""
    from email.utils import parsedate_to_datetime

    from huggingface_hub.utils import parse_ratelimit_headers

    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return min(float(text), _FOREVER)
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - time.time()), _FOREVER)
    except (ValueError, OverflowError):
        limit = parse_ratelimit_headers(headers)
        return float(min(limit.reset_in_seconds, int(_FOREVER))) if limit and not limit.remaining else None


def _before(request: Any) -> None:
    if (clock := _clock.get()) is None:
        return
    clock.check()
    given = request.extensions.get("timeout") or {}
    limits = {what: given.get(what) or TIMEOUT for what in ("connect", "read", "write", "pool")}
    request.extensions["timeout"] = {what: min(seconds, clock.left) for what, seconds in limits.items()}
    request.stream = _watched()(request.stream, clock)


def _after(response: Any) -> None:
    if (clock := _clock.get()) is None:
        return
    if response.status_code in RETRIED_STATUSES:
        clock.failure = response
        wait = parse_retry_after(response.headers)
        if (_PAUSE if wait is None else wait + 1) >= clock.left:
            _refuse(response)
    else:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        response.stream = _watched()(response.stream, clock, response.url.path, int(start[1]) if start else 0)


def _refuse(response: Any) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    if not response.is_closed:
        response.read()
    hf_raise_for_status(response)


def _http() -> Any:
    """The HTTP library of huggingface_hub, whichever it is."""
    from huggingface_hub import errors

    return import_module(errors.HTTPError.__module__.partition(".")[0])


@cache
def _watched() -> Any:
    class Watched(_http().SyncByteStream):  # type: ignore[misc]
        """A body on its way. One that came is progress; one that was sent is none until it is answered."""

        def __init__(self, stream: Any, clock: _Clock, path: str | None = None, start: int = 0):
            self.stream, self.clock, self.path, self.start = stream, clock, path, start

        def __iter__(self) -> Iterator[bytes]:
            clock, place, then = self.clock, self.start, time.monotonic()
            reached = self.start if self.path is None else clock.reached.setdefault(self.path, self.start)
            for part in self.stream:
                place += len(part)
                if place >= reached + _PROGRESS:
                    now, reached = time.monotonic(), place
                    if self.path is None:
                        clock.since, then = clock.since + now - then, now
                    else:
                        clock.since, clock.failure, clock.reached[self.path] = now, None, place
                clock.check()
                yield part
            if self.path is not None and clock.failure is None:
                clock.since = time.monotonic()

        def close(self) -> None:
            if close := getattr(self.stream, "close", None):
                close()

    return Watched
