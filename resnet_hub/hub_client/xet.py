"""Uploads and downloads by Xet: what does not move is ended, Ctrl-C ends it, and plain HTTP takes over.

hf_xet retries a broken store for six minutes without a word, waits five minutes for a silent one, and ignores Ctrl-C
while it asks for a token. So its blocking functions run in a thread of their own, and the caller watches whether bytes
move.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from resnet_hub.errors import one_line
from resnet_hub.hub_client import timeouts
from resnet_hub.hub_client.errors import XetTransferError
from resnet_hub.hub_client.hub_compat import replace_sessions
from resnet_hub.hub_client.send_buffer import read_unsent_bytes

T = TypeVar("T")

_POLL_SECONDS = 0.1
_PLAIN_HTTP_SECONDS = 600.0  # for which a broken store is not tried again
# A setting of the environment comes before these. Retries are few, since plain HTTP is the better retry.
_SETTINGS = {"client.retry_max_attempts": 2, "client.retry_base_delay": "500ms", "client.connect_timeout": "10s"}
_SETTINGS |= {"telemetry.enabled": False}
_SHARD_COUNTS = (
    "total_shard_bytes_upload_completed",
    "total_shard_validation_entries_completed",
    "total_shards_synced",
)

_lock = threading.Lock()
_watching = 0  # how many calls are watched now
_plain = 0  # how many calls use plain HTTP now
_disabled_before = False
_broken_until = 0.0


def is_store_broken() -> bool:
    """Whether a transfer by Xet has failed in the last minutes."""
    return time.monotonic() < _broken_until


def report_store(*, broken: bool) -> None:
    """Remember for some minutes that the store is broken, or forget it."""
    global _broken_until
    _broken_until = time.monotonic() + _PLAIN_HTTP_SECONDS if broken else 0.0


@contextmanager
def plain_http() -> Iterator[None]:
    """Let huggingface_hub transfer files without Xet."""
    global _plain, _disabled_before
    from huggingface_hub import constants

    with _lock:
        _plain += 1
        if _plain == 1:
            _disabled_before, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
    try:
        yield
    finally:
        with _lock:
            _plain -= 1
            if _plain == 0:
                constants.HF_HUB_DISABLE_XET = _disabled_before


def can_watch() -> bool:
    """Whether transfers can be watched, with the installed huggingface_hub."""
    return replace_sessions(_create_session, _wrap_session)


def _wrap_session(session: Any, abort: Callable[[], None]) -> Any:
    """Return a watched session while calls are watched, else the session itself."""
    return _WatchedSession(session, abort) if _watching else session


@contextmanager
def watched_transfers() -> Iterator[None]:
    """Let transfers by Xet raise `XetTransferError` where they fail, or do not move for `timeouts.XET_SILENCE`."""
    global _watching
    with _lock:
        _watching += 1
    try:
        yield
    finally:
        with _lock:
            _watching -= 1


def _create_session() -> Any:
    from hf_xet import XetConfig, XetSession  # type: ignore[import-untyped]

    config = XetConfig()
    for name, value in _SETTINGS.items():
        if f"HF_XET_{name.replace('.', '_').upper()}" not in os.environ:
            with suppress(ValueError, KeyError, TypeError):  # another version has other settings
                config = config.with_config(name, value)
    return XetSession(config)


class _WatchedSession:
    """The functions of `hf_xet.XetSession` that huggingface_hub calls."""

    def __init__(self, session: Any, abort: Callable[[], None]) -> None:
        self._session, self._abort = session, abort

    def new_upload_commit(self, **options: Any) -> "_WatchedTransfer":
        return _WatchedTransfer(self._session.new_upload_commit, self._abort, options)

    def new_file_download_group(self, **options: Any) -> "_WatchedTransfer":
        return _WatchedTransfer(self._session.new_file_download_group, self._abort, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class _WatchedTransfer:
    """A context that begins a transfer and, at its end, awaits it."""

    def __init__(self, create: Callable[..., Any], abort: Callable[[], None], options: dict[str, Any]) -> None:
        self._abort = abort
        self._transfer = _watch(lambda: create(**options), lambda: None, abort)

    def __enter__(self) -> Any:
        return self._transfer

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is not None:
            self._abort()
        else:
            _watch(self._transfer.wait_to_finish, self._read_progress, self._abort)

    def _read_progress(self) -> object:
        report = self._transfer.progress()
        shard = getattr(report, "shard", None)  # of uploads
        return [report.total_bytes_completed, report.total_transfer_bytes_completed] + [
            getattr(shard, name, 0) for name in _SHARD_COUNTS
        ]


def _watch(call: Callable[[], T], read_progress: Callable[[], object], abort: Callable[[], None]) -> T:
    """Call a blocking function of hf_xet in a thread; abort it when nothing moves, or at Ctrl-C.

    Raises:
        XetTransferError: It failed, or nothing moved for `timeouts.XET_SILENCE` seconds.
    """
    results: list[T] = []
    failures: list[BaseException] = []
    is_done = threading.Event()

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            failures.append(error)
        is_done.set()

    threading.Thread(target=run, name="resnet_hub-xet", daemon=True).start()  # no exit of the process waits for it
    progress: object = None
    moved_at = time.monotonic()
    try:
        while not is_done.wait(_POLL_SECONDS):
            if (current := (read_progress(), read_unsent_bytes())) != progress:
                progress, moved_at = current, time.monotonic()
            elif time.monotonic() - moved_at >= timeouts.XET_SILENCE:
                raise XetTransferError(f"no byte moved for {timeouts.XET_SILENCE:g} seconds")
    except BaseException:
        abort()
        raise
    if failures:
        raise XetTransferError(_shorten(failures[0])) from failures[0]
    return results[0]


def _shorten(error: BaseException) -> str:
    """The cause that an error of hf_xet ends with: its last words, without the address."""
    text = re.split(r",? (?:domain: |for url )", str(error))[0].strip()
    return one_line(text.rpartition(": ")[2] or type(error).__name__, 80)
