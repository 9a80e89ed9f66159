"""Files and folders that a reader finds whole or not at all, whenever the writer is killed."""

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a file so that a crash leaves the old content or the new; text is UTF-8, its line ends as they are."""
    path = Path(path)
    part = _beside(path)
    try:
        with part.open("xb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


@contextmanager
def replace_folder(folder: str | Path, *, keep: Callable[[str], bool]) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well, it takes the place of `folder` in one step.

    Entries of the old folder for whose name `keep` is true come along, as hard links where the disk has them, so that
    nothing is ever missing from either. A kill leaves the old folder or the new one, and at worst a hidden
    `.NAME.*.part` beside it, which may be deleted.
    """
    folder = Path(folder).resolve()  # a link to a folder stays a link
    if folder.is_dir() and (os.path.ismount(folder) or Path.cwd().is_relative_to(folder)):
        raise OSError(
            errno.EBUSY, "a working directory or a mount point cannot be replaced as a whole; name a folder in it"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(folder)
    part.mkdir()
    try:
        yield part
        for parent, _, names in os.walk(part):
            for name in names:
                _sync(Path(parent, name))
            _sync(Path(parent))
        if folder.is_dir():
            part.chmod(folder.stat().st_mode)
            _bring(folder, part, keep)
            _sync(part)
            _exchange(part, folder)
            _bring(part, folder, keep)  # what came into the old folder since
        else:
            part.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _bring(old: Path, new: Path, keep: Callable[[str], bool]) -> None:
    for entry in old.iterdir():
        target = new / entry.name
        if not keep(entry.name) or target.exists() or target.is_symlink():
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, target, symlinks=True, copy_function=_link)
        else:
            _link(entry, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, or one without hard links
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders; in one step where the system can, else with a moment in which neither has its name."""
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if renameat2 and not renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
        if renameat2 and code not in (errno.EINVAL, errno.ENOSYS, errno.EPERM):  # seccomp answers EPERM
            raise OSError(code, os.strerror(code), str(old))
    aside = _beside(old)
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
