"""What comes to the page past the page: raw requests, hostile calls, other sites; against the real app over HTTP."""

import asyncio
import base64
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from helpers import ROOT
from helpers.data import encode_image, save_base, write_zip
from helpers.page import wait_for_server
from helpers.program import Program
from PIL import Image

from resnet_hub.demo import guard, usage_limits, visitor
from resnet_hub.demo.guard import Guard
from resnet_hub.demo.housekeeping import delete_old_uploads, find_example_copies, start_log
from resnet_hub.demo.i18n import MESSAGES
from resnet_hub.demo.predict_tab.tab import EXAMPLES
from resnet_hub.demo.usage_limits import Budget
from resnet_hub.errors import ResNetHubError
from resnet_hub.version import __version__

API = "gradio_api"
META = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    save_base(folder / "shelf" / "tiny")
    write_zip(folder / "colors.zip")
    (folder / "red.png").write_bytes(encode_image(0, 99))
    (folder / "secret.txt").write_text("the password of the machine")
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[httpx2.Client]:
    """A client without manners, at the page."""
    settings = {
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "RESNET_HUB_RUNS": str(folder / "runs"),
        "RESNET_HUB_LOG": "info",
        "PYTHONPATH": str(ROOT),
    }
    program = "from resnet_hub.demo import build, launch; launch(build('shelf'))"
    server = Program(program, cwd=folder, env=os.environ | settings, output=folder / "log")
    try:
        address = wait_for_server(server, folder / "log")
        limits = httpx2.Limits(max_keepalive_connections=0)  # the server ends idle ones, also while this process waits
        with httpx2.Client(base_url=address, timeout=60, limits=limits) as client:
            yield client
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def bait() -> Iterator[tuple[str, list[str]]]:
    """A server inside the walls, and what it was asked for."""
    asked: list[str] = []

    class Inside(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"internal")

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Inside)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret.png", asked
    server.shutdown()
    server.server_close()


def call(site: httpx2.Client, data: list[Any]) -> str:
    """What a client reads that calls the endpoint."""
    reply = site.post(f"/{API}/call/predict", json={"data": data})
    if reply.status_code != 200:
        return reply.text
    with site.stream("GET", f"/{API}/call/predict/{reply.json()['event_id']}") as stream:
        return "".join(stream.iter_text())


def answer(site: httpx2.Client, place: int, data: Any) -> str:
    """What the page's own way of calling gives for any of its handlers, those without a name too."""
    session = f"junk{time.monotonic_ns()}"
    body = {"fn_index": place, "data": data, "session_hash": session, "event_data": None, "trigger_id": None}
    reply = site.post(f"/{API}/queue/join", json=body)
    if reply.status_code != 200:
        assert reply.status_code < 500, reply.text
        return reply.text
    with site.stream("GET", f"/{API}/queue/data", params={"session_hash": session}) as stream:
        assert stream.status_code < 500
        found = ""
        for part in stream.iter_text():
            found += part
            if "process_completed" in found or "close_stream" in found:
                return found
    return found


def upload(site: httpx2.Client, content: bytes, name: str = "red.png") -> str:
    reply = site.post(f"/{API}/upload", files={"files": (name, content)})
    assert reply.status_code == 200
    return reply.json()[0]


# -- routes ------------------------------------------------------------------------------------------------------------


def test_the_page_and_its_health(site: httpx2.Client) -> None:
    assert site.get("/health").json() == {"status": "ok", "version": __version__}
    page = site.get("/")
    assert f"resnet_hub {__version__}" in page.text
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "run/predict"),
        ("POST", "api/predict"),
        ("POST", "component_server"),
        ("POST", "vibe-edit"),
        ("GET", "vibe-code"),
        ("POST", "process_recording"),
        ("GET", "proxy=http://127.0.0.1/"),
        ("GET", "runs"),
        ("POST", "run-history/connect"),
        ("GET", "deep_link"),
        ("GET", "dev/reload"),
        ("GET", "token"),
        ("GET", "file/etc/passwd"),
        ("GET", "custom_component/1/server/component/x"),
        ("POST", "stream/1"),
        ("GET", "../monitoring"),
        ("GET", "../monitoring/summary"),
        ("GET", "../docs"),
        ("DELETE", "queue/join"),
    ],
)
def test_routes_that_the_page_does_not_need_are_not_there(site: httpx2.Client, method: str, path: str) -> None:
    reply = site.request(method, f"/{API}/{path}" if not path.startswith("..") else path[2:])
    assert reply.status_code == 404 and reply.json() == {"detail": "There is nothing here."}


def test_no_file_of_the_machine_and_no_address_is_served(
    site: httpx2.Client, folder: Path, bait: tuple[str, list[str]]
) -> None:
    address, asked = bait
    own = upload(site, b"<script>alert(1)</script>", "page.html")
    for path in (
        "/etc/passwd",
        str(folder / "secret.txt"),
        str(folder / "shelf" / "tiny" / "config.json"),
        str(folder / "runs"),
        str(folder / "uploads"),
        f"{Path(own).parent}/../../secret.txt",
        "..%2f..%2fetc%2fpasswd",
        "/proc/self/environ",
        address,
        "file:///etc/passwd",
        " http://127.0.0.1/",
        "HTTP:/127.0.0.1/",
    ):
        assert site.get(f"/{API}/file={path}").status_code in (403, 404), path
    assert asked == []
    mine = site.get(f"/{API}/file={own}")  # under its name, which nobody can guess
    assert mine.status_code == 200 and "attachment" in mine.headers["content-disposition"]
    assert "sandbox" in mine.headers["content-security-policy"]


# -- calls -------------------------------------------------------------------------------------------------------------


def test_an_image_is_classified(site: httpx2.Client, folder: Path) -> None:
    path = upload(site, (folder / "red.png").read_bytes())
    assert '"score"' in call(site, [{"path": path, **META}, "tiny", 2])
    assert '"score"' in call(
        site, [{"path": f"{str(site.base_url).rstrip('/')}/{API}/file={path}", **META}, "tiny", 2]
    )  # as agents do


def test_an_agent_can_only_send_an_image(site: httpx2.Client, folder: Path, bait: tuple[str, list[str]]) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    address, asked = bait
    page = str(site.base_url).rstrip("/")
    red = (folder / "red.png").read_bytes()
    path = upload(site, red)

    async def calls(pictures: list[Any], model: Any = "tiny") -> list[tuple[bool, str]]:
        async with (
            streamable_http_client(f"{page}/{API}/mcp/") as (receive, send, _),
            ClientSession(receive, send) as session,
        ):
            await session.initialize()
            assert [tool.name for tool in (await session.list_tools()).tools] == ["predict"]
            answers = []
            for picture in pictures:
                answer = await session.call_tool("predict", {"image": picture, "model": model, "top_k": 2})
                answers.append((bool(answer.isError), str(answer.content)))
            return answers

    def data(content: bytes, kind: str = "image/png") -> str:
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    for failed, said in asyncio.run(calls([data(red), data(red, "text/html"), f"{page}/{API}/file={path}"])):
        assert not failed and "score" in said
    refused = (address, f"{address}?x=.png", "https://169.254.169.254/latest/", f"{page}/{API}/file={address}", path)
    refused += ("/etc/passwd", "file:///etc/passwd", "ftp://127.0.0.1/x", f" {address}", "", "text", 3, None, [path])
    refused += ({"path": str(folder / "red.png"), **META}, [{"path": str(folder / "secret.txt"), **META}], {})
    hostile = [
        *((sent, "Send the image as data") for sent in refused),
        (f"{page}/{API}/file={folder}/secret.txt", ""),
        (data(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "format is not supported"),
        (data(b"no picture"), "format is not supported"),
        (data(b""), "empty"),
        (data(b"x", "../../../../evil"), "format is not supported"),
        *((sent, "") for sent in ("data:", "data:image/png;base64,%%%", "data:image/png;base64,AAA")),
    ]
    answers = asyncio.run(calls([sent for sent, _ in hostile]))
    for (sent, words), (failed, said) in zip(hostile, answers, strict=True):
        assert failed and words in said and "score" not in said, (sent, said)
        assert "Traceback" not in said and "password" not in said and len(said) < 1000
    ((failed, said),) = asyncio.run(calls([data(red)], {"path": str(folder / "secret.txt"), **META}))
    assert failed and "Send the image as data" in said
    assert asked == []


def test_files_that_were_not_uploaded_are_not_read(
    site: httpx2.Client, folder: Path, bait: tuple[str, list[str]]
) -> None:
    address, asked = bait
    path = upload(site, (folder / "red.png").read_bytes())
    for file in (
        {"path": str(folder / "secret.txt"), **META},
        {"path": str(folder / "secret.txt")},
        {"path": str(folder / "red.png"), "meta": {"_type": "gradio.FileData", "more": 1}},
        {"path": f"{Path(path).parent}/../../red.png", **META},
        {"path": address, **META},
        {"path": address, "url": address, **META},
        {"path": f" {address}", **META},
        {"path": address.replace("127.0.0.1", "0x7f.1"), **META},
        {"path": "file:///etc/passwd", **META},
        {"path": "data:image/png;base64,AAAA", **META},
        {"path": f"{str(site.base_url).rstrip('/')}/{API}/file={folder}/secret.txt", **META},
        {"path": f"{str(site.base_url).rstrip('/')}/{API}/file={address}", **META},
        {"path": "https://169.254.169.254/latest/meta-data/", **META},
        {"path": None, "url": address, **META},
        {"url": address, **META},
        [{"path": address, **META}] * 3,
        str(folder / "red.png"),
        address,
    ):
        said = call(site, [file, "tiny", 2])
        assert '"score"' not in said and "password" not in said and "Traceback" not in said, file
    assert asked == []


def test_the_endpoint_answers_nonsense_in_a_sentence(site: httpx2.Client, folder: Path) -> None:
    file = {"path": upload(site, (folder / "red.png").read_bytes()), **META}
    for data, words in {
        (None, "tiny", 3): "There is no image",
        ("file", "/etc/passwd", 3): "neither in the list",
        ("file", "https://example.org/x", 3): "neither in the list",
        ("file", "../shelf/tiny", 3): "neither in the list",
        ("file", "x" * 100_000, 3): "neither in the list",
        ("file", 7, 3): "neither in the list",
        ("file", "tiny", "three"): "top_k is",
        ("file", "tiny", None): "top_k is",
        ("file", "tiny", 10**9): "top_k is",
        ("file", "tiny", float("1e308")): "top_k is",
    }.items():
        assert words in call(site, [file if part == "file" else part for part in data]), data
    for data in ([], ["a"] * 1000, {"image": 1}, None, "text"):
        assert '"score"' not in call(site, data)  # type: ignore[arg-type]


def test_answers_of_unknown_sessions_end(site: httpx2.Client) -> None:
    for path in ("queue/data?session_hash=unknown", "queue/data?session_hash=", "call/predict/unknown", "call/a/b"):
        reply = site.get(f"/{API}/{path}")
        assert "Not Found" in reply.text and "data" in reply.text


def test_junk_at_every_handler_is_answered_and_reaches_nothing(
    site: httpx2.Client, folder: Path, bait: tuple[str, list[str]]
) -> None:
    address, asked = bait
    secret = str(folder / "secret.txt")
    junk = [
        None,
        [[[]]] * 3,
        -(10**30),
        "x" * 20_000,
        {"path": secret, **META},
        {"url": address, "path": address, **META},
        {"path": "file:///etc/passwd"},
    ]
    handlers = site.get("/config").json()["dependencies"]
    assert len(handlers) > 10
    for place, handler in enumerate(handlers):
        if not handler.get("backend_fn", True):
            continue
        count = len(handler["inputs"])
        for value in junk[place % 3 :: 3]:  # every handler gets some, all are used
            said = answer(site, handler.get("id", place), [value] * count)
            assert "the password of the machine" not in said and "root:" not in said and "Traceback" not in said
        for wrong in ([None] * (count + 40), []):
            said = answer(site, handler.get("id", place), wrong)
            assert "Traceback" not in said
    assert asked == []
    assert site.get("/health").status_code == 200
    assert "Traceback" not in (folder / "log").read_text()


def test_bodies_have_bounds(site: httpx2.Client) -> None:
    for path in (f"/{API}/queue/join", f"/{API}/call/predict", f"/{API}/call/v2/predict"):
        reply = site.post(path, content=b'{"data": ["' + b"x" * 2**20 + b'"]}')
        assert reply.status_code == 413 and "over 1 MB" in reply.text
        for body in (b"", b"{", b"[1]", b"[" * 500_000, b"\xff"):
            assert site.post(path, content=body).status_code == 400
    long = {"fn_index": 0, "data": [], "session_hash": "x" * 101}
    assert site.post(f"/{API}/queue/join", json=long).status_code == 400
    for body in (b"{", b"[" * 500_000):
        assert site.post(f"/{API}/mcp/", content=body).status_code == 400
    reply = site.post(f"/{API}/mcp/", content=b" " * (21 * 2**20))
    assert reply.status_code == 413 and "over 20 MB" in reply.text


def test_the_log_has_a_line_per_event_and_no_personal_data(site: httpx2.Client, folder: Path) -> None:
    upload(site, b"x", "diary-of-anna.png")
    said = (folder / "log").read_text()
    lines = [line for line in said.splitlines() if " INFO POST " in line]
    assert lines and all(
        re.search(r"INFO POST (\?|a call|/gradio_api/upload|/gradio_api/mcp) \d+ \d+ ms$", x) for x in lines
    )
    assert "anna" not in said and "127.0.0.1 " not in said
    assert not re.search(r"session_hash|[?&]run=", said)
    assert "Traceback" not in said  # of what the tests before have sent, too


# -- alone -------------------------------------------------------------------------------------------------------------


def asked(
    app: Any,
    method: str,
    path: str,
    body: bytes = b"",
    session: dict[str, Any] | None = None,
    client: str = "1.2.3.4",
    query: str = "",
    **headers: str,
) -> tuple[int, str]:
    """What the guard answers to one request; 200 "in" is what lies behind it."""
    pieces = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    fields = [(key.replace("_", "-").encode(), value.encode()) for key, value in {"host": "page", **headers}.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": fields, "client": (client, 5)}
    scope |= {"session": session or {}, "query_string": query.encode()}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode()


async def inside(scope: Any, receive: Any, send: Any) -> None:
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


JOIN, SIGNED_IN = f"/{API}/queue/join", {"oauth_info": {"access_token": "hf_x"}}


def test_another_site_cannot_act_for_a_signed_in_visitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    door = Guard(inside, tmp_path)

    def status(session: dict[str, Any] | None = SIGNED_IN, **headers: str) -> int:
        return asked(door, "POST", JOIN, b"{}", session, **headers)[0]

    assert status() == 200  # a program
    assert status(origin="https://page") == 200
    assert status(None, origin="https://evil.example") == 200  # as nobody
    code, said = asked(door, "POST", JOIN, b"{}", SIGNED_IN, origin="https://evil.example")
    assert code == 403 and "Only this page may act" in said
    assert status(origin="null") == 403
    for site, found in {"same-origin": 200, "none": 200, "same-site": 403, "cross-site": 403}.items():
        assert status(origin="https://proxied", sec_fetch_site=site) == found
    out = {"origin": "https://out", "x_forwarded_host": "out"}
    assert status(**out) == 403  # any script can say that
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert status(**out) == 200
    assert status(**out, sec_fetch_site="cross-site") == 403


def test_another_site_does_not_act_for_the_local_user(tmp_path: Path) -> None:
    door = Guard(inside, tmp_path)
    local = {"client": "127.0.0.1", "host": "localhost:7860"}
    assert asked(door, "POST", JOIN, b"{}", **local)[0] == 200
    assert asked(door, "POST", JOIN, b"{}", **local, origin="http://localhost:7860")[0] == 200
    assert asked(door, "POST", JOIN, b"{}", **local, origin="http://localhost:3000")[0] == 403
    for path in ("upload", "live"):
        assert asked(door, "POST", f"/{API}/{path}", b"x", **local, sec_fetch_site="cross-site")[0] == 403
    proxied = {"client": "127.0.0.1", "host": "inner", "x_forwarded_for": "1.2.3.4"}  # without a token of its own
    assert asked(door, "POST", JOIN, b"{}", **proxied, origin="https://out")[0] == 200


def test_refusals_of_uploads_and_calls_name_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    door = Guard(inside, tmp_path)
    door.sent = Budget(100, 150, 60)
    assert asked(door, "POST", f"/{API}/upload", bytes(90))[0] == 200
    status, said = asked(door, "POST", f"/{API}/upload", bytes(20))
    assert status == 413 and "A visitor may upload 4 GB an hour" in said
    monkeypatch.setattr(guard, "get_address", lambda scope: "another")
    status, said = asked(door, "POST", f"/{API}/upload", bytes(70))
    assert status == 507 and "All visitors may upload 16 GB an hour" in said
    assert asked(door, "POST", f"/{API}/live", bytes(guard.MAX_FRAME))[0] == 200
    assert asked(door, "POST", f"/{API}/live", bytes(guard.MAX_FRAME + 1))[0] == 413
    door.frames = Budget(2, 10, 60)
    assert [asked(door, "POST", f"/{API}/live", b"x")[0] for _ in range(3)] == [200, 200, 429]
    door.calls = Budget(2, 10, 60)
    assert [asked(door, "POST", JOIN, b"{}")[0] for _ in range(3)] == [200, 200, 429]
    monkeypatch.setattr(guard, "FREE_BYTES", 2**80)
    status, said = asked(door, "POST", f"/{API}/upload", b"x")
    assert status == 507 and "disk" in said


def test_an_address_has_a_quarter_of_the_queue_and_reads_its_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_limits, "MAX_WAITING_CALLS", 8)
    monkeypatch.setattr(guard, "MAX_WAITING_CALLS", 8)
    monkeypatch.setattr(usage_limits, "MAX_UNREAD", 3)
    events = iter(f"{number:032x}" for number in range(100))

    async def gradio(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        body = json.dumps({"event_id": next(events)}) if scope["method"] == "POST" else '{"msg":"estimation"}'
        if scope["query_string"] == b"session_hash=ann":
            body = json.dumps({"msg": "process_completed", "event_id": ann[1], "output": {}})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    door = Guard(gradio, tmp_path)

    def join(client: str, session: str, **headers: str) -> tuple[int, str]:
        body = json.dumps({"fn_index": 0, "data": [], "session_hash": session}).encode()
        status, said = asked(door, "POST", JOIN, body, client=client, **headers)
        return status, str(json.loads(said).get("event_id") or json.loads(said)["detail"])

    mine = [join("6.6.6.6", str(number)) for number in range(3)]
    assert [status for status, _ in mine] == [200, 200, 503]
    assert mine[2][1] == MESSAGES["en"]["address_calls"].format(count=2)
    assert join("6.6.6.6", "0", accept_language="zh-CN")[1] == MESSAGES["zh"]["address_calls"].format(count=2)
    ann = join("1.1.1.1", "ann")
    assert ann[0] == 200
    assert all(join("127.0.0.1", f"own {number}")[0] == 200 for number in range(4))
    door.open_calls.note_start(mine[0][1])  # it leaves the queue: its place is free
    assert join("6.6.6.6", "0")[0] == 200
    assert join("7.7.7.7", "full")[0] == 200  # the eighth
    for language, texts in (("de", MESSAGES["en"]), ("zh-CN", MESSAGES["zh"])):
        assert join("8.8.8.8", "late", accept_language=language) == (503, texts["crowded"])
    answers = f"/{API}/queue/data"
    assert asked(door, "GET", answers, query="session_hash=own 0")[0] == 200  # its stream ends: Gradio drops its calls
    assert join("8.8.8.8", "late")[0] == 200
    for event in door.open_calls._calls:
        door.open_calls.note_start(event)
    assert [join("1.1.1.1", "ann")[0] for _ in range(2)] == [200, 200]
    assert join("1.1.1.1", "ann") == (503, MESSAGES["en"]["crowded"])  # three answers are not read
    door.open_calls.remove(ann[1])
    for event in door.open_calls._calls:
        door.open_calls.note_start(event)
    assert join("1.1.1.1", "ann")[0] == 200
    assert asked(door, "GET", answers, query="session_hash=ann")[0] == 200
    assert not [call for call in door.open_calls._calls.values() if call.session == "ann"]


def test_a_call_that_starts_at_once_or_is_canceled_does_not_wait(tmp_path: Path) -> None:
    calls = usage_limits.OpenCalls()
    calls.note_start("fast")  # before the guard has read its id
    calls.add("fast", "6.6.6.6", "eve")
    calls.add("slow", "6.6.6.6", "eve")
    assert calls._waiting == {"slow"}
    door = Guard(inside, tmp_path, calls)
    cancel = json.dumps({"event_id": "slow", "session_hash": "eve", "fn_index": 0}).encode()
    assert asked(door, "POST", f"/{API}/cancel", cancel)[0] == 200 and not calls._waiting
    calls.remove_session("eve")
    assert not calls._calls


def test_an_internal_error_is_one_line_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("resnet_hub"), "propagate", True)

    async def breaking(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"so f", "more_body": True})
        raise KeyError("anna")

    door = Guard(breaking, tmp_path)
    assert asked(door, "GET", f"/{API}/queue/data") == (200, "so f")
    status, said = asked(door, "POST", JOIN, b"{}")
    assert status == 500 and "could not be answered" in said
    assert [line for line in caplog.messages if "KeyError" in line] == ["KeyError in a call"]  # the other is no error


def test_a_budget_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(usage_limits.time, "monotonic", lambda: now)
    budget = Budget(10, 15, 60)
    assert [budget.use("a", 10), budget.use("a", 1), budget.use("b", 6), budget.use("b", 5)] == [
        "",
        "each",
        "everyone",
        "",
    ]
    now = 61.0
    assert [budget.use("a", 10), *(budget.use("b", 1) for _ in range(5))] == [""] * 6
    assert len(budget._used) == 2 and len(budget._uses) == 2  # a body may come in many small parts


def test_request_bodies_have_a_size_and_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_limits, "MAX_MEMORY_EACH", 100)
    monkeypatch.setattr(usage_limits, "MAX_MEMORY", 150)
    monkeypatch.setattr(guard, "CALL_TIME", 0.2)
    door = Guard(inside, tmp_path)

    async def calls() -> None:
        async def send_part(visitor: str, size: int, path: str = f"/{API}/mcp/") -> Any:
            """A call of which a part comes, and then nothing: its answer."""
            parts = [{"type": "http.request", "body": b" " * size, "more_body": True}]
            sent: list[Any] = []

            async def receive() -> Any:
                return parts.pop(0) if parts else await asyncio.Event().wait()

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": path, "headers": [], "client": (visitor, 5)}
            await door(scope, receive, send)
            return sent[0]["status"]

        found = asyncio.gather(*(send_part(*call) for call in (("a", 90), ("a", 20, JOIN), ("b", 50), ("c", 20))))
        assert await found == [408, 503, 408, 503]
        assert not door.memory._bytes
        assert door.sent._total == 160  # of agents, also where it is refused; the bytes have come
        assert await send_part("a", 90) == 408  # given back

    asyncio.run(calls())


def test_a_visitor_of_a_space_is_who_its_proxies_name(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = {"headers": [(b"x-forwarded-for", b"6.6.6.6, 8.8.8.8, 10.1.2.3")], "client": ("10.0.0.9", 1)}
    assert visitor.get_address(scope) == "10.0.0.9"
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert visitor.get_address(scope) == "8.8.8.8"
    assert visitor.get_address({"headers": [(b"x-forwarded-for", b"nonsense")], "client": None}) == ""
    lines = [(b"x-forwarded-for", hops) for hops in (b"6.6.6.6", b"8.8.8.8")]
    assert visitor.get_address({"headers": lines, "client": None}) == "8.8.8.8"
    for hop, found in {
        "2a00:1:2:3:4:5:6:7": "2a00:1:2:3::/64",
        "2a00:1:2:3:ffff::1": "2a00:1:2:3::/64",
        "::ffff:8.8.4.4": "8.8.4.4",
        "::1": "10.0.0.9",
    }.items():
        scope["headers"] = [(b"x-forwarded-for", hop.encode())]
        assert visitor.get_address(scope) == found
    assert visitor.get_address({"headers": [], "client": ("::1", 1)}) == "::1"


def test_uploads_are_deleted_when_they_are_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").touch()
    (tmp_path / "old" / "link").symlink_to("/etc")
    for path in (*(tmp_path / "old").iterdir(), tmp_path / "old"):
        os.utime(path, (1, 1), follow_symlinks=False)
    own = tmp_path / "new" / "example.jpg"  # of the page itself, however old
    own.touch()
    os.utime(own, (1, 1))
    (tmp_path / "run").mkdir()  # served of a run that is there
    (tmp_path / "run" / "model.zip").touch()
    os.utime(tmp_path / "run" / "model.zip", (1, 1))
    os.utime(tmp_path / "run", (1, 1))
    delete_old_uploads(tmp_path, keep={own, tmp_path / "run"})
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["example.jpg", "model.zip", "new", "old", "photo.png", "run"]  # the folder goes next time
    assert Path("/etc").is_dir()


def test_the_copies_of_the_examples_are_known_by_their_content(tmp_path: Path) -> None:
    for folder, content in (("copy", EXAMPLES[0].read_bytes()), ("upload", b"of a visitor, under the same name")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / EXAMPLES[0].name).write_bytes(content)
    assert find_example_copies(tmp_path) == {tmp_path / "copy" / EXAMPLES[0].name}


def test_the_level_of_the_log_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.getLogger("resnet_hub").level
    monkeypatch.setenv("RESNET_HUB_LOG", "loud")
    with pytest.raises(ResNetHubError, match="RESNET_HUB_LOG is 'loud'; choose debug"):
        start_log()
    assert logging.getLogger("resnet_hub").level == before


def test_the_endpoint_takes_images_as_data(site: httpx2.Client) -> None:
    urls = []
    for format in ("PNG", "JPEG", "BMP"):
        Image.new("RGB", (40, 30), (200, 30, 30)).save(content := io.BytesIO(), format)
        urls.append(f"data:image/{format.lower()};base64,{base64.b64encode(content.getvalue()).decode()}")
    for url in (*urls, f"{urls[0][:60]}\n{urls[0][60:]}"):  # as some tools wrap it
        for image in (url, {"url": url}, {"path": None, "url": url, **META}):
            assert call(site, [image, "tiny", 2]).count('"label"') == 2, image
    for url, message in (
        ("data:image/png;base64,???", "not valid base64"),
        ("data:image/png;base64,AAAA", "Cannot read"),
        ("data:text/plain,hello", "Send the image as data"),
        (None, "Send the image as data"),
    ):
        assert message in call(site, [{"url": url, **META}, "tiny", 2]), url
    parameter = site.get(f"/{API}/info").json()["named_endpoints"]["/predict"]["parameters"][0]
    for data in ([parameter["example_input"], "tiny"], [urls[0], "tiny", 1, "more"], [urls[0]]):
        assert '"label"' in call(site, data), data
    assert "ublicly available" not in json.dumps(parameter) and "http" not in json.dumps(parameter)
