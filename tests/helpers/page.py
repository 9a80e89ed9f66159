"""The page, served for a test, and what talks to it."""

import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import fastapi
import gradio as gr
import httpx2
import pytest
from playwright.sync_api import Browser, Page

from helpers import ROOT
from helpers.data import wait
from helpers.hub_server import WRITER
from helpers.program import Program
from resnet_hub.demo.runs.run import PageRun, configure
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.demo.space import note_local_user


def open_page(browser: Browser, address: str, *, width: int = 1280, locale: str = "en-US") -> Page:
    """The page in a browser; an error of a script, or a label that runs as one, fails the test."""
    page = browser.new_page(viewport={"width": width, "height": 800}, locale=locale)
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.on("dialog", lambda dialog: pytest.fail(f"A label was run as a script: {dialog.message}"))
    page.goto(address)
    return page


def clear_tab(page: Page) -> None:
    """Leave the page and forget all that it stored: for the next test the tab is that of a newcomer.

    A new tab compiles the page's scripts anew, which takes the processor 2 s.
    """
    page.evaluate("sessionStorage.clear()")
    origin = page.evaluate("location.origin")
    page.goto("about:blank")
    session = page.context.new_cdp_session(page)
    session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    session.detach()


class Server(Protocol):
    pid: int

    def poll(self) -> int | None: ...


def wait_for_server(server: Server, log: Path) -> str:
    """Wait until the page is served, and return its address, of which Gradio chooses the port.

    Fail with the server's log if it ends, and with its stack, too, if it hangs.
    """
    for _ in range(2400):
        if address := re.search(r"Running on local URL: *(http\S+)", said := log.read_text() if log.exists() else ""):
            return address[1]
        assert server.poll() is None, said
        time.sleep(0.1)
    os.kill(server.pid, signal.SIGABRT)
    wait(lambda: server.poll() is not None, 30)
    pytest.fail(f"The page is not served.\n{log.read_text()}")


@contextmanager
def serving(folder: Path, program: str = "", *, is_attacked: bool = False, **settings: str) -> Iterator[str]:
    """The page over the shelf in `folder`, after `program`; it must not print a traceback, nor the token.

    It must log no error that it did not expect either, unless it `is_attacked`, with values of other types.
    """
    settings |= {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "RESNET_HUB_RUNS": str(folder / "runs"),
        "PYTHONPATH": str(ROOT),
    }
    program += "\nfrom resnet_hub.demo import build, launch; launch(build('shelf'))"
    server = Program(program, cwd=folder, env=os.environ | settings, output=folder / "log")
    try:
        yield wait_for_server(server, folder / "log")
    finally:
        server.terminate()
        with suppress(TimeoutError):
            server.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)  # whatever it forked
        server.wait()
    said = (folder / "log").read_text()
    # Gradio prints a traceback of its own, without a line of ours, where a browser goes in the midst of an answer.
    assert "resnet_hub/" not in said, said[said.index("Traceback") :]
    assert WRITER not in said
    assert is_attacked or " ERROR " not in said, said
    for path in (folder / "runs").rglob("*"):
        assert not path.is_file() or WRITER.encode() not in path.read_bytes()


API = "gradio_api"


class Caller:
    """What a page's script does, for a session of its own; and whatever else a program may send."""

    def __init__(self, address: str, **headers: str):
        self.http = httpx2.Client(
            base_url=address, timeout=240, headers=headers, limits=httpx2.Limits(max_keepalive_connections=0)
        )
        self.session = secrets.token_hex(8)
        self.config = self.http.get("/config").json()
        self.kinds = {part["id"]: part["type"] for part in self.config["components"]}
        self.values = {part["id"]: part["props"].get("value") for part in self.config["components"]}
        self.calls = {call["api_name"]: call for call in self.config["dependencies"]}
        self.stored: Any = None

    def inputs(self, name: str) -> list[str]:
        return [self.kinds[part] for part in self.calls[name]["inputs"]]

    def send(self, name: str, data: list[Any], query: str = "", event: Any = None) -> str:
        """All that comes back."""
        place = self.calls[name]["id"]
        body = {"data": data, "fn_index": place, "session_hash": self.session, "event_data": event}
        reply = self.http.post(f"/{API}/queue/join{query}", json=body)
        if reply.status_code != 200:
            return reply.text
        said = []
        with self.http.stream("GET", f"/{API}/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                said.append(line)
                if '"process_completed"' in line and reply.json()["event_id"] in line:
                    break
        return "\n".join(said)

    def call(self, name: str, *values: Any, event: Any = None) -> list[Any]:
        """The values of the answer; `values` are of all inputs but the states, then the page's own."""
        given, data = list(values), []
        for part in self.calls[name]["inputs"]:
            own = self.kinds[part] != "state"
            data.append(given.pop(0) if given and own else self.values[part] if own else None)
        last = self.send(name, data, event=event).splitlines()[-1]
        message = json.loads(last.removeprefix("data:"))
        assert message["success"], message
        answer = message["output"]["data"]
        for part, value in zip(self.calls[name]["outputs"], answer, strict=True):
            if self.kinds[part] == "browserstate" and isinstance(value, dict) and "visitor" in value:
                self.stored = value
        return answer

    def upload(self, path: Path) -> dict[str, Any]:
        reply = self.http.post(f"/{API}/upload", files={"files": (path.name, path.read_bytes())})
        return {"path": reply.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def train(self, data: Path) -> str:
        """The id of a run of the head alone, at its end."""
        self.call("check_zip", self.upload(data))
        self.call("begin", self.stored, "tiny", "head")
        wait(lambda: "Finished" in str(self.call("watch")), 240)
        return self.stored["run"]


def from_browser(language: str = "en") -> gr.Request:
    scope = {"type": "http", "headers": [(b"accept-language", language.encode())], "query_string": b"", "path": "/"}
    return gr.Request(fastapi.Request(scope))


@contextmanager
def as_local_user() -> Iterator[None]:
    """Read from the Hub with the saved token, as in a call of the local user."""
    note_local_user(True)
    try:
        yield
    finally:
        note_local_user(False)


def made(runs: RunStore, data: Path) -> PageRun:
    run = runs.create()
    run.import_zip(data, data.name)
    return run


def started(scheduler: Scheduler, data: Path, base: Path, owner: str, **choices: Any) -> PageRun:
    run = made(scheduler.runs, data)
    scheduler.start(run, {owner}, configure(run, base, **{"recipe": "finetune", "epochs": 5000} | choices))
    return run


def at_work(scheduler: Scheduler, run: PageRun) -> Callable[[], bool]:
    return lambda: scheduler.get_status(run).state == "running" and len(run.run_dir.epochs()) > 1
