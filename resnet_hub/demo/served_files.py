"""Files of runs that a browser may download: reports, exported datasets and packed models."""

import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from resnet_hub.demo.page_run import PageRun


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
