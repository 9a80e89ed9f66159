"""What comes to the page past the page: raw requests, hostile calls, other sites; against the real app over HTTP."""

import asyncio
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from test_runs import picture, save_base, write_zip

from resnet_hub import __version__
from resnet_hub.demo import guard
from resnet_hub.demo.guard import Budget, Guard, start_log, sweep
from resnet_hub.errors import ResNetHubError

API = "gradio_api"
META = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    save_base(folder / "shelf" / "tiny")
    write_zip(folder / "colours.zip")
    (folder / "red.png").write_bytes(picture(0, 99))
    (folder / "secret.txt").write_text("the password of the machine")
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[httpx2.Client]:
    """A client without manners, at the page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "RESNET_HUB_RUNS": str(folder / "runs"),
        "RESNET_HUB_LOG": "info",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    program = "from resnet_hub.demo import build, launch; launch(build('shelf'))"
    # Where a handler cannot even be given its arguments, Gradio writes a traceback to the log; no visitor reads it.
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", program], env=os.environ | settings, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for _ in range(600):
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx2.TransportError:
                    time.sleep(0.1)
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


def test_a_picture_is_classified(site: httpx2.Client, folder: Path) -> None:
    path = upload(site, (folder / "red.png").read_bytes())
    assert '"score"' in call(site, [{"path": path, **META}, "tiny", 2])
    assert '"score"' in call(
        site, [{"path": f"{str(site.base_url).rstrip('/')}/{API}/file={path}", **META}, "tiny", 2]
    )  # as agents do


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
        ("file", None, 3): "neither in the list",
        ("file", 7, 3): "neither in the list",
        ("file", "tiny", "three"): "top_k is",
        ("file", "tiny", None): "top_k is",
        ("file", "tiny", 10**9): "top_k is",
        ("file", "tiny", float("1e308")): "top_k is",
    }.items():
        assert words in call(site, [file if part == "file" else part for part in data]), data
    for data in ([], ["a"] * 1000, {"image": 1}, None, "text"):
        assert '"score"' not in call(site, data)  # type: ignore[arg-type]


def test_bodies_have_bounds(site: httpx2.Client) -> None:
    for path in (f"/{API}/queue/join", f"/{API}/call/predict", f"/{API}/call/v2/predict"):
        reply = site.post(path, content=b'{"data": ["' + b"x" * 2**20 + b'"]}')
        assert reply.status_code == 413 and "at most 1 MB" in reply.text
        for body in (b"", b"{", b"[1]", b"[" * 500_000, b"\xff"):
            assert site.post(path, content=body).status_code == 400
    reply = site.post(f"/{API}/mcp/", content=b" " * (21 * 2**20))
    assert reply.status_code == 413 and "at most 20 MB" in reply.text


def test_the_log_has_a_line_an_event_and_nobody_in_it(site: httpx2.Client, folder: Path) -> None:
    upload(site, b"x", "diary-of-anna.png")
    said = (folder / "log").read_text()
    lines = [line for line in said.splitlines() if " INFO POST " in line]
    assert lines and all(
        re.search(r"INFO POST (\?|a call|/gradio_api/upload|/gradio_api/mcp) \d+ \d+ ms$", x) for x in lines
    )
    assert "anna" not in said and "127.0.0.1 " not in said
    assert not re.search(r"session_hash|[?&]run=", said)


# -- alone -------------------------------------------------------------------------------------------------------------


def asked(
    app: Any, method: str, path: str, body: bytes = b"", session: dict[str, Any] | None = None, **headers: str
) -> tuple[int, str]:
    """What the guard answers to one request; 200 "in" is what lies behind it."""
    pieces = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    fields = [(key.replace("_", "-").encode(), value.encode()) for key, value in {"host": "page", **headers}.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": fields, "client": ("1.2.3.4", 5)}
    scope["session"] = session or {}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode()


async def inside(scope: Any, receive: Any, send: Any) -> None:
    while (message := await receive())["type"] == "http.request" and message["more_body"]:
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


JOIN, SIGNED_IN = f"/{API}/queue/join", {"oauth_info": {"access_token": "hf_x"}}


def test_another_site_does_not_act_for_whoever_is_signed_in(tmp_path: Path) -> None:
    door = Guard(inside, tmp_path)
    assert asked(door, "POST", JOIN, b"{}", SIGNED_IN)[0] == 200  # a program
    assert asked(door, "POST", JOIN, b"{}", SIGNED_IN, origin="https://page")[0] == 200
    assert asked(door, "POST", JOIN, b"{}", SIGNED_IN, origin="https://out", x_forwarded_host="out")[0] == 200
    assert asked(door, "POST", JOIN, b"{}", None, origin="https://evil.example")[0] == 200  # as nobody
    status, said = asked(door, "POST", JOIN, b"{}", SIGNED_IN, origin="https://evil.example")
    assert status == 403 and "by this page alone" in said
    assert asked(door, "POST", JOIN, b"{}", SIGNED_IN, origin="null")[0] == 403


def test_uploads_and_calls_have_budgets_that_say_how_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    door = Guard(inside, tmp_path)
    door.sent = Budget(100, 150, 60)
    assert asked(door, "POST", f"/{API}/upload", bytes(90))[0] == 200
    status, said = asked(door, "POST", f"/{API}/upload", bytes(20))
    assert status == 413 and "A visitor may upload 4 GB an hour" in said
    monkeypatch.setattr(guard, "_visitor", lambda scope: "another")
    status, said = asked(door, "POST", f"/{API}/upload", bytes(70))
    assert status == 507 and "All visitors may upload 16 GB an hour" in said
    door.calls = Budget(2, 10, 60)
    assert [asked(door, "POST", JOIN, b"{}")[0] for _ in range(3)] == [200, 200, 429]
    monkeypatch.setattr(guard, "FREE_BYTES", 2**80)
    status, said = asked(door, "POST", f"/{API}/upload", b"x")
    assert status == 507 and "disk" in said


def test_a_budget_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    budget = Budget(10, 15, 60)
    assert [budget.use("a", 10), budget.use("a", 1), budget.use("b", 6), budget.use("b", 5)] == [
        "",
        "each",
        "everyone",
        "",
    ]
    now = 61.0
    assert [budget.use("a", 10), budget.use("b", 5)] == ["", ""]
    assert len(budget._used) == 2


def test_a_visitor_of_a_space_is_who_its_proxies_name(monkeypatch: pytest.MonkeyPatch) -> None:
    scope = {"headers": [(b"x-forwarded-for", b"6.6.6.6, 8.8.8.8, 10.1.2.3")], "client": ("10.0.0.9", 1)}
    assert guard._visitor(scope) == "10.0.0.9"
    monkeypatch.setenv("SPACE_ID", "user/space")
    assert guard._visitor(scope) == "8.8.8.8"
    assert guard._visitor({"headers": [(b"x-forwarded-for", b"nonsense")], "client": None}) == ""


def test_uploads_are_deleted_when_they_are_old(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "photo.png").touch()
    (tmp_path / "old" / "link").symlink_to("/etc")
    for path in (*(tmp_path / "old").iterdir(), tmp_path / "old"):
        os.utime(path, (1, 1), follow_symlinks=False)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old", "photo.png"]  # the folder goes next time
    assert Path("/etc").is_dir()


def test_the_level_of_the_log_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    before = logging.getLogger("resnet_hub").level
    monkeypatch.setenv("RESNET_HUB_LOG", "loud")
    with pytest.raises(ResNetHubError, match="RESNET_HUB_LOG is 'loud'; choose debug"):
        start_log()
    assert logging.getLogger("resnet_hub").level == before
