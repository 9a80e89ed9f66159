"""Writes files and replaces folders atomically: even after a kill, a reader sees the old or the new content."""

import ctypes
import errno
import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


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
def replace_folder(folder: str | Path, *, keep: Callable[[str], bool]) -> Iterator[Path]:
    """Replace a folder in one step when the block ends without an error.

    A kill leaves the old folder or the new one, and at worst a hidden folder `.NAME.*.part` beside it, which the next
    call for the same folder removes.

    Args:
        folder: The folder to replace or create. A link to a folder stays a link.
        keep: Called with the path of each entry of the old folder, and of each entry in a folder that is kept, such as
            "a" and "a/b.txt". If true, the entry is carried over, as a hard link where the file system supports them.

    Yields:
        An empty folder to fill.

    Raises:
        OSError: A folder cannot be written, or is a mount point or contains the working directory.
    """
    folder = Path(folder).resolve()
    if folder.is_dir() and (os.path.ismount(folder) or Path.cwd().is_relative_to(folder)):
        raise OSError(errno.EBUSY, "a working directory or mount point cannot be replaced; choose a folder in it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    new = _temporary_path(folder)
    new.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, new, ignore_errors=True)
        stack.enter_context(_lock(new))
        yield new
        for parent, _, names in os.walk(new):
            for name in names:
                _sync(Path(parent, name))
            _sync(Path(parent))
        if folder.is_dir():
            new.chmod(folder.stat().st_mode)
            _copy_entries(folder, new, keep)
            _sync(new)
            stack.enter_context(_lock(folder))
            _exchange(new, folder)  # now `new` is the path of the old folder
            _copy_entries(new, folder, keep)  # entries that were added meanwhile
        else:
            new.rename(folder)
        _sync(folder.parent)


def _temporary_path(path: Path, suffix: str = "part") -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{suffix}")


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes have left beside a folder, but nothing that a process still writes."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        is_ours = re.fullmatch(r"\.[0-9a-f]{8}\.part", path.name.removeprefix(f".{folder.name}"))
        if is_ours and path.is_dir() and not path.is_symlink():
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


def _copy_entries(source: Path, destination: Path, keep: Callable[[str], bool], parent: str = "") -> None:
    """Copy the entries for which `keep` is true and that the destination does not have."""
    for entry in source.iterdir():
        name, target = f"{parent}{entry.name}", destination / entry.name
        if not keep(name) or target.exists() or target.is_symlink():
            continue
        if entry.is_dir() and not entry.is_symlink():
            target.mkdir()
            _copy_entries(entry, target, keep, f"{name}/")
            shutil.copystat(entry, target)
            if any(entry.iterdir()) and not any(target.iterdir()):  # nothing in it is kept
                target.rmdir()
        else:
            _link(entry, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders: in one step on Linux, elsewhere in three renames, between which `old` is briefly missing."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 and not renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
        if renameat2 and code not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):  # EPERM comes from seccomp
            raise OSError(code, os.strerror(code), str(old))
    aside = _temporary_path(old, "old")  # not "part": if this process is killed now, it has the only copy
    old.rename(aside)
    try:
        new.rename(old)
    except BaseException:
        aside.rename(old)
        raise
    aside.rename(new)


def _sync(path: Path) -> None:
    if path.is_symlink() or not (path.is_file() or path.is_dir()) or os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
