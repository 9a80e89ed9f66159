"""Paths of users: the home folder `~`, and folders with links."""

import os
from collections.abc import Iterator
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
