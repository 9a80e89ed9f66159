"""Programs in processes of their own, forked from one that has loaded their libraries.

PyTorch and what a web server consists of take the processor 4 s to load. What reads the environment when it is imported
(Gradio, huggingface_hub, datasets, this project) is loaded by each program.
"""

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

_LOADED = ["torch", "pandas", "PIL.Image", "fastapi", "uvicorn", "mcp.server.fastmcp", "httpx", "httpx2", "jinja2"]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_LOADED)


class Program:
    """Runs Python code as `python -c` does, and has the methods of `subprocess.Popen` that tests use."""

    def __init__(
        self, code: str, *arguments: str, cwd: Path, env: Mapping[str, str], output: Path, errors: Path | None = None
    ):
        """Start it in a process group of its own; without `errors` they go to `output`, too."""
        options = (code, arguments, cwd, dict(env), output, errors or output)
        self._process = _CONTEXT.Process(target=_run, args=options)
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code; raises `TimeoutError`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} has not ended")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(code: str, arguments: tuple[str, ...], cwd: Path, env: dict[str, str], output: Path, errors: Path) -> None:
    os.setpgid(0, 0)
    for descriptor, path in ((1, output), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
