"""Detects where the page runs: on a user's machine, in a Hugging Face Space, or in a Space on ZeroGPU."""

import os
from typing import Literal


def is_space() -> bool:
    """Whether this is a Space: its visitors are strangers, so its owner's token is never used."""
    return "SPACE_ID" in os.environ


def is_zero_gpu() -> bool:
    """Whether this is a Space on ZeroGPU, which lends a GPU for the length of one call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def get_token() -> Literal[False] | None:
    """The token for models of visitors: on a Space none, its owner's is not theirs; elsewhere that of the user."""
    return False if is_space() else None
