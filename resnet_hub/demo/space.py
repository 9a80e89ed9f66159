"""Detects where the page runs: on a user's machine, in a Hugging Face Space, or in a Space on ZeroGPU."""

import os
from contextvars import ContextVar
from typing import Literal

_is_local_user: ContextVar[bool] = ContextVar("_is_local_user", default=False)  # who sent the call that is answered


def is_space() -> bool:
    """Whether this is a Space: its visitors are strangers, so its owner's token is never used."""
    return "SPACE_ID" in os.environ


def is_zero_gpu() -> bool:
    """Whether this is a Space on ZeroGPU, which lends a GPU for the length of one call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def note_local_user(is_local: bool) -> None:
    """Note whether the local user sent the call that this task, and the threads that it starts by anyio, answer."""
    _is_local_user.set(is_local)


def may_use_saved_token() -> bool:
    """Whether the local user sent the call that is answered."""
    return _is_local_user.get()


def choose_hub_token() -> Literal[False] | None:
    """The `token` argument of reads from the Hub in a call: None, the saved one, for the local user, else False."""
    return None if may_use_saved_token() else False
