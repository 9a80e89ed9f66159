"""The folders of all runs of the page's visitors, and the files of runs that a browser may download.

Anyone who knows the id of a run may use it; it cannot be guessed. The page keeps no run in memory: a worker process
trains and writes to the folder, and everything else reads it.
"""

import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.runs.run import PageRun, check_free_space
from resnet_hub.errors import TrainingError


def create_private_folder(folder: str | Path, variable: str) -> Path:
    """Create a folder that only this user may read, or make it one; returns its absolute path.

    Raises:
        TrainingError: It is a link, belongs to another user, or all may write to it. `variable` names another one.
    """
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = folder.lstat()
    if not hasattr(os, "getuid"):  # Windows, where folders of a user are private
        return folder
    is_own = os.getuid() in (about.st_uid, 0)  # root, as in a container, is above the owner of a mounted folder
    if not is_own or not stat.S_ISDIR(about.st_mode) or about.st_mode & 0o002:
        raise TrainingError(
            f"{folder} is a link, belongs to another user, or all may write to it; set {variable} to a private folder."
        )
    if about.st_mode & 0o077:
        with suppress(OSError):  # a mounted folder that cannot be changed
            folder.chmod(0o700)
    return folder


class ServedFiles:
    """A folder from which Gradio serves files, with a subfolder for each run whose name cannot be guessed."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._lock = threading.Lock()
        self._run_locks: dict[str, threading.Lock] = {}

    def publish(self, run: PageRun, make_file: Callable[[], Path]) -> Path:
        """Make a file and move it to where it can be downloaded.

        Several tabs of one run may ask for the same file: it is made for one at a time.
        """
        with self._lock:
            run_lock = self._run_locks.setdefault(run.id, threading.Lock())
        with run_lock:
            path, folder = make_file(), self.get_folder(run)
            folder.mkdir(parents=True, exist_ok=True)
            return Path(shutil.move(path, folder / path.name))

    def get_folder(self, run: PageRun) -> Path:
        """The folder of a run's files. The id of the run cannot be derived from its name."""
        return self.root / hashlib.sha256(run.id.encode()).hexdigest()

    def remove(self, run: PageRun) -> None:
        self._run_locks.pop(run.id, None)
        shutil.rmtree(self.get_folder(run), ignore_errors=True)


MAX_RUNS = 200  # runs on the disk; one visitor address has at most half of them

_ID = re.compile(r"[A-Za-z0-9_-]{32}")


class RunStore:
    """Creates, finds and deletes runs below one folder.

    Args:
        root: The folder; by default that of `RESNET_HUB_RUNS`, or one among the temporary files.
        files: Where the page serves files of runs from; by default a folder beside the root.
    """

    def __init__(self, root: str | Path | None = None, files: ServedFiles | None = None):
        root = root or os.environ.get("RESNET_HUB_RUNS") or _get_default_root()
        self.root = create_private_folder(root, "RESNET_HUB_RUNS")
        self.files = files or ServedFiles(f"{self.root}_served")
        self._lock = threading.Lock()
        self._addresses: dict[str, str] = {}  # by run id: the address of the visitor who made it

    def create(self, address: str = "") -> PageRun:
        """A run without data, for a visitor of that network address."""
        with self._lock:
            self._addresses = {run: other for run, other in self._addresses.items() if (self.root / run).is_dir()}
            if address and list(self._addresses.values()).count(address) >= MAX_RUNS // 2:
                raise PageError("address_full", count=MAX_RUNS // 2)
        check_free_space(self.root)
        if len(list(self.root.iterdir())) >= MAX_RUNS:
            raise PageError("disk_full")
        run = self.get(secrets.token_urlsafe(24))
        run.folder.mkdir(mode=0o700)
        self._addresses[run.id] = address
        return run

    def copy(self, run: PageRun) -> PageRun:
        """A new run on the same dataset."""
        new, facts = self.create(self.get_address(run)), run.read_facts()
        try:
            new.run_dir.folder.mkdir()
            for name in (facts["data"], "report.json", run.run_dir.report.relative_to(run.folder)):
                with suppress(FileNotFoundError):  # a dataset on the Hub has no file
                    check_free_space(self.root, (run.folder / name).stat().st_size)
                    shutil.copyfile(run.folder / name, new.folder / name)
            new.update_facts(data=facts["data"], title=facts["title"], names=facts.get("names", {}))
        except BaseException:
            self.remove(new)
            raise
        return new

    def find(self, run_id: object) -> PageRun | None:
        """The run with that id; None if there is none, or if the value is no id."""
        if not self.is_id(run_id):
            return None
        run = self.get(run_id)
        return run if run.folder.is_dir() else None

    @staticmethod
    def is_id(value: object) -> TypeGuard[str]:
        """Whether the value looks like the id of a run, which may have been deleted."""
        return isinstance(value, str) and _ID.fullmatch(value) is not None

    def require(self, run_id: str) -> PageRun:
        """The run with that id. Raises `PageError` if no data was checked yet, or the run was deleted."""
        run = self.find(run_id)
        if run is None:
            raise PageError("no_run" if run_id else "no_check")
        return run

    def get(self, run_id: str) -> PageRun:
        """The run with an id that is known to be valid."""
        return PageRun(run_id, self.root / run_id)

    def get_address(self, run: PageRun) -> str:
        """The address of the visitor who made the run; "" if the page has restarted since."""
        return self._addresses.get(run.id, "")

    def list_served_folders(self) -> set[Path]:
        """The folders of served files whose run still exists."""
        runs = [self.find(folder.name) for folder in self.root.iterdir()]
        return {self.files.get_folder(run).resolve() for run in runs if run}

    def remove(self, run: PageRun) -> None:
        """Delete the folder of a run that has no worker, and its served files."""
        # A call on ZeroGPU may still write: after the renaming it cannot create the folder again.
        deleted = run.folder.with_name(f".{run.id}")
        with suppress(FileNotFoundError):
            run.folder.rename(deleted)
        shutil.rmtree(deleted, ignore_errors=True)
        self.files.remove(run)

    def remove_leftovers(self) -> None:
        """Delete folders of deleted runs that were written to during their deletion."""
        for folder in self.root.glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)

    def list_older_than(self, seconds: float) -> list[PageRun]:
        """Runs whose folder was last written to more than `seconds` ago."""
        runs = [self.find(folder.name) for folder in self.root.iterdir()]
        return [run for run in runs if run and _measure_seconds_since_change(run.folder) > seconds]


def _measure_seconds_since_change(folder: Path) -> float:
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:  # deleted meanwhile
        return 0.0


def _get_default_root() -> Path:
    """A folder that outlives the app, outside Gradio's folder and the working directory, whose files Gradio serves."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir(), f"resnet_hub_runs_{user}")
