"""The only module that uses private names of huggingface_hub. Where a later version lacks them, a feature is missing.

Without its holder of Xet sessions, transfers cannot be watched, so they use plain HTTP. Without its request for the
upload modes of many files, each upload sends a request of its own.
"""

import os
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

HTTP_LOGGER = "huggingface_hub.utils._http"  # logs each retry
DOWNLOAD_LOGGER = "huggingface_hub.file_download"  # logs each connection that breaks off

_lock = threading.Lock()


def is_xet_available() -> bool:
    """Whether huggingface_hub transfers files by Xet now."""
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


class _SessionHolder:
    """Takes the place of huggingface_hub's holder, with its two methods.

    Args:
        create_session: Creates a `hf_xet.XetSession`.
        wrap: Gets the session and `sigint_abort`, and returns what huggingface_hub gets.
    """

    def __init__(self, create_session: Callable[[], Any], wrap: Callable[[Any, Callable[[], None]], Any]) -> None:
        self._lock = threading.Lock()
        self._session: Any = None
        self._process = 0
        self._create_session, self._wrap = create_session, wrap

    def get(self) -> Any:
        with self._lock:
            if self._session is None or self._process != os.getpid():  # of a parent process
                self._session, self._process = self._create_session(), os.getpid()
            return self._wrap(self._session, self.sigint_abort)

    def sigint_abort(self) -> None:
        with self._lock:
            session, self._session = self._session, None
        if session is not None:  # in a thread, since it blocks while a token is requested
            threading.Thread(target=session.sigint_abort, daemon=True).start()


def replace_sessions(create_session: Callable[[], Any], wrap: Callable[[Any, Callable[[], None]], Any]) -> bool:
    """Let huggingface_hub use other sessions with hf_xet; returns False if this version has no place for them.

    Args:
        create_session: Creates a `hf_xet.XetSession`.
        wrap: Gets the session and a function that aborts it, and returns what huggingface_hub gets.
    """
    try:
        from huggingface_hub.utils import _xet
    except ImportError:
        return False
    with _lock:
        holder = getattr(_xet, "_GLOBAL_XET_HOLDER", None)
        if {name for name in dir(holder) if not name.startswith("_")} != {"get", "sigint_abort"}:
            return False
        if not isinstance(holder, _SessionHolder):
            _xet._GLOBAL_XET_HOLDER = _SessionHolder(create_session, wrap)  # type: ignore[assignment]
    return True


def fetch_upload_modes(
    api: "HfApi",
    repo_id: str,
    additions: "Sequence[CommitOperationAdd]",
    repo_type: str,
    revision: str,
    create_pr: bool,
) -> "Sequence[CommitOperationAdd]":
    """Ask the Hub in one request which files it stores outside of git; return these, or all if that is unknown."""
    try:
        from huggingface_hub._commit_api import _fetch_upload_modes

        options: dict[str, Any] = {"headers": api._build_hf_headers(), "endpoint": api.endpoint, "create_pr": create_pr}
        options |= {"revision": quote(revision, safe="")}
        signature(_fetch_upload_modes).bind(additions, repo_type, repo_id, **options)
    except (ImportError, AttributeError, TypeError):
        return additions
    _fetch_upload_modes(additions, repo_type, repo_id, **options)
    return [addition for addition in additions if getattr(addition, "_upload_mode", "lfs") == "lfs"]
