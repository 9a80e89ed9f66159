"""Strangers at one page over HTTP: an attacker against another's run, and what is left behind.

The page runs as a process of its own; its callers have no manners, which browsers have.
"""

import http.client
import os
import re
import signal
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import psutil
import pytest
from helpers import ROOT
from helpers.data import save_base, wait, write_zip
from helpers.page import API, Caller, made, serving, wait_for_server
from helpers.program import Program

from resnet_hub.demo.runs.run import configure
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore

LABEL = "anns-secret-label"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    save_base(folder / "shelf" / "tiny")
    write_zip(folder / "anns-colors.zip", (LABEL, "green"))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serving(folder, is_attacked=True) as address:
        yield address


def get(address: str, target: str) -> tuple[int, bytes]:
    """The answer to exactly this target, which a client would tidy up."""
    host = urlsplit(address)
    connection = http.client.HTTPConnection(str(host.hostname), host.port, timeout=60)
    try:
        connection.putrequest("GET", target, skip_host=True)
        connection.putheader("Host", host.netloc)
        connection.endheaders()
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def test_an_attacker_finds_nothing_of_another_visitor(address: str, folder: Path) -> None:
    ann = Caller(address)
    run = ann.train(folder / "anns-colors.zip")
    result = str(ann.call("result"))
    assert LABEL in result
    exported = re.search(r"'path': '([^']+-data\.zip)'", str(ann.call("export")))
    packed = re.search(r"'path': '([^']+-model\.zip)'", result)
    assert exported and packed
    for path in (exported[1], packed[1]):
        assert ann.http.get(f"/{API}/file={path}").status_code == 200 and run not in path
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    mine = ("anns", run, *(path.parent.name for path in map(Path, (exported[1], packed[1]))))

    def nothing(said: str | bytes, what: object) -> None:
        """Ann's words are not in it, but for those that `what` was asked with: a page may repeat these."""
        text = said if isinstance(said, str) else said.decode("latin-1")
        assert not [word for word in mine if word in text and word not in str(what)], (what, text[:500])

    eve = Caller(address)
    other = run[:-1] + ("A" if run[-1] != "A" else "B")
    near = [run.swapcase(), run[:-1], other, f"{run}\0", f"{run}/", f"./{run}", f"../runs/{run}", f"{run}/run/model"]
    near += [str(folder / "runs" / run), "*", "?" * 32, "-" * 32, "", sha256(run.encode()).hexdigest()]

    # Every call of the page. A state is what the page remembers of the caller: there, even the id itself does nothing.
    for name in eve.calls:
        for guess in [*near, run]:
            data: list[Any] = [guess for _ in eve.inputs(name)]
            for place, kind in enumerate(eve.inputs(name)):
                if kind == "browserstate":
                    data[place] = {"visitor": "e" * 20, "run": other if guess == run else guess}
                elif kind != "state" and guess == run:  # where an id is what opens a run: its link
                    data[place] = other
            if guess in (run, other):  # the rest is the same to every call
                nothing(eve.send(name, data, event={"index": 0, "value": other, "input_value": other}), (name, guess))
    for guess in near:
        stored = {"visitor": "e" * 20, "run": guess}
        for name in ("find", "resume", "delete", "start_over"):
            nothing(eve.send(name, [None] * (len(eve.inputs(name)) - 1) + [stored]), (name, guess))
        nothing(eve.send("find", [None], query="?" + str(httpx2.QueryParams(run=guess))), ("link", guess))
        nothing(eve.send("choose", [guess, None]), ("choose", guess))
        nothing(eve.send("predict", [None, guess, 3]), ("predict", guess))

    # Event streams of other sessions, and what ends them.
    ann_asks = {"data": [None, None], "fn_index": ann.calls["watch"]["id"], "session_hash": ann.session}
    event = ann.http.post(f"/{API}/queue/join", json=ann_asks).json()["event_id"]
    for session in (ann.session[:-1], ann.session.upper(), f"{ann.session}\0", "", "*"):
        with eve.http.stream("GET", f"/{API}/queue/data", params={"session_hash": session}) as stream:
            nothing(next(stream.iter_text(), ""), session)
    for call in (f"call/predict/{event[:-1]}0", "call/predict/x", f"call/watch/{other}"):
        nothing(get(address, f"/{API}/{call}")[1], call)
    for path in ("cancel", "reset"):
        eve.http.post(f"/{API}/{path}", json={"event_id": "x", "session_hash": eve.session, "fn_index": 0})

    # The file route, in every spelling.
    root, shared = folder / "runs", Path(packed[1])
    files = [root / run / name for name in ("page.json", "run/report.json", "worker.log", "anns-colors.zip")]
    files += [root / run / "run" / "model" / "config.json", root / run / "weights" / "tiny" / "config.json"]
    files += [root / run / "run", root / run, root, shared.parent, shared.parent.parent]
    files += [shared.parent.with_name(sha256(other.encode()).hexdigest()) / shared.name]
    files += [shared.parent.with_name(shared.parent.name.upper()) / shared.name]
    (folder / "link").unlink(missing_ok=True)
    (folder / "link").symlink_to(root / run)
    files += [folder / "link" / "page.json"]
    uploads = shared.parent.parent
    for file in files:
        assert file.exists() or "link" not in str(file)
        plain = quote(str(file))
        for target in (
            *(plain, plain.replace("/", "%2F"), plain.replace("/", "%252F"), plain.replace("/", "//"), f"{plain}/"),
            *(f"{plain}%00", f"{plain}%00.png", f"{plain}%20", f"{plain}/.", plain.upper(), f"./{plain}", f"~{plain}"),
            *(f"{uploads}/..{plain}", f"{uploads}/%2e%2e/%2e%2e{plain}", f"{uploads}/../{file.relative_to(folder)}"),
            *(f"{uploads}/%252e%252e/{file.relative_to(folder)}", f"{uploads}\\..\\{file.name}", f"file:{plain}"),
        ):
            status, said = get(address, f"/{API}/file={target}")
            assert status in (400, 403, 404), (target, status)
            assert LABEL.encode() not in said and (said[:1] != b"{" or b"detail" in said), target

    after = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    assert {path: after.get(path) for path in before} == before
    assert "Finished" in str(ann.call("find", ann.stored))
    (folder / "link").unlink()


# -- what is left behind -----------------------------------------------------------------------------------------------


def test_runs_started_and_stopped_leave_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """Of three after the first; of a hundred with RUNS=100."""
    runs, me = RunStore(tmp_path / "runs"), psutil.Process()
    scheduler = Scheduler(runs)

    def one() -> None:
        run = made(runs, folder / "anns-colors.zip")
        scheduler.start(run, {"ann"}, configure(run, folder / "shelf" / "tiny", recipe="finetune", epochs=1000))
        wait(lambda: scheduler.get_status(run).state == "running")
        scheduler.stop(run)
        wait(lambda: not scheduler.get_status(run).is_active)
        scheduler.delete(run)

    one()
    before = me.num_fds(), me.num_threads(), len(me.children(recursive=True))
    for _ in range(int(os.environ.get("RUNS", "3"))):
        one()
    assert (me.num_fds(), me.num_threads(), len(me.children(recursive=True))) == before
    assert list(runs.root.iterdir()) == []
    scheduler.close()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_app(end: signal.Signals, folder: Path, tmp_path: Path) -> None:
    env = os.environ | {
        "GRADIO_TEMP_DIR": str(tmp_path / "uploads"),
        "RESNET_HUB_RUNS": str(tmp_path / "runs"),
        "PYTHONPATH": str(ROOT),
    }
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # unlike background jobs
    program += "from resnet_hub.demo import build, launch; launch(build('shelf'))"
    app = Program(program, cwd=folder, env=env, output=tmp_path / "log")
    try:
        caller = Caller(wait_for_server(app, tmp_path / "log"))
        caller.call("check_zip", caller.upload(folder / "anns-colors.zip"))
        caller.call("begin", caller.stored, "tiny", "finetune", 100)
        wait(lambda: "Epoch" in str(caller.call("watch")), 240)
        workers = psutil.Process(app.pid).children(recursive=True)
        assert workers
        app.send_signal(end)
        app.wait(30)
        _, alive = psutil.wait_procs(workers, 20)
        assert not alive
    finally:
        app.kill()
        app.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()
