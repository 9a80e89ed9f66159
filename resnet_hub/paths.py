"""Paths of users: the home folder `~`, folders with links, and what exists."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def expand_home(path: str | os.PathLike[str]) -> str:
    """Replaces `~` at the beginning of a path. Unlike `Path.expanduser`, leaves URLs and unknown users unchanged."""
    return os.path.expanduser(path)  # noqa: PTH111


def walk_files(root: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that follows links to folders and visits each folder once."""
    visited = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        real_path = os.path.realpath(parent)
        if real_path in visited:
            folders.clear()
            continue
        visited.add(real_path)
        yield parent, folders, names


def find_path(source: str | Path) -> Path | None:
    """Return the path of a file or folder that exists, or None, also for a name that no file can have."""
    with suppress(OSError, RuntimeError, ValueError):  # an unknown home directory is a RuntimeError
        if str(source) and (path := Path(source).expanduser()).exists():
            return path
    return None
