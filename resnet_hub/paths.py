"""Walks over folders that follow links and go into each folder once."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk_files(root: str | Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that goes into linked folders too, and into each folder once."""
    seen = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(parent)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        yield parent, folders, names
