"""Detects where the page runs: on a user's machine, in a Hugging Face Space, or in a Space on ZeroGPU."""

import os


def is_space() -> bool:
    """Whether this is a Space: its visitors are strangers, so its owner's token is never used."""
    return "SPACE_ID" in os.environ


def is_zero_gpu() -> bool:
    """Whether this is a Space on ZeroGPU, which lends a GPU for the length of one call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
