"""The process that trains a run, started with limits on its memory, priority and tokens. Imports no gradio."""

import json
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from resnet_hub.demo.page_run import MAX_BYTES, PageRun
from resnet_hub.demo.space import is_space, is_zero_gpu

# The last event of a worker that ended by itself.
END_EVENTS = {"Finished", "Stopped", "Waiting", "Failed"}


class WorkerProcess:
    """A process that trains one run.

    Args:
        run: Its facts say what to do: `config`, `ending` (only evaluate the best model), `trained` and `worked`.
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
        if is_space():
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
            "max-memory": measure_free_memory(),
            "max-download": MAX_BYTES,  # a dataset on the Hub may have grown since it was checked
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
        """Ask the worker to save and stop; with `requeue`, until its next turn."""
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
        if self.stop_requested_at and self.run.last_event_name() not in END_EVENTS:
            with suppress(OSError), self.run.log.open("a") as log:
                log.write('\n{"event": "Stopped"}\n')


def write_stop_file(run: PageRun) -> None:
    """Ask the process that trains the run to stop. Repeat it until it does: a starting run deletes old stop files."""
    with suppress(OSError):
        run.run_dir.stop.touch()


def measure_free_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that one more process may use: nine tenths of what is free; None if not on Linux.

    Considers the limit of the container too, in control groups of version 2 and 1.
    """
    free = []
    with suppress(OSError, ValueError, KeyError):
        free.append(1024 * _read_numbers(root / "proc/meminfo")["MemAvailable"])
    for folder, limit_name, used_name in (("", "max", "anon"), ("memory", "limit_in_bytes", "total_rss")):
        group = root / "sys/fs/cgroup" / folder
        with suppress(OSError, ValueError, KeyError):  # the other version, or no limit
            limit = int((group / f"memory.{limit_name}").read_text())
            free.append(limit - _read_numbers(group / "memory.stat")[used_name])
    return max(0, min(free)) * 9 // 10 if free else None


def _read_numbers(path: Path) -> dict[str, int]:
    """The lines of a file such as `MemFree: 12 kB`."""
    lines = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
    return {name: int(number) for name, number, *_ in lines}


def _import_path() -> list[str]:
    """Where the worker, which starts in another folder, finds this package."""
    return [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
