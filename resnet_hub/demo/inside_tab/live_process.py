"""The process that computes the live experiments, and how long each visitor may use it."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import Any

from resnet_hub.analysis.live_worker import MAX_SECONDS
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.usage_limits import Budget
from resnet_hub.demo.visitor import is_loopback

SECONDS_EACH = 300  # of live experiments in ten minutes of one visitor address
_START = 60.0  # seconds that the process may take to start on a busy machine


class LiveWorker:
    """A process of low priority for one task at a time; it starts with the first task and after it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._budget = Budget(SECONDS_EACH, float("inf"), 600)

    def start(self) -> None:
        """Start the process, which imports torch for some seconds, unless it runs or is about to be used."""
        if self._lock.acquire(blocking=False):
            try:
                self._require_process()
            finally:
                self._lock.release()

    def run(self, task: str, address: str, cost: float, **settings: Any) -> Generator[dict[str, Any]]:
        """Yield the values of a task. Closing the generator ends the task.

        Args:
            task: Its name in `resnet_hub.analysis.live_worker`.
            address: The visitor address, which has a budget of seconds.
            cost: Seconds that the address is charged for the task.
            settings: Of the task.

        Raises:
            PageError: The address has used its budget, the settings are wrong, or the process has ended.
        """
        if not is_loopback(address) and self._budget.use(address, round(cost)):
            raise PageError("inside_budget", minutes=SECONDS_EACH // 60)
        with self._lock:
            process = self._require_process()
            watchdog = threading.Timer(_START + MAX_SECONDS, process.kill)
            watchdog.start()
            is_done = False
            try:
                _send(process, {"task": task, **settings})
                for values in _read(process):
                    is_done = "done" in values or "error" in values
                    if "error" in values:
                        raise PageError("inside_failed", reason=values["error"].rstrip("."))
                    if is_done:
                        return
                    yield values
                is_done = True
                raise PageError("inside_failed", reason=f"exit status {process.wait()}")
            except BrokenPipeError:
                is_done = True
                raise PageError("inside_failed", reason=f"exit status {process.wait()}") from None
            finally:
                if not is_done:  # the visitor has left or pressed Stop
                    with suppress(OSError):
                        _send(process, {"task": "stop"})
                    next((values for values in _read(process) if "done" in values or "error" in values), None)
                watchdog.cancel()

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _require_process(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self.close()
            command = [sys.executable, "-m", "resnet_hub.analysis.live_worker"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._process


def _send(process: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
    assert process.stdin
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _read(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout
    for line in process.stdout:
        yield json.loads(line)
