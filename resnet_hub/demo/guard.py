"""The door of the page: which requests come in, how much a visitor may send, and what a browser may do with an answer.

Gradio has more routes than the page needs: one fetches any address, one calls handlers past their queue. Here, as with
pictures, the list is of what is let in. The page, Gradio's clients and agents (MCP) all come through it.
"""

import ipaddress
import json
import logging
import os
import re
import shutil
import threading
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from resnet_hub import __version__
from resnet_hub.demo.runs import FREE_BYTES, is_space
from resnet_hub.errors import ResNetHubError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_UPLOAD = 4 * 2**30  # bytes an hour that a visitor may send
MAX_UPLOADS = 16 * 2**30  # bytes an hour from all visitors: uploads stay on the disk for an hour
MAX_CALLS = 3000  # calls a minute of a visitor; a page that watches a run makes one a second
MAX_CALL = 2**20  # bytes of a call; pictures are uploaded first
MAX_AGENT_CALL = 20 * 2**20  # of an agent's, which may hold a picture
UPLOADS_KEPT = 3600.0  # seconds after which an uploaded file is deleted

_API = "/gradio_api"
_UPLOAD, _CALL, _AGENT, _FILE = f"{_API}/upload", "a call", f"{_API}/mcp", f"{_API}/file="
_ROUTES = [  # method, pattern of the path, what it is
    ("GET|HEAD", r"/", "/"),
    ("GET|HEAD", r"/(config|favicon\.ico|robots\.txt|manifest\.json|theme\.css|pwa_icon(/\d+)?)", "/"),
    ("GET|HEAD", r"/(assets|static|svelte)/.*", "/assets"),
    ("GET", r"/(login/huggingface|login/callback|logout)", "/login"),
    ("GET", rf"{_API}/(info/?|openapi\.json|startup-events|theme\.css|app_id/?)", "/info"),
    ("GET", rf"{_API}/heartbeat/[\w-]+", "/heartbeat"),
    ("GET", rf"{_API}/upload_progress", "/upload_progress"),
    ("GET|HEAD", rf"{_API}/file=.*", _FILE),
    ("GET", rf"{_API}/(queue/data|call/(v2/)?[\w-]+/[\w-]+)", "/answers"),
    ("POST", rf"{_API}/(queue/join|call/(v2/)?[\w-]+/?|cancel|reset/?)", _CALL),
    ("POST", rf"{_API}/upload", _UPLOAD),
    ("GET|POST|DELETE|HEAD", rf"{_API}/mcp(/.*)?", _AGENT),
]
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # the link of a run is a secret
    "Permissions-Policy": "geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Resource-Policy": "same-site",
}
_PAGE_POLICY = (
    "object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co https://*.hf.space"
)
_FILE_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; sandbox"

log = logging.getLogger("resnet_hub")


class RefusedError(Exception):
    def __init__(self, status: int, message: str):
        self.status, self.message = status, message


class Usage(NamedTuple):
    when: float
    who: str
    amount: int


class Budget:
    """How much of something was used within the last `seconds`: by each visitor, and by all of them."""

    def __init__(self, each: float, everyone: float, seconds: float):
        self.each, self.everyone, self.seconds = each, everyone, seconds
        self._lock = threading.Lock()
        self._uses: deque[Usage] = deque()
        self._used: dict[str, int] = defaultdict(int)
        self._total = 0

    def use(self, who: str, amount: int) -> str:
        """Notes the use; "each" or "everyone" is the budget that it goes beyond, and then it is not noted."""
        now = time.monotonic()
        with self._lock:
            while self._uses and now - self._uses[0].when > self.seconds:
                old = self._uses.popleft()
                self._total -= old.amount
                self._used[old.who] -= old.amount
                if not self._used[old.who]:
                    del self._used[old.who]
            if self._used.get(who, 0) + amount > self.each:
                return "each"
            if self._total + amount > self.everyone:
                return "everyone"
            self._uses.append(Usage(now, who, amount))
            self._used[who] += amount
            self._total += amount
        return ""


class Guard:
    """ASGI middleware around the page; `uploads` is the folder that Gradio keeps them in."""

    def __init__(self, app: App, uploads: str | Path):
        self.app, self.uploads = app, Path(uploads)
        self.sent = Budget(MAX_UPLOAD, MAX_UPLOADS, UPLOADS_KEPT)
        self.calls = Budget(MAX_CALLS, float("inf"), 60)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no web sockets here
        start, kind, status = time.monotonic(), "", 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                policy = _FILE_POLICY if kind == _FILE else _PAGE_POLICY
                own = {"content-security-policy": policy, **{key.lower(): text for key, text in _HEADERS.items()}}
                others = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in own]
                message["headers"] = [*others, *((key.encode(), text.encode()) for key, text in own.items())]
            await send(message)

        try:
            kind = _kind(scope)
            if kind == "/health":
                return await _tell(answer, 200, {"status": "ok", "version": __version__})
            self._check(scope, kind)
            await self.app(scope, await self._received(scope, kind, receive), answer)
        except RefusedError as refusal:
            if not status:
                await _tell(answer, refusal.status, {"detail": refusal.message})
        finally:  # neither who asks, nor for what: paths and queries hold the names of files and runs
            level = logging.INFO if kind in (_CALL, _UPLOAD, _AGENT) or status >= 400 else logging.DEBUG
            log.log(level, "%s %s %d %.0f ms", scope["method"], kind or "?", status, (time.monotonic() - start) * 1000)

    def _check(self, scope: MutableMapping[str, Any], kind: str) -> None:
        if kind == _FILE and _ADDRESS.match(_path(scope).removeprefix(_FILE)):
            raise RefusedError(403, "Addresses are not fetched here.")
        if kind in (_CALL, _UPLOAD, _AGENT) and scope.get("session") and _is_foreign(scope):
            raise RefusedError(403, "Whoever is signed in here may be acted for by this page alone.")
        if kind in (_CALL, _AGENT) and self.calls.use(_visitor(scope), 1):
            raise RefusedError(429, f"At most {MAX_CALLS:,} calls a minute are answered; wait a minute.")
        if kind == _UPLOAD and shutil.disk_usage(_existing(self.uploads)).free < FREE_BYTES:
            raise RefusedError(507, "The disk of this page is nearly full; try again in an hour.")

    async def _received(self, scope: MutableMapping[str, Any], kind: str, receive: Receive) -> Receive:
        """The body in bounds; of a call, with its files checked."""
        if kind == _UPLOAD:
            return self._metered(_visitor(scope), receive)
        if kind not in (_CALL, _AGENT):
            return receive
        limit, body, more = (MAX_CALL if kind == _CALL else MAX_AGENT_CALL), b"", scope["method"] == "POST"
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return _replay([message], receive)
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > limit:
                raise RefusedError(413, f"A call has at most {limit // 2**20} MB; upload pictures before it.")
        if kind == _CALL:
            body = _checked(body, scope)
            length = (b"content-length", str(len(body)).encode())
            scope["headers"] = [*((k, v) for k, v in scope["headers"] if k != b"content-length"), length]
        return _replay([{"type": "http.request", "body": body, "more_body": False}], receive)

    def _metered(self, visitor: str, receive: Receive) -> Receive:
        async def metered() -> Message:
            message = await receive()
            over = self.sent.use(visitor, len(message.get("body", b"")))
            if over == "each":
                raise RefusedError(413, f"A visitor may upload {MAX_UPLOAD / 2**30:g} GB an hour; wait, or send fewer.")
            if over:
                raise RefusedError(507, f"All visitors may upload {MAX_UPLOADS / 2**30:g} GB an hour; try again later.")
            return message

        return metered


def sweep(folder: Path, kept: float = UPLOADS_KEPT) -> None:
    """Deletes what was uploaded longer ago than `kept` seconds; Gradio forgets it when the app is killed."""
    for parent, inner, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in (*names, *inner)):
            with suppress(OSError):  # still in use, or gone already
                if time.time() - path.lstat().st_mtime > kept:
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def start_log() -> None:
    """Lines of this package on the standard error, from the level in RESNET_HUB_LOG on; else warnings."""
    level = os.environ.get("RESNET_HUB_LOG", "warning").upper()
    if level not in logging.getLevelNamesMapping():
        raise ResNetHubError(f"RESNET_HUB_LOG is {level.lower()[:40]!r}; choose debug, info, warning or error.")
    log.setLevel(level)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.propagate = False


def _path(scope: MutableMapping[str, Any]) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", "").rstrip("/"))


def _kind(scope: MutableMapping[str, Any]) -> str:
    path = _path(scope)
    if path == "/health" and scope["method"] in ("GET", "HEAD"):
        return "/health"
    for methods, pattern, kind in _ROUTES:
        if scope["method"] in methods.split("|") and re.fullmatch(pattern, path, re.DOTALL):
            return kind
    raise RefusedError(404, "There is nothing here.")


def _header(scope: MutableMapping[str, Any], name: str) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.decode() == name), "")


def _hosts(scope: MutableMapping[str, Any]) -> set[str]:
    return {_header(scope, "host"), _header(scope, "x-forwarded-host")} - {""}


def _is_foreign(scope: MutableMapping[str, Any]) -> bool:
    """Whether a browser says that another site asks: it would send the visitor's sign-in along."""
    origin = _header(scope, "origin")
    return bool(origin) and urlsplit(origin).netloc not in _hosts(scope)


def _visitor(scope: MutableMapping[str, Any]) -> str:
    """The address of who asks; on a Space the last public one that its proxies name."""
    for hop in reversed(_header(scope, "x-forwarded-for").split(",") if is_space() else []):
        try:
            if ipaddress.ip_address(hop.strip()).is_global:
                return hop.strip()
        except ValueError:
            continue
    return scope["client"][0] if scope.get("client") else ""


def _checked(body: bytes, scope: MutableMapping[str, Any]) -> bytes:
    """The call with files of this page under their paths; raises for a file that lies elsewhere."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The call is no JSON.") from None
    if not isinstance(call, dict):
        raise RefusedError(400, "The call is no JSON object.")
    waiting: list[Any] = [call]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and isinstance(path := node.get("path"), str) and _ADDRESS.match(path):
            node["path"] = _uploaded(path, scope)
        waiting += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    try:
        return json.dumps(call, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character, at which Gradio's answer would break off
        raise RefusedError(400, "The call is no text.") from None


def _uploaded(address: str, scope: MutableMapping[str, Any]) -> str:
    """The path of an uploaded file, which an agent knows by its address here."""
    url = urlsplit(address.strip())
    path = unquote(url.path).partition(_FILE)[2]
    if url.netloc not in _hosts(scope) or not path or _ADDRESS.match(path):
        raise RefusedError(400, "Pictures are not fetched from addresses; upload the picture first.")
    return path


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _replay(messages: list[Message], receive: Receive) -> Receive:
    async def replay() -> Message:
        return messages.pop(0) if messages else await receive()

    return replay


async def _tell(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
