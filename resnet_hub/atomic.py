"""Writes files atomically: even after a kill, a reader sees the old or the new content."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_LEFTOVER = re.compile(r"\.files\.[0-9a-f]{8}\.part")


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` when the block ends without an error."""
    path = Path(path)
    temporary = _temporary_path(path)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a file so that a crash leaves the old or the new content. Text is encoded as UTF-8, line ends unchanged."""
    with open_atomic(path) as file:
        file.write(data if isinstance(data, bytes) else data.encode())


@contextmanager
def replace_files(folder: str | Path, names: Iterable[str]) -> Iterator[Path]:
    """Replace files of a folder when the block ends without an error; an error in it leaves all of them unchanged.

    Each file is replaced in one step, one right after the other. A kill leaves at worst a hidden folder `.files.*.part`
    in the folder, which the next call removes. The folder may be a mount point or the working directory.

    Args:
        folder: The folder, created if it does not exist. Its other files stay.
        names: Paths in it, such as "onnx/model.onnx", in the order in which they are replaced. Those that the block
            does not write are removed.

    Yields:
        An empty folder to write the files to.
    """
    folder = Path(folder).resolve()
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    new = _temporary_path(folder / "files")
    new.mkdir()
    try:
        with _lock(new):
            yield new
            for path in new.rglob("*"):
                _sync(path)
            for name in names:
                _replace(new / name, folder / name)
            _sync(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # there are files in it
                folder.rmdir()


def _replace(new: Path, old: Path) -> None:
    """Replace a file, or remove it, and the folder that becomes empty by that, if there is no new one."""
    if new.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        new.replace(old)
        return
    with suppress(FileNotFoundError, NotADirectoryError):
        old.unlink()
        with suppress(OSError):
            old.parent.rmdir()


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left in a folder, but nothing that a process still writes."""
    for path in folder.glob(".files.*.part"):
        if _LEFTOVER.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with _lock(path) as is_locked:
                if is_locked:
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends; yields whether that succeeded. On Windows it never does."""
    descriptor = None
    with suppress(ImportError, OSError):
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process writes it, or the file system has no locks
            os.close(descriptor)
            descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _sync(path: Path) -> None:
    if path.is_symlink() or not (path.is_file() or path.is_dir()) or os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
