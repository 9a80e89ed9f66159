"""A token is in the request that needs it, and nowhere else: a marked one, everything done once, and a look everywhere.

A local user has it saved, as `hf auth login` does; a visitor of a Space signs in, and its owner has one of their own.
"""

import asyncio
import base64
import hashlib
import io
import json
import secrets
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.data import encode_image, save_base, wait, write_zip
from helpers.hub_server import Hub, Job, Repo
from helpers.page import API, Caller, serving
from itsdangerous import TimestampSigner

MINE, OWNERS = "hf_Mine0Marker1Of2A3Token4", "hf_Owner5Marker6Of7A8Token9"


def forms(token: str) -> list[bytes]:
    """The token in whatever writing: as it is, in base64 at any place, in hex, in two bytes a character."""
    packed = [base64.b64encode(bytes(shift) + token.encode())[4 * (shift > 0) : -4] for shift in range(3)]
    return [token.encode(), *packed, token.encode().hex().encode(), token.encode("utf-16-le")]


def holds(content: bytes, token: str) -> bool:
    if any(form in content for form in forms(token)):
        return True
    if content[:2] != b"PK":
        return False
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        return any(holds(packed.read(name), token) for name in packed.namelist())


class Ears:
    """What a Hub heard but for the two places where a token belongs: the header of its name, and a job's secrets."""

    def __init__(self, hub: Hub):
        self.hub, self.used, self.rest = hub, set[str](), list[bytes]()
        hub.heard = self.hear

    def hear(self, request: str, headers: Mapping[str, str], body: bytes) -> None:
        told = {name.lower(): text for name, text in headers.items()}
        self.used.add(told.pop("authorization", "").removeprefix("Bearer "))
        if request.startswith("POST /api/jobs/") and body:
            spec = json.loads(body)
            self.used |= set(spec.pop("secrets", {}).values())
            body = json.dumps(spec).encode()
        self.rest += [request.encode(), json.dumps(told).encode(), body]

    def said(self) -> Iterator[bytes]:
        """And all that it keeps: files, names, messages, logs of jobs."""
        yield from self.rest
        for name, repo in self.hub.repos.items():
            yield from (name.encode(), *(line.encode() for line in repo.log))
            for files in repo.commits.values():
                for path, content in files.items():
                    yield from (path.encode(), content)
        yield from self.hub.blobs.values()
        for job in self.hub.jobs.values():
            yield from (line.encode() for line in job.log)


class Visitor(Caller):
    """A caller who keeps all that the page has answered."""

    def __init__(self, address: str, **headers: str):
        super().__init__(address, **headers)
        self.answers = [self.http.get(path).text for path in ("/", "/config", "/gradio_api/info")]

    def send(self, name: str, data: list[Any], query: str = "", event: Any = None) -> str:
        self.answers.append(super().send(name, data, query, event))
        return self.answers[-1]

    def everything(self, folder: Path, base: str, tokens: tuple[str, ...]) -> None:
        """Every act of the page that a token is for, done and refused."""
        photo = self.upload(folder / "red.png")
        for model in ("tiny", "user/base", "owner/secret", "user/absent"):
            self.tell("predict", photo, model, 2)
            self.tell("choose", model)
        for name in ("suggest", "_suggest"):
            self.tell(name, event={"key": "s", "input_value": "bas"})
        self.call("check_zip", self.upload(folder / "colors.zip"))
        self.tell("begin", self.stored, "user/absent", "head")
        self.call("begin", self.stored, base, "head")
        self.look_at_workers(folder, tokens)
        wait(lambda: "Finished" in str(self.call("watch")), 600)  # a worker of low priority
        for name in ("result", "export"):
            self.call(name)

    def tell(self, name: str, *values: Any, event: Any = None) -> str:
        """As `call`; what comes back may be a refusal."""
        own = self.session
        if name == "predict":  # as programs call it, of whom the page remembers nothing
            self.session = secrets.token_hex(8)
        try:
            return str(self.call(name, *values, event=event))
        except AssertionError:
            return self.answers[-1]
        finally:
            self.session = own

    def look_at_workers(self, folder: Path, tokens: tuple[str, ...]) -> None:
        """Training is a process, whose arguments any user of the machine may read."""
        found: list[psutil.Process] = []

        def seen() -> list[psutil.Process]:
            for child in psutil.Process().children(recursive=True):
                if "resnet_hub.training.worker" in " ".join(child.cmdline()):
                    found.append(child)
            return found

        wait(seen, 60)
        said = " ".join(found[0].cmdline()) + json.dumps(found[0].environ())
        assert str(folder) in said
        assert not [token for token in tokens if holds(said.encode(), token)]


def cookie(secret: str, token: str) -> str:
    """What Gradio gives the browser of whoever has signed in."""
    about = {"name": "User", "preferred_username": "user", "profile": "", "picture": ""}
    info = {"access_token": token, "scope": "contribute-repos", "expires_at": int(time.time()) + 3600}
    session = base64.b64encode(json.dumps({"oauth_info": info | {"userinfo": about}}).encode())
    key = hashlib.sha256(f"{secret}-v4".encode()).hexdigest()
    return f"session={TimestampSigner(key).sign(session).decode()}"


@pytest.fixture
def folder(tmp_path: Path, hub: Hub) -> Path:
    """A shelf, data, and homes for all that the app may write; a private model of either user on the Hub."""
    save_base(tmp_path / "shelf" / "tiny")
    write_zip(tmp_path / "colors.zip")
    (tmp_path / "red.png").write_bytes(encode_image(0, 99))
    hub.tokens |= {MINE: ("user", True), OWNERS: ("owner", True)}
    files = {path.name: path.read_bytes() for path in (tmp_path / "shelf" / "tiny").iterdir()}
    for name in ("user/base", "owner/secret"):
        hub.repos[name] = Repo(private=True)
        hub.repos[name].commit("main", files, "a model")
    hub.repos["datasets/user/photos"] = Repo(private=True)
    photos = {f"{label}/{n}.png": encode_image(label == "red", n) for label in ("red", "blue") for n in range(4)}
    hub.repos["datasets/user/photos"].commit("main", photos, "photos")
    return tmp_path


@pytest.fixture(autouse=True)
def jobs_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job does with its token is for `test_jobs.py`."""
    monkeypatch.setattr(Job, "run", lambda job, hub: setattr(job, "stage", "COMPLETED"))


def settings(folder: Path) -> dict[str, str]:
    homes = {"HF_HOME": "home", "HOME": "user", "TMPDIR": "temporary"}
    for name in homes.values():
        (folder / name).mkdir()
    return {key: str(folder / name) for key, name in homes.items()} | {"RESNET_HUB_LOG": "debug"}


def nowhere(token: str, folder: Path, *said: bytes, but: tuple[Path, ...] = ()) -> None:
    for path in folder.rglob("*"):
        assert not holds(str(path).encode(), token)
        assert path in but or not path.is_file() or not holds(path.read_bytes(), token), path
    for part in said:
        assert not holds(part, token), part[:1000]


def test_a_look_finds_a_token_in_any_writing(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/card.md", f"the token {MINE}")
    for place in range(4):
        (tmp_path / str(place)).write_bytes(base64.b64encode(bytes(place) + b" " * place + MINE.encode() + b"more"))
    for content in (packed.getvalue(), f"Bearer {MINE}".encode(), *(path.read_bytes() for path in tmp_path.iterdir())):
        assert holds(content, MINE) and not holds(content, OWNERS)
        with pytest.raises(AssertionError):
            nowhere(MINE, tmp_path / "none", content)
    (tmp_path / "sub").mkdir()
    with pytest.raises(AssertionError):
        nowhere(MINE, tmp_path)


async def ask_as_agent(address: str, photo: Path, model: str) -> str:
    """The answer by MCP. Gradio repeats the call from this machine, whoever sent it."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    image = f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
    async with (
        streamable_http_client(f"{address}/{API}/mcp/") as (receive, send, _),
        ClientSession(receive, send) as session,
    ):
        await session.initialize()
        return str((await session.call_tool("predict", {"image": image, "model": model, "top_k": 2})).content)


def test_the_saved_token_of_a_local_user(folder: Path, hub: Hub) -> None:
    env, ears = settings(folder), Ears(hub)
    saved = (folder / "home" / "token", folder / "home" / "stored_tokens")
    saved[0].write_text(MINE)
    saved[1].write_text(f"[mine]\nhf_token = {MINE}\n")
    with serving(folder, is_attacked=True, **env) as address:
        me = Visitor(address)
        me.everything(folder, "user/base", (MINE,))
        assert "score" in me.tell("predict", me.upload(folder / "red.png"), "user/base", 2)  # a private one of mine
        mine, stranger = Visitor(address), Visitor(address, **{"X-Forwarded-For": "192.0.2.1"})
        for name in ("predict", "choose"):  # the model is loaded, and was fetched
            photo = [stranger.upload(folder / "red.png")] if name == "predict" else []
            assert "is private" in stranger.tell(name, *photo, "user/base")
        assert "is private" in asyncio.run(ask_as_agent(address, folder / "red.png", "user/base"))
        assert "8 images" in mine.tell("check_hub", "user/photos")
        assert "is private" in stranger.tell("check_hub", "user/photos")
        shared(me, hub)
        nowhere(MINE, folder, but=saved)
        me.call("delete", me.stored)
    assert ears.used == {"", MINE}
    nowhere(MINE, folder, *(answer.encode() for answer in me.answers), *ears.said(), but=saved)


def test_the_tokens_of_a_space_and_of_its_visitor(folder: Path, hub: Hub) -> None:
    env, ears, secret = settings(folder), Ears(hub), "secret-of-the-app"
    env |= {"SYSTEM": "spaces", "SPACE_ID": "owner/space", "HF_TOKEN": OWNERS}
    env |= {"OAUTH_CLIENT_ID": "app", "OAUTH_CLIENT_SECRET": secret, "OPENID_PROVIDER_URL": hub.url}
    env |= {"OAUTH_SCOPES": "openid profile contribute-repos jobs"}
    with serving(folder, is_attacked=True, **env) as address:
        visitor = Visitor(address, Cookie=cookie(secret, MINE))
        visitor.everything(folder, "tiny", (MINE, OWNERS))
        for model in ("user/base", "owner/secret"):  # the page reads as nobody
            assert "is private" in visitor.tell("predict", visitor.upload(folder / "red.png"), model, 2)
        nobody = Visitor(address, Cookie=cookie("another-secret", OWNERS))
        nobody.call("find", visitor.stored)  # who has the link of the run has not the sign-in
        assert "Sign in" in nobody.tell("push", "owner/mine", True)
        assert "Sign in" in nobody.tell("begin_job", None, "owner/mine", "cpu-upgrade", "2h", "tiny", "head")
        shared(visitor, hub)
        for token in (MINE, OWNERS):
            nowhere(token, folder)
        visitor.call("delete", visitor.stored)
    assert ears.used == {"", MINE}
    for token in (MINE, OWNERS):
        nowhere(token, folder, *(text.encode() for text in visitor.answers + nobody.answers), *ears.said())


def shared(me: Visitor, hub: Hub) -> None:
    """The finished run pushed and handed to a job, and everything that can go wrong with it."""
    assert "/user/mine" in me.tell("push", "user/mine", True)
    assert hub.repos["user/mine"].private
    assert "alert" in me.tell("push", "stranger/mine", True)
    for status in (401, 403):
        hub.fail("POST /api/repos/create", status, page=json.dumps({"error": "No."}).encode())
        assert "alert" in me.tell("push", "user/another", True)
        hub.faults.clear()
    del hub.tokens[MINE]
    assert "alert" in me.tell("push", "user/another", True)
    assert "alert" in me.tell("begin_job", me.stored, "user/job", "cpu-upgrade", "2h", "tiny", "head")
    hub.tokens[MINE] = ("user", True)
    hub.fail("POST /api/jobs/", 403)
    assert "alert" in me.tell("begin_job", me.stored, "user/job", "cpu-upgrade", "2h", "tiny", "head")
    hub.faults.clear()
    me.tell("begin_job", me.stored, "user/job", "cpu-upgrade", "2h", "tiny", "head")
    assert "/jobs/user/job0" in me.answers[-1]
    assert hub.jobs["job0"].spec["secrets"] == {"HF_TOKEN": MINE} and "datasets/user/job-input" in hub.repos
