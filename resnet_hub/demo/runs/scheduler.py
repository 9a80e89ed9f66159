"""Schedules the runs: a fair queue, and worker processes with limits on memory, time and tokens. Imports no gradio."""

import atexit
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.runs.run import MAX_DATASET_BYTES, PageRun
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.demo.space import is_space, is_zero_gpu, may_use_saved_token
from resnet_hub.memory import measure_free_memory
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Failed

MAX_WAITING_RUNS = 20  # runs in the queue; one visitor address has at most half of them
MAX_TRAINING_SECONDS = 7200.0  # seconds that a run may train on a Space, in all
TIME_SLICE = 600.0  # seconds of training after which a run goes to the end of the queue, if others wait
RUN_LIFETIME = 86_400.0  # seconds after its last change when a run is deleted
_STOP_TIMEOUT = 20.0  # seconds that a worker has to save its state and stop, before it is killed
_EVALUATION_TIMEOUT = 600.0  # seconds past the training limit that a worker has to evaluate
_MEMORY_SHARE = 0.9  # of the free memory that a worker may use
_POLL_INTERVAL = 0.3  # seconds
_CLEANUP_INTERVAL = 60.0  # seconds

State = Literal["new", "queued", "running", "stopping", "stopped", "waiting", "failed", "interrupted", "finished"]
_STATE_AFTER: dict[str, State] = {  # the last event of a worker that ended by itself
    "Finished": "finished",
    "Stopped": "stopped",
    "Waiting": "waiting",
    "Failed": "failed",
}


class WorkerProcess:
    """A process that trains one run.

    Args:
        run: Its facts decide what to do: `config`, `ending` (only evaluate the best model), `trained`, `worked`, and
            `reads_as_user` (the token of the local user is for their own runs only).
        training_limit: Seconds that the run may train, all its workers together.
    """

    def __init__(self, run: PageRun, training_limit: float):
        self.run, self._facts = run, run.read_facts()
        self.started_at = time.monotonic()
        self.stop_requested_at = 0.0  # 0: no stop was requested
        self.requeue = False  # whether the run goes back to the queue after the stop
        self._seconds_before = float(self._facts.get("worked", 0))
        threads = str(max(1, (os.cpu_count() or 1) - 1))  # one core is left to the page
        env = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(_import_path())}
        if not self._facts.get("reads_as_user"):
            env = {key: value for key, value in env.items() if "TOKEN" not in key}
            env["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        time_limit = None if training_limit == math.inf else max(0.0, training_limit - self._seconds_before)
        phase = "all"
        if self._facts.get("ending") or time_limit == 0:
            phase, time_limit = "evaluate", None
        elif is_zero_gpu() and not self._facts.get("trained"):  # the GPU trains, in calls of `zero_gpu`
            phase, time_limit = "prepare", None
        if is_zero_gpu():
            env["CUDA_VISIBLE_DEVICES"] = ""
        options = {
            "phase": phase,
            "time-limit": time_limit,
            "max-memory": int(_MEMORY_SHARE * measure_free_memory(for_new_process=True)),
            "max-download": MAX_DATASET_BYTES,  # a dataset on the Hub may have grown since it was checked
            "niceness": 10,  # predictions go first
        }
        # The folder is passed as working directory, not as an argument: an id may begin with a dash.
        arguments = [sys.executable, "-m", "resnet_hub.training.worker", json.dumps(self._facts.get("config"))]
        arguments += [f"--{name}={value}" for name, value in options.items() if value is not None]
        with run.log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, cwd=run.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    @property
    def seconds_worked(self) -> float:
        """Seconds that workers of this run have worked, this one included."""
        return self._seconds_before + time.monotonic() - self.started_at

    @property
    def reached_time_limit(self) -> bool:
        """Whether the training ended because of its time limit, and not because its visitor ended it."""
        return not self._facts.get("ending") and b'"event": "TimeUp"' in self.run.log.read_bytes()

    def request_stop(self, *, requeue: bool) -> None:
        """Ask the worker to save and stop; with `requeue`, until the queue reaches it again."""
        self.stop_requested_at, self.requeue = self.stop_requested_at or time.monotonic(), requeue
        write_stop_file(self.run)

    def kill(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log_stop(self) -> None:
        """Log the requested stop if the process ended before it could."""
        if self.stop_requested_at and self.run.last_event_name() not in _STATE_AFTER:
            with suppress(OSError), self.run.log.open("a") as log:
                log.write('\n{"event": "Stopped"}\n')


def write_stop_file(run: PageRun) -> None:
    """Ask the process that trains the run to stop. Repeat it until it does: a starting run deletes old stop files."""
    with suppress(OSError):
        run.run_dir.stop.touch()


def _import_path() -> list[str]:
    """The import path of this package for the worker, which starts in another folder."""
    return [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]


class Status(NamedTuple):
    """The state of a run."""

    state: State
    position: int = 0  # in the queue, from 1
    event: dict[str, Any] | None = None  # the last status event, as a worker writes it

    @property
    def is_active(self) -> bool:
        return self.state in ("queued", "running", "stopping")


class Supervision:
    """Requests of other calls to the one that supervises a run."""

    should_stop = False
    was_taken_over = False  # by another call


class Scheduler:
    """Starts, stops and deletes runs; a thread watches the workers.

    Args:
        runs: The folders of the runs.
        at_once: How many workers run at the same time.
        time_slice: Seconds that a run trains while others wait.
        training_limit: Seconds that a run may train; by default `MAX_TRAINING_SECONDS` on a Space, none elsewhere.
    """

    def __init__(
        self,
        runs: RunStore,
        *,
        at_once: int = 1,
        time_slice: float = TIME_SLICE,
        training_limit: float | None = None,
    ):
        self.runs = runs
        self.at_once, self.time_slice = at_once, time_slice
        self.training_limit = training_limit or (MAX_TRAINING_SECONDS if is_space() else math.inf)
        self._lock = threading.RLock()
        # All by run id.
        self._queue: list[str] = []
        self._workers: dict[str, WorkerProcess] = {}
        self._supervised: dict[str, Supervision] = {}
        self._owners: dict[str, set[str]] = {}  # of the runs that wait or train
        self._closed = threading.Event()
        atexit.register(self.close)
        threading.Thread(target=self._watch, daemon=True).start()

    # -- for the page --------------------------------------------------------------------------------------------------

    def start(
        self, run: PageRun, owners: set[str], config: TrainConfig | None = None, *, evaluate_only: bool = False
    ) -> None:
        """Put a run at the end of the queue; an active one stays where it is.

        Args:
            run: A run whose data was checked.
            owners: The owners of the run, each of whom has at most one active run.
            config: The settings of a new run; None resumes the run.
            evaluate_only: Whether to end the run: evaluate the best model so far, and train no further.
        """
        with self._lock:
            if self._get_status(run).is_active:
                return
            if any(owners & others for others in self._owners.values()):
                raise PageError("one_run")
            if run.read_facts().get("worked", 0) >= self.training_limit and not evaluate_only:
                raise self._limit_error()
            if len(self._queue) >= MAX_WAITING_RUNS:
                raise PageError("queue_full")
            address = self.runs.get_address(run)
            waiting = [self.runs.get_address(self.runs.get(other)) for other in self._queue]
            if address and waiting.count(address) >= MAX_WAITING_RUNS // 2:
                raise PageError("address_waits", count=MAX_WAITING_RUNS // 2)
            if config:
                run.update_facts(config=asdict(config))
            run.update_facts(ending=evaluate_only, reads_as_user=may_use_saved_token())
            self._owners[run.id] = owners
            self._queue.append(run.id)

    def stop(self, run: PageRun) -> None:
        """Stop the training, with its state saved; `start` resumes it."""
        with self._lock:
            if supervision := self._supervised.get(run.id):
                supervision.should_stop = True
            if run.id in self._queue:
                self._queue.remove(run.id)
                self._release_owners(run.id)
            elif run.id in self._workers:
                self._workers[run.id].request_stop(requeue=False)

    @contextmanager
    def supervise(
        self, run: PageRun, owners: set[str] | None = None, *, take_over: bool = False
    ) -> Iterator[Supervision]:
        """Count a run as active within the block, even without a worker: it is trained elsewhere.

        One call supervises a run at a time. A second one raises `PageError` or, with `take_over`, replaces the first.
        """
        with self._lock:
            earlier = self._supervised.get(run.id)
            if (earlier and not take_over) or any((owners or set()) & others for others in self._owners.values()):
                raise PageError("one_run")
            if earlier:
                earlier.was_taken_over = True
            if owners:
                self._owners[run.id] = owners
            supervision = self._supervised[run.id] = Supervision()
        try:
            yield supervision
        finally:
            with self._lock:
                if not supervision.was_taken_over:
                    del self._supervised[run.id]
                    self._release_owners(run.id)

    def is_scheduled(self, run: PageRun) -> bool:
        """Whether a worker has the run, or the run is in the queue for one."""
        with self._lock:
            return run.id in self._queue or run.id in self._workers

    def queue_evaluation(self, run: PageRun) -> None:
        """Put a supervised run whose training has ended into the queue, to be evaluated."""
        with self._lock:
            self._queue.append(run.id)

    def delete(self, run: PageRun) -> None:
        """End a run at once, and delete all its files."""
        with self._lock:
            if run.id in self._queue:
                self._queue.remove(run.id)
            if worker := self._workers.pop(run.id, None):
                worker.kill()
            if supervision := self._supervised.get(run.id):
                supervision.should_stop = True
            self._owners.pop(run.id, None)
            self.runs.remove(run)

    def get_status(self, run: PageRun) -> Status:
        with self._lock:
            return self._get_status(run)

    def find_model(self, run_id: object) -> Path | None:
        """The checkpoint folder of the run with that id, unless it is being written."""
        run = self.runs.find(run_id)
        if run is None or self.get_status(run).is_active or not (run.run_dir.model / "config.json").is_file():
            return None
        return run.run_dir.model

    def close(self) -> None:
        """End all workers; their saved training states stay in the run directories."""
        atexit.unregister(self.close)
        self._closed.set()
        with self._lock:
            for worker in self._workers.values():
                worker.kill()
            self._workers.clear()
            self._queue.clear()

    # -- workers -------------------------------------------------------------------------------------------------------

    def _get_status(self, run: PageRun) -> Status:
        event = run.read_last_event()
        if run.id in self._queue:
            return Status("queued", self._queue.index(run.id) + 1, event)
        if worker := self._workers.get(run.id):
            is_stopping = worker.stop_requested_at and not worker.requeue
            return Status("stopping" if is_stopping else "running", 0, event)
        if supervision := self._supervised.get(run.id):
            return Status("stopping" if supervision.should_stop else "running", 0, event)
        if not run.log.is_file():
            return Status("new")
        return Status(_STATE_AFTER.get(event["event"], "interrupted") if event else "interrupted", 0, event)

    def _release_owners(self, run_id: str) -> None:
        if run_id not in self._supervised and run_id not in self._queue and run_id not in self._workers:
            self._owners.pop(run_id, None)

    def _watch(self) -> None:
        # The kernel ends a worker together with the thread that started it: this one lives as long as the app.
        cleaned_at = 0.0
        while not self._closed.wait(_POLL_INTERVAL):
            with self._lock:
                for run_id, worker in list(self._workers.items()):
                    if worker.process.poll() is None:
                        self._check_limits(worker)
                    else:
                        self._end_worker(run_id, worker)
                for run_id, supervision in self._supervised.items():
                    if supervision.should_stop and run_id not in self._workers:
                        write_stop_file(self.runs.get(run_id))
                while self._queue and len(self._workers) < self.at_once and not self._closed.is_set():
                    self._start_worker(self.runs.get(self._queue.pop(0)))
            if time.monotonic() - cleaned_at > _CLEANUP_INTERVAL:
                cleaned_at = time.monotonic()
                with suppress(OSError):  # a program that deletes temporary files may have deleted the root
                    self._delete_old()

    def _start_worker(self, run: PageRun) -> None:
        try:
            self._workers[run.id] = WorkerProcess(run, self.training_limit)
        except OSError as error:  # a full disk, or no more processes: the other runs still start
            with suppress(OSError):
                run.log_event(Failed(f"The run could not be started ({error.strerror}); try again in a while."))
            self._release_owners(run.id)

    def _check_limits(self, worker: WorkerProcess) -> None:
        now = time.monotonic()
        if worker.stop_requested_at:
            write_stop_file(worker.run)
            if now - worker.stop_requested_at > _STOP_TIMEOUT:
                worker.kill()
        elif (
            worker.seconds_worked > self.training_limit + _EVALUATION_TIMEOUT
            and now - worker.started_at > _EVALUATION_TIMEOUT
        ):
            worker.request_stop(requeue=False)
        elif self._queue and now - worker.started_at > self.time_slice:
            worker.request_stop(requeue=True)

    def _end_worker(self, run_id: str, worker: WorkerProcess) -> None:
        del self._workers[run_id]
        worker.log_stop()
        run = worker.run
        with suppress(OSError):
            run.update_facts(worked=round(worker.seconds_worked, 1), time_up=worker.reached_time_limit)
            is_over_limit = worker.seconds_worked > self.training_limit and not worker.requeue
            if is_over_limit and run.last_event_name() == "Stopped":
                run.log_event(Failed(str(self._limit_error())))
        if worker.requeue and run.last_event_name() == "Stopped":
            self._queue.append(run_id)
        self._release_owners(run_id)

    def _limit_error(self) -> PageError:
        return PageError("work_spent", minutes=f"{self.training_limit / 60:g}")

    def _delete_old(self) -> None:
        self.runs.remove_leftovers()
        for run in self.runs.list_older_than(RUN_LIFETIME):
            with self._lock:
                if not self._get_status(run).is_active:
                    self.delete(run)
