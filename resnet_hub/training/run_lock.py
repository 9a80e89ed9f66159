"""The lock of a run directory: one launch at a time trains in it. Imports no torch.

The file `lock` names the process that holds it. A thread touches the file every ten seconds, so that processes on other
hosts, which share the disk, know whether the holder still runs."""

import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_hub.errors import TrainingError, disk_is_full, one_line

if TYPE_CHECKING:
    from filelock import FileLock

_BEAT_SECONDS = 10.0
_SILENT_ELSEWHERE = 600.0  # seconds without a beat after which a holder on another host counts as dead
_SILENT_HERE = 60.0  # the same for a holder on this host whose process cannot be identified
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # that launchers set


@dataclass(frozen=True)
class _Holder:
    """The content of the file."""

    process: int
    started: float  # seconds since 1970; distinguishes the process from a later one with the same id
    host: str
    system: str  # boot and container, in which process numbers are unique
    token: str  # unique to this lock

    def is_same_system(self) -> bool:
        return (self.host, self.system) == (socket.gethostname(), _identify_system())


class RunLock:
    """The lock of one run directory.

    Args:
        folder: The run directory; it need not exist.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._path: Path | None = None  # of the file while this process holds it
        self._holder: _Holder | None = None
        self._is_released = threading.Event()

    @contextmanager
    def hold(self, *, force: bool = False) -> Iterator[None]:
        """Hold the lock. Of the processes of one launch, the first holds it for all.

        Args:
            force: Take the lock from any holder.

        Raises:
            TrainingError: Another process trains in the directory, or the file cannot be written.
        """
        if next((int(os.environ[name]) for name in _RANKS if os.environ.get(name, "").isdecimal()), 0) > 0:
            yield
            return
        is_new = not self.folder.exists()
        self._acquire(force)
        try:
            threading.Thread(target=self._beat, name="run-lock", daemon=True).start()
            yield
        finally:
            self._release()
            if is_new:  # nothing was written
                with suppress(OSError):
                    self.folder.rmdir()

    def is_locked_here(self) -> bool:
        """Whether this process holds the lock, by this object or another."""
        holder = _read(self.folder.absolute() / "lock")
        return bool(holder and holder.process == os.getpid() and holder.is_same_system())

    def check(self) -> None:
        """Raise `TrainingError` if another process has taken the lock, as after ten minutes of sleep."""
        if not self._path or not self._holder:
            return
        holder = _read(self._path)
        if holder and holder.token != self._holder.token:
            self._path = None  # the file of the other process stays
            raise TrainingError(
                f"The run {self.folder} was taken over by {_describe(holder)}. This process stops; resume the run "
                "after that one has ended."
            )

    def _acquire(self, force: bool) -> None:
        path = self.folder.absolute() / "lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _guard(path):  # of several processes only one takes over
                while not (holder := _create(path)):
                    self._remove(path, force)
        except OSError as error:
            if disk_is_full(error):
                raise TrainingError(f"The disk of {self.folder} is full; free some space.") from None
            raise TrainingError(f"Cannot write the run {self.folder}: {error}.") from None
        self._path, self._holder = path, holder
        self._is_released.clear()
        self._remove_leftovers()

    def _remove(self, path: Path, force: bool) -> None:
        """Remove the file of a dead holder; raises `TrainingError` if the holder lives."""
        holder, age = _read(path), _measure_age(path)
        if not path.exists():  # released meanwhile
            return
        if not force and _is_alive(holder, age):
            raise TrainingError(
                f"The run {self.folder} is in use by {_describe(holder)}, whose last sign of life is {age:.0f} seconds "
                "old. Wait until it ends, or choose another run directory. If it no longer runs, add --force-unlock "
                "(force_unlock=True in Python)."
            )
        path.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        """Remove the unfinished files of killed processes."""
        for pattern in (".*.part", "model/.*.part", "base/.*.part"):
            for path in self.folder.glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._is_released.wait(_BEAT_SECONDS):
            path, own = self._path, self._holder
            if path and own:
                with suppress(OSError):
                    holder = _read(path)
                    if holder and holder.token == own.token:
                        os.utime(path)

    def _release(self) -> None:
        self._is_released.set()
        path, own = self._path, self._holder
        self._path = self._holder = None
        if path and own and own.process == os.getpid():  # not a fork of it
            with suppress(OSError):
                holder = _read(path)
                if holder and holder.token == own.token:
                    path.unlink()


def _guard(path: Path) -> "FileLock":
    """A lock of the operating system, among a user's processes on this host, for the moment in which the file is made.

    Two hosts or users that take over in the same moment are noticed by `RunLock.check`. A user cannot open the lock of
    another, so each has one.
    """
    from filelock import FileLock

    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else 0
    return FileLock(Path(tempfile.gettempdir()) / f"resnet_hub-{user}-{name}.lock")


def _create(path: Path) -> _Holder | None:
    """Create the file; returns None if there is one."""
    import psutil  # of the extra `train`

    process = psutil.Process()
    system = _identify_system()
    holder = _Holder(process.pid, process.create_time(), socket.gethostname(), system, secrets.token_hex(8))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return None
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(asdict(holder)).encode() + b"\n")
    return holder


def _read(path: Path) -> _Holder | None:
    """The content of the file; None if it is missing or damaged."""
    try:
        return _Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _measure_age(path: Path) -> float:
    """Seconds since the last beat, by the clock of the file system: those of two hosts differ."""
    probe = path.with_name(f".lock.{secrets.token_hex(4)}.part")
    probe.touch()
    try:
        return max(0.0, probe.stat().st_mtime - path.stat().st_mtime)
    except FileNotFoundError:  # released meanwhile
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _is_alive(holder: _Holder | None, age: float) -> bool:
    import psutil

    if not holder:  # killed while it wrote the file, or another version's
        return age < _SILENT_HERE
    if not holder.is_same_system():  # another host, or this one before it was started again
        return age < (_SILENT_HERE if holder.host == socket.gethostname() else _SILENT_ELSEWHERE)
    try:
        process = psutil.Process(holder.process)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return False
        # The start is computed from the clock, which may have been set: only silence makes it another process.
        return abs(process.create_time() - holder.started) < 1 or age < _SILENT_HERE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _describe(holder: _Holder | None) -> str:
    if not holder:
        return "another process"
    is_own = holder.process == os.getpid() and holder.is_same_system()
    note = " (this process, by a call of `train` that has not ended)" if is_own else ""
    return f"process {holder.process} on host {one_line(holder.host, 80)}{note}"


def _identify_system() -> str:
    """An id of this boot and container on Linux; elsewhere a host has one system."""
    if sys.platform != "linux":
        return sys.platform
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return sys.platform
