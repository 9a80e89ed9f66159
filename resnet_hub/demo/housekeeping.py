"""Background work of the page: its log, and the deletion of old uploads and downloads."""

import ctypes
import filecmp
import logging
import os
import shutil
import time
import traceback
from collections.abc import Collection
from contextlib import suppress
from itertools import count
from pathlib import Path

from huggingface_hub import CacheNotFound, constants, scan_cache_dir

from resnet_hub.demo.guard import UPLOAD_LIFETIME
from resnet_hub.demo.predict_tab.tab import EXAMPLES
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.demo.space import is_space
from resnet_hub.errors import ResNetHubError

DOWNLOADS = 10 * 2**30  # bytes from the Hub that a Space keeps on its disk
_PREPARED_LIFETIME = 24 * 3600  # seconds until a dataset prepared by `datasets` is deleted, as for a run

log = logging.getLogger("resnet_hub")


def start_log() -> None:
    """Write the log of this package to the standard error, from the level in RESNET_HUB_LOG on; default: warning."""
    level = os.environ.get("RESNET_HUB_LOG", "warning").upper()
    if level not in logging.getLevelNamesMapping():
        raise ResNetHubError(f"RESNET_HUB_LOG is {level.lower()[:40]!r}; choose debug, info, warning or error.")
    log.setLevel(level)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False


def clean_up(runs: RunStore, uploads: Path) -> None:
    """Return memory every minute and delete old files every ten minutes, for as long as the app runs."""
    for minute in count():
        try:
            if minute % 10 == 0:
                delete_old_uploads(uploads, keep=find_example_copies(uploads) | runs.list_served_folders())
                if is_space():
                    sweep_downloads()
            return_freed_memory()
        except Exception as error:  # go on: otherwise the disk would fill up
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s in %s:%s", type(error).__name__, Path(frame.filename).name, frame.lineno)
        time.sleep(60)


def delete_old_uploads(folder: Path, max_age: float = UPLOAD_LIFETIME, keep: Collection[Path] = ()) -> None:
    """Delete files that were uploaded more than `max_age` seconds ago; Gradio forgets them when the app is killed.

    Files and folders in `keep` stay: the page's copies of its examples, and served files of runs, which are deleted
    with their runs.
    """
    for parent, folders, files in os.walk(folder.resolve(), topdown=False):
        for path in (Path(parent, name) for name in (*files, *folders)):
            with suppress(OSError):  # still in use, or already deleted
                is_protected = not {path, *path.parents}.isdisjoint(keep)
                if time.time() - path.lstat().st_mtime > max_age and not is_protected:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def sweep_downloads(limit: int = DOWNLOADS, lifetime: float = _PREPARED_LIFETIME) -> None:
    """Delete downloads from the Hub, the least recently used repositories first, until `limit` bytes are left.

    Call it on a Space only: on other machines, other programs use that folder too. Models in memory are not affected.
    """
    with suppress(CacheNotFound, OSError):
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
        excess = cache.size_on_disk - limit
        for repo in sorted(cache.repos, key=lambda repo: repo.last_accessed):
            if excess > 0:
                shutil.rmtree(repo.repo_path)  # not by revision: a copy of a repo has the same revisions
                excess -= repo.size_on_disk
    for folder in Path(constants.HF_HOME, "datasets").glob("*/"):
        with suppress(OSError, ValueError):  # another sweep, or an empty folder
            if time.time() - max(path.stat().st_mtime for path in folder.rglob("*")) > lifetime:
                shutil.rmtree(folder)


def find_example_copies(uploads: Path) -> set[Path]:
    """The copies of the examples that Gradio has put among the uploads."""
    copies = ((example, copy) for example in EXAMPLES for copy in uploads.resolve().glob(f"*/{example.name}"))
    return {copy for example, copy in copies if filecmp.cmp(example, copy, shallow=False)}


def return_freed_memory() -> None:
    """Give memory that was freed back to the system: glibc keeps the gaps in the heap of each thread."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
