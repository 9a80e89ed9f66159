"""Training runs of the page's visitors: a folder each, a worker process at a time, a fair queue. Imports no gradio.

A run belongs to whoever holds its id, which cannot be guessed. Nothing of it lives in the page: a worker process trains
and writes the folder, everyone else only reads it.
"""

import atexit
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from resnet_hub.atomic import write_atomic
from resnet_hub.demo.i18n import PageError
from resnet_hub.errors import TooLargeError, TrainingError
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Event, Failed, event_to_json
from resnet_hub.training.run_dir import RunDir

if TYPE_CHECKING:
    from resnet_hub.datasets.dataset import ImageDataset, Splits
    from resnet_hub.datasets.report import DatasetReport

MAX_IMAGES = 20_000
MAX_BYTES = 2 * 2**30  # of a data set, packed
MAX_WAITING = 20  # runs in the queue
MAX_KEPT = 200  # runs on the disk; of these and of those that wait, an address has half at most
MAX_WORK = 7200.0  # seconds that a run of a Space's visitor is at work, all its turns together
MAX_CHECK = 600.0  # seconds that a look at the pictures of a Space's visitor may take
FREE_BYTES = 2 * 2**30  # that stay free on the disk
TURN = 600.0  # seconds at work after which a run gives way to those that wait, and waits for its next turn
KEPT = 86_400.0  # seconds after its last sign of life that a run is deleted
_GRACE = 20.0  # seconds for a worker to stop by itself, its state saved
_MEASURING = 600.0  # seconds past those of its training that a run has to be measured
_PAUSE = 0.3  # seconds between two looks at the workers
_TAIL = 16_384  # bytes of the log that hold its last event

_ID = re.compile(r"[A-Za-z0-9_-]{32}")

State = Literal["new", "queued", "running", "stopping", "stopped", "waiting", "failed", "interrupted", "finished"]
# Of what a worker tells; the history has the rest.
_TOLD = {"Started", "Preparing", "Progress", "TimeUp", "Finished", "Stopped", "Waiting", "Failed"}
_ENDS: dict[str, State] = {"Finished": "finished", "Stopped": "stopped", "Waiting": "waiting", "Failed": "failed"}


class Waiting(NamedTuple):
    """There is no GPU to go on with now, for this reason; all is kept."""

    reason: str
    seconds_left: int | None  # of the visitor's GPU time, where the platform tells


class Status(NamedTuple):
    """Where a run stands."""

    state: State
    place: int = 0  # in the queue, from 1
    event: dict[str, Any] | None = None  # the last one told, as a worker writes it

    @property
    def active(self) -> bool:
        return self.state in ("queued", "running", "stopping")


@dataclass(frozen=True)
class PageRun:
    """The folder of one visitor: data, what is asked of the worker and its log, and in `run` the run itself.

    The worker starts in this folder and is told relative paths, so that neither this machine's folders nor the id get
    into the model card.
    """

    id: str
    folder: Path

    @property
    def run(self) -> RunDir:
        return RunDir(self.folder / "run")

    @property
    def log(self) -> Path:
        return self.folder / "worker.log"

    def note(self, **facts: Any) -> None:
        write_atomic(self.folder / "page.json", json.dumps(self.facts() | facts))

    def facts(self) -> dict[str, Any]:
        """What was noted: `data`, `title` and `names` of the data set, these as a config has them; the `config`."""
        with suppress(OSError, ValueError):
            return json.loads((self.folder / "page.json").read_text(encoding="utf-8"))
        return {}

    def tell(self, event: Event | Waiting) -> None:
        """Adds to the log what happened to the run outside its worker."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(event_to_json(event) + "\n")

    def told(self) -> str:
        """The kind of the last event that was told."""
        event = _last_event(self.log)
        return event["event"] if event else ""

    def report(self) -> "DatasetReport | None":
        """What the page shows, with the names that the pictures came by."""
        return _read_report(self.folder / "report.json")

    def evaluation(self) -> dict[str, Any] | None:
        """The figures of the finished model, as `Evaluation.to_dict` has them."""
        with suppress(OSError, ValueError):
            return json.loads(self.run.evaluation.read_text(encoding="utf-8"))
        return None

    def pictures(self) -> "Splits":
        """All of the data set."""
        from resnet_hub.datasets.load import load_dataset
        from resnet_hub.datasets.remote import HUB_PREFIX

        facts = self.facts()
        source = facts["data"]
        if source.startswith(HUB_PREFIX):
            config = TrainConfig(data=source, run="run", **facts.get("names", {}))
            return load_dataset(source, **config.data_names, token=_reader(), max_bytes=MAX_BYTES)
        return load_dataset(self.folder / source)

    def readable(self) -> "Splits":
        """The pictures that the report has not left out."""
        known = _read_report(self.run.report)  # with the names that they have now
        return known.drop_unreadable(self.pictures()) if known else self.pictures()

    def held_out(self) -> "ImageDataset":
        """The pictures that the epochs are compared on."""
        split = self.run.read_split()
        return self.pictures()[split.validation_split].subset(split.validation)

    def measured(self) -> "ImageDataset":
        """The pictures that the evaluation is about."""
        evaluated = self.run.evaluation_split()
        return self.pictures()[evaluated.split].subset(evaluated.indices)

    def export(self) -> Path:
        """The data set as a ZIP of class folders, without what cannot be read."""
        from resnet_hub.datasets.export import export_dataset

        report = self.report()
        _check_room(self.folder, sum(row.bytes for row in report.classes) if report else 0)
        title = re.sub(r"[^\w.-]+", "-", Path(self.facts()["title"]).stem) or "photos"
        return export_dataset(self.readable(), self.folder / "export" / f"{title}-data.zip")

    def pack(self, name: str) -> Path:
        """The model's folder as a ZIP."""
        target = self.folder / f"{name}-model.zip"
        paths = sorted(self.run.model.rglob("*"))
        _check_room(self.folder, sum(path.stat().st_size for path in paths))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:  # weights do not pack
            for path in paths:
                out.write(path, Path(name, path.relative_to(self.run.model)))
        return target

    def bring_files(self, classes: Mapping[str, Sequence[str | Path]]) -> "DatasetReport":
        """Pictures by class become the data set of this run; see `_look`."""
        from resnet_hub.datasets.load import load_dataset

        files = [Path(path) for paths in classes.values() for path in paths]
        size = sum(path.stat().st_size for path in files)
        _check_budget(len(files), size)
        _check_room(self.folder, size)
        return self._look(load_dataset(classes), "photos.zip", export=True)

    def bring_zip(self, path: str | Path, name: str) -> "DatasetReport":
        from resnet_hub.datasets.load import load_dataset

        size = Path(path).stat().st_size
        _check_budget(0, size)
        _check_room(self.folder, size)
        title = re.sub(r"[^\w.-]+", "-", Path(name).stem)[:60].strip("-.") or "photos"
        target = self.folder / f"{title}.zip"
        shutil.copyfile(path, target)
        return self._look(load_dataset(target), target.name)

    def bring_hub(self, name: str, **names: str) -> "DatasetReport":
        """A data set on the Hub, by its id; where strangers visit, only one that everybody may read.

        `names` are fields of `TrainConfig` for its subset, split and columns, empty where they are found. Who reads it
        again reads the same commit.
        """
        from resnet_hub.datasets.load import load_dataset
        from resnet_hub.datasets.remote import HUB_PREFIX

        source = HUB_PREFIX + name.strip().removeprefix(HUB_PREFIX).removeprefix(
            "https://huggingface.co/datasets/"
        ).strip("/")
        given: dict[str, Any] = {field: name.strip() for field, name in names.items() if name.strip()}
        config = TrainConfig(data=source, run="run", **given)
        try:
            splits = load_dataset(source, **config.data_names, token=_reader(), max_bytes=MAX_BYTES)
        except TooLargeError as error:
            raise PageError("hub_too_large", size=error.size, most=f"{MAX_BYTES / 2**30:.0f} GB") from None
        return self._look(splits, source, names=given | {"data_revision": splits.commit})

    def _look(
        self, splits: Any, source: str, *, export: bool = False, names: Mapping[str, Any] | None = None
    ) -> "DatasetReport":
        """The report on a data set, noted with it; raises `DataError` where there is nothing to learn from it."""
        from resnet_hub.datasets.export import export_dataset
        from resnet_hub.datasets.inspect import create_report
        from resnet_hub.datasets.load import load_dataset
        from resnet_hub.datasets.remote import HUB_PREFIX

        _check_budget(sum(map(len, splits.values())), 0)
        start, limit = time.monotonic(), MAX_CHECK if is_space() else math.inf

        def check_time(done: int, total: int) -> None:
            if time.monotonic() - start > limit:
                raise PageError("check_too_long", minutes=f"{limit / 60:g}")

        found = create_report(splits, check_time)
        found.check()
        write_atomic(self.folder / "report.json", found.to_json())
        for_worker: DatasetReport | None = found
        if export:
            export_dataset(splits, self.folder / source)
            for_worker = _renamed(found, splits, load_dataset(self.folder / source))
        if for_worker:  # which need not look again, then
            self.run.folder.mkdir(exist_ok=True)
            write_atomic(self.run.report, for_worker.to_json())
        self.note(data=source, title=source.removeprefix(HUB_PREFIX), names=names or {})
        return found


def _read_report(path: Path) -> "DatasetReport | None":
    from resnet_hub.datasets.report import DatasetReport

    return DatasetReport.from_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def _renamed(found: "DatasetReport", splits: "Splits", packed: "Splits") -> "DatasetReport | None":
    """The report on pictures that were packed, by their names in the pack; None where those are not the same."""
    if {name: len(images) for name, images in splits.items()} != {name: len(images) for name, images in packed.items()}:
        return None
    names = {
        (split, images.name(place)): packed[split].name(place)
        for split, images in splits.items()
        for place in range(len(images))
    }
    return found.rename_images(names)


def _default_root() -> Path:
    """A folder that outlives the app, and is none of which Gradio may serve files: the working one, and its own."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir(), f"resnet_hub_runs_{user}")


def is_space() -> bool:
    """Whether strangers visit: then nothing is done in the name of whoever runs the page."""
    return "SPACE_ID" in os.environ


def is_zero() -> bool:
    """Whether this is a Space on ZeroGPU, where a GPU is there for the length of a call."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _reader() -> bool | None:
    """The token to read from the Hub with: a local user's own; none where strangers visit."""
    return False if is_space() else None


def _check_budget(images: int, size: int) -> None:
    if images > MAX_IMAGES or size > MAX_BYTES:
        raise PageError("data_too_large", images=f"{MAX_IMAGES:,}", size=f"{MAX_BYTES / 2**30:.0f} GB")


def _check_room(folder: Path, size: int = 0) -> None:
    """Refuses to write `size` bytes where not enough would stay free."""
    if shutil.disk_usage(folder).free - size < FREE_BYTES:
        raise PageError("disk_full")


class Runs:
    """All runs below one folder, of which `at_once` are at work; a thread of its own starts, ends and deletes them."""

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        served: str | Path | None = None,
        at_once: int = 1,
        turn: float = TURN,
        kept: float = KEPT,
        work: float | None = None,
    ):
        self.root = Path(root or os.environ.get("RESNET_HUB_RUNS") or _default_root()).absolute()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.root.is_symlink() or not os.access(self.root, os.W_OK) or self.root.stat().st_mode & 0o022:
            raise TrainingError(f"Others may write to {self.root}; name a folder of your own in RESNET_HUB_RUNS.")
        self.served = Path(served) if served else None  # where the page serves files from
        self.at_once, self.turn, self.kept = at_once, turn, kept
        self.work = work or (MAX_WORK if is_space() else math.inf)  # nobody waits for the machine of a local user
        self._lock = threading.RLock()
        self._queue: list[str] = []
        self._workers: dict[str, _Worker] = {}
        self._led: dict[str, _Led] = {}  # by the page, between a worker and the next
        self._owners: dict[str, set[str]] = {}  # of the runs that wait or work
        self._making: dict[str, threading.Lock] = {}  # of the runs of which files are served
        self._addresses: dict[str, str] = {}  # of who made them, until the app ends
        self._closed = threading.Event()
        atexit.register(self.close)
        threading.Thread(target=self._watch, daemon=True).start()

    # -- for the page --------------------------------------------------------------------------------------------------

    def create(self, address: str = "") -> PageRun:
        """A run without data yet, for a visitor of that network address."""
        with self._lock:
            self._addresses = {run: of for run, of in self._addresses.items() if (self.root / run).is_dir()}
            if address and list(self._addresses.values()).count(address) >= MAX_KEPT // 2:
                raise PageError("address_full", count=MAX_KEPT // 2)
        _check_room(self.root)
        if len(list(self.root.iterdir())) >= MAX_KEPT:
            raise PageError("disk_full")
        run = secrets.token_urlsafe(24)
        folder = self.root / run
        folder.mkdir(mode=0o700)
        self._addresses[run] = address
        return PageRun(run, folder)

    def copy(self, run: PageRun) -> PageRun:
        """A new run on the same data."""
        new, facts = self.create(self._addresses.get(run.id, "")), run.facts()
        try:
            new.run.folder.mkdir()
            for name in (facts["data"], "report.json", run.run.report.relative_to(run.folder)):
                with suppress(FileNotFoundError):  # data on the Hub have no file
                    _check_room(self.root, (run.folder / name).stat().st_size)
                    shutil.copyfile(run.folder / name, new.folder / name)
            new.note(data=facts["data"], title=facts["title"], names=facts.get("names", {}))
        except BaseException:
            self.delete(new)
            raise
        return new

    def find(self, run: object) -> PageRun | None:
        """The run of that id; None for one that is not there, whatever was given."""
        if not isinstance(run, str) or not _ID.fullmatch(run):
            return None
        folder = self.root / run
        return PageRun(run, folder) if folder.is_dir() else None

    def start(self, run: PageRun, owners: set[str], config: TrainConfig | None = None, *, ending: bool = False) -> None:
        """Puts a run at the end of the queue: as `config` says, or to go on, or, `ending`, to be measured as it is.

        Each owner has one run at a time.
        """
        with self._lock:
            if self._status(run).active:
                return
            if any(owners & others for others in self._owners.values()):
                raise PageError("one_run")
            if run.facts().get("worked", 0) >= self.work and not ending:
                raise self._spent()
            if len(self._queue) >= MAX_WAITING:
                raise PageError("queue_full")
            address = self._addresses.get(run.id)
            if address and [self._addresses.get(other) for other in self._queue].count(address) >= MAX_WAITING // 2:
                raise PageError("address_waits", count=MAX_WAITING // 2)
            if config:
                run.note(config=asdict(config))
            run.note(ending=ending)
            self._owners[run.id] = owners
            self._queue.append(run.id)

    def stop(self, run: PageRun) -> None:
        """Ends its training, with all that was reached; `start` goes on from there."""
        with self._lock:
            if led := self._led.get(run.id):
                led.stopping = True
            if run.id in self._queue:
                self._queue.remove(run.id)
                self._disown(run.id)
            elif run.id in self._workers:
                self._workers[run.id].stop(again=False)

    @contextmanager
    def led(self, run: PageRun, owners: set[str] | None = None, *, over: bool = False) -> "Iterator[_Led]":
        """The run counts as at work in the block, whether it has a worker or not; as that of `owners`, if they are new.

        Whoever stops it is to find `stopping` set. Two do not lead a run: the second is refused, or else takes it over,
        and the first finds `over` set.
        """
        with self._lock:
            before = self._led.get(run.id)
            if (before and not over) or any((owners or set()) & others for others in self._owners.values()):
                raise PageError("one_run")
            if before:
                before.over = True
            if owners:
                self._owners[run.id] = owners
            led = self._led[run.id] = _Led()
        try:
            yield led
        finally:
            with self._lock:
                if not led.over:
                    del self._led[run.id]
                    self._disown(run.id)

    def is_at_work(self, run: PageRun) -> bool:
        """Whether a worker has the run, or will."""
        with self._lock:
            return run.id in self._queue or run.id in self._workers

    def measure(self, run: PageRun) -> None:
        """Puts a run that the page leads, and that is trained, into the queue for what is left: the measuring."""
        with self._lock:
            self._queue.append(run.id)

    def _disown(self, run: str) -> None:
        if run not in self._led and run not in self._queue and run not in self._workers:
            self._owners.pop(run, None)

    def serve(self, run: PageRun, make: Callable[[], Path]) -> Path:
        """Makes a file, and moves it to where the page serves it at a path that its owner alone is told.

        One at a time of a run: its tabs make the same.
        """
        with self._lock:
            making = self._making.setdefault(run.id, threading.Lock())
        with making:
            path, folder = make(), self._served(run)
            folder.mkdir(parents=True, exist_ok=True)
            return Path(shutil.move(path, folder / path.name))

    def serving(self) -> set[Path]:
        """The folders that the page serves of the runs that are there."""
        found = [self.find(folder.name) for folder in self.root.iterdir()] if self.served else []
        return {self._served(run).resolve() for run in found if run}

    def _served(self, run: PageRun) -> Path:
        if self.served is None:
            raise ValueError("These runs have no folder to serve files from.")
        return self.served / hashlib.sha256(run.id.encode()).hexdigest()

    def delete(self, run: PageRun) -> None:
        with self._lock:
            if run.id in self._queue:
                self._queue.remove(run.id)
            if worker := self._workers.pop(run.id, None):
                worker.kill()
            if led := self._led.get(run.id):
                led.stopping = True
            self._owners.pop(run.id, None)
            self._making.pop(run.id, None)
            # A call on ZeroGPU may still write: under a name that finds nobody it brings nothing back.
            deleted = run.folder.with_name(f".{run.id}")
            with suppress(FileNotFoundError):
                run.folder.rename(deleted)
            shutil.rmtree(deleted, ignore_errors=True)
            if self.served:
                shutil.rmtree(self._served(run), ignore_errors=True)

    def status(self, run: PageRun) -> Status:
        with self._lock:
            return self._status(run)

    def model(self, run: object) -> Path | None:
        """The checkpoint folder of the run of that id, once it is not at work any more."""
        found = self.find(run)
        if found is None or self.status(found).active or not (found.run.model / "config.json").is_file():
            return None
        return found.run.model

    def close(self) -> None:
        """Ends all workers; what they reached stays in their folders."""
        atexit.unregister(self.close)
        self._closed.set()
        with self._lock:
            for worker in self._workers.values():
                worker.kill()
            self._workers.clear()
            self._queue.clear()

    # -- at work -------------------------------------------------------------------------------------------------------

    def _status(self, run: PageRun) -> Status:
        event = _last_event(run.log)
        if run.id in self._queue:
            return Status("queued", self._queue.index(run.id) + 1, event)
        if worker := self._workers.get(run.id):
            return Status("stopping" if worker.stopping and not worker.again else "running", 0, event)
        if led := self._led.get(run.id):
            return Status("stopping" if led.stopping else "running", 0, event)
        if not run.log.is_file():
            return Status("new")
        return Status(_ENDS.get(event["event"], "interrupted") if event else "interrupted", 0, event)

    def _watch(self) -> None:
        # A worker is told to end with the thread that started it, so this one starts them all and lives with the app.
        looked = 0.0
        while not self._closed.wait(_PAUSE):
            with self._lock:
                for run, worker in list(self._workers.items()):
                    if worker.process.poll() is None:
                        self._urge(worker)
                    else:
                        self._end(run, worker)
                for run, led in self._led.items():
                    if led.stopping and run not in self._workers:
                        _ask_to_stop(PageRun(run, self.root / run))
                while self._queue and len(self._workers) < self.at_once and not self._closed.is_set():
                    self._begin(self._queue.pop(0))
            if time.monotonic() - looked > 60:
                looked = time.monotonic()
                with suppress(OSError):  # whoever sweeps temporary files may take the root
                    self._delete_old()

    def _begin(self, run: str) -> None:
        found = PageRun(run, self.root / run)
        try:
            self._workers[run] = _Worker(found, self.work)
        except OSError as error:  # a full disk, no process to be had: the others' turn comes all the same
            with suppress(OSError):
                found.tell(Failed(f"The run could not be started ({error.strerror}); try again in a while."))
            self._disown(run)

    def _urge(self, worker: "_Worker") -> None:
        now = time.monotonic()
        if worker.stopping:
            worker.ask()
            if now - worker.stopping > _GRACE:
                worker.kill()
        elif worker.worked > self.work + _MEASURING and now - worker.started > _MEASURING:
            worker.stop(again=False)
        elif self._queue and now - worker.started > self.turn:
            worker.stop(again=True)

    def _end(self, run: str, worker: "_Worker") -> None:
        del self._workers[run]
        worker.end()
        with suppress(OSError):
            worker.run.note(worked=round(worker.worked, 1), time_up=worker.out_of_time)
            if worker.worked > self.work and not worker.again and worker.run.told() == "Stopped":
                worker.run.tell(Failed(str(self._spent())))
        if worker.again and worker.run.told() == "Stopped":
            self._queue.append(run)
        self._disown(run)

    def _spent(self) -> PageError:
        return PageError("work_spent", minutes=f"{self.work / 60:g}")

    def _delete_old(self) -> None:
        for folder in self.root.glob(".*"):  # what was still written while its run was deleted
            shutil.rmtree(folder, ignore_errors=True)
        for folder in self.root.iterdir():
            run = self.find(folder.name)
            with self._lock, suppress(OSError):
                if run and not self._status(run).active and _age(folder) > self.kept:
                    self.delete(run)


class _Led:
    """What the page was told of a run that it leads."""

    stopping = False
    over = False  # another one leads it now


class _Worker:
    """A process that trains, and what it was told since."""

    def __init__(self, run: PageRun, most: float):
        """`most`: seconds of training that the run has, in all its turns."""
        self.run, self._facts = run, run.facts()
        self.started, self.stopping, self.again = time.monotonic(), 0.0, False
        self._before = float(self._facts.get("worked", 0))
        threads = str(max(1, (os.cpu_count() or 1) - 1))  # one core stays with the page
        env = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(_import_path())}
        if is_space():
            env = {key: value for key, value in env.items() if "TOKEN" not in key}
            env["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        # An id that begins with a dash is no argument of anything: the folder is the working directory.
        phase, time_limit = "all", None if most == math.inf else max(0.0, most - self._before)
        if self._facts.get("ending") or time_limit == 0:
            phase, time_limit = "evaluate", None
        elif is_zero() and not self._facts.get("trained"):  # all but the steps, which the GPU does
            phase, time_limit = "prepare", None
        if is_zero():
            env["CUDA_VISIBLE_DEVICES"] = ""
        # The dataset on the Hub may have grown since the page looked at it; predictions go before training.
        limits = {"time-limit": time_limit, "max-memory": free_memory(), "max-download": MAX_BYTES, "niceness": 10}
        arguments = [sys.executable, "-m", "resnet_hub.training.worker", json.dumps(self._facts.get("config"))]
        arguments += [f"--phase={phase}", *(f"--{name}={value}" for name, value in limits.items() if value is not None)]
        with run.log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, cwd=run.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    @property
    def worked(self) -> float:
        """Seconds that the run is at work by now, in this turn and those before."""
        return self._before + time.monotonic() - self.started

    @property
    def out_of_time(self) -> bool:
        """Whether its training was ended before its end, and not by whom it belongs to."""
        return not self._facts.get("ending") and b'"event": "TimeUp"' in self.run.log.read_bytes()

    def stop(self, *, again: bool) -> None:
        """Asks it to stop, for good or until its next turn."""
        self.stopping, self.again = self.stopping or time.monotonic(), again
        self.ask()

    def ask(self) -> None:
        _ask_to_stop(self.run)

    def kill(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def end(self) -> None:
        """Notes that it stopped where it was asked to and could not say so itself."""
        event = _last_event(self.run.log)
        if self.stopping and not (event and event["event"] in _ENDS):
            with suppress(OSError), self.run.log.open("a") as log:
                log.write('\n{"event": "Stopped"}\n')


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this machine, or the container that this is, has for one more process; None where it is no Linux.

    A tenth stays with the others. The container's own bound is read as cgroups have it, of version 2 and 1.
    """
    left = []
    with suppress(OSError, ValueError, KeyError):
        left.append(1024 * _read_numbers(root / "proc/meminfo")["MemAvailable"])
    for folder, bound, used in (("", "max", "anon"), ("memory", "limit_in_bytes", "total_rss")):
        group = root / "sys/fs/cgroup" / folder
        with suppress(OSError, ValueError, KeyError):  # another version, or no bound
            most = int((group / f"memory.{bound}").read_text())
            left.append(most - _read_numbers(group / "memory.stat")[used])
    return max(0, min(left)) * 9 // 10 if left else None


def _read_numbers(path: Path) -> dict[str, int]:
    """The lines of a file such as `MemFree: 12 kB`."""
    lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    return {name: int(number) for name, number, *_ in lines}


def _ask_to_stop(run: PageRun) -> None:
    with suppress(OSError):  # again and again: a run that only begins takes the file for an old one
        run.run.stop.touch()


def _import_path() -> list[str]:
    """Where the worker finds this package, started from another folder as it is."""
    return [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]


def _last_event(log: Path) -> dict[str, Any] | None:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, TypeError, KeyError):
            event = json.loads(line)
            if event["event"] in _TOLD:
                return event
    return None


def _age(folder: Path) -> float:
    """Seconds since a run was last touched."""
    return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def configure(run: PageRun, base: str | Path | None, **choices: Any) -> TrainConfig:
    """What the worker shall be asked for; a folder of the shelf is linked in, so that its name alone is told."""
    if isinstance(base, Path):
        link = run.folder / "weights" / base.name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)  # of another base of that name, with which the run did not start
        link.symlink_to(base.resolve(), target_is_directory=True)
        base = f"weights/{base.name}"
    facts = run.facts()
    config = TrainConfig(data=facts["data"], run="run", base=base, **facts.get("names", {}), **choices)
    config.resolved()  # refuses what cannot be
    return config
