"""The door of the page: which requests come in, how much a visitor may send, and what a browser may do with an answer.

Gradio has more routes than the page needs: one fetches any address, one calls handlers past their queue. Here, as with
pictures, the list is of what is let in. The page, Gradio's clients and agents (MCP) all come through it.
"""

import asyncio
import ipaddress
import json
import logging
import os
import re
import shutil
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from resnet_hub.demo.page_run import FREE_BYTES
from resnet_hub.demo.space import is_space
from resnet_hub.errors import ResNetHubError
from resnet_hub.version import __version__

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_UPLOAD = 4 * 2**30  # bytes an hour that a visitor may send
MAX_UPLOADS = 16 * 2**30  # bytes an hour from all visitors: uploads stay on the disk for an hour
MAX_CALLS = 3000  # calls a minute of a visitor; a page that watches a run makes one a second
MAX_CALL = 2**20  # bytes of a call; pictures are uploaded first
MAX_AGENT_CALL = 20 * 2**20  # of an agent's, which may hold a picture
MAX_HELD = 256 * 2**20  # bytes of calls that are in memory at once
MAX_HELD_EACH = 2 * MAX_AGENT_CALL  # of a visitor's
CALL_TIME = 120.0  # seconds for a call to arrive
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
    def __init__(self, status: int, message: str, told: dict[str, Any] | None = None):
        self.status, self.told = status, told or {"detail": message}


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
            last = self._uses[-1] if self._uses else None
            if last and last.who == who and now - last.when < 1:  # a body in many small parts is one use
                self._uses[-1] = last._replace(amount=last.amount + amount)
            else:
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
        self._held: Counter[str] = Counter()  # bytes, by visitor

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
            with self._holding(address(scope)) as hold:
                await self.app(scope, await self._received(scope, kind, receive, hold), answer)
        except RefusedError as refusal:
            if not status:
                await _tell(answer, refusal.status, refusal.told)
        except Exception as error:  # with a traceback for each, nonsense would fill the log
            # An answer that had begun: mostly who asked for it is unknown, or gone.
            log.log(logging.INFO if status else logging.ERROR, "%s in %s", type(error).__name__, kind)
            log.debug("%s", kind, exc_info=error)
            if not status:
                await _tell(answer, 500, {"detail": "This could not be answered."})
            else:
                with suppress(Exception):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:  # neither who asks, nor for what: paths and queries hold the names of files and runs
            level = logging.INFO if kind in (_CALL, _UPLOAD, _AGENT) or status >= 400 else logging.DEBUG
            log.log(level, "%s %s %d %.0f ms", scope["method"], kind or "?", status, (time.monotonic() - start) * 1000)

    def _check(self, scope: MutableMapping[str, Any], kind: str) -> None:
        if kind == _FILE and _ADDRESS.match(_path(scope).removeprefix(_FILE)):
            raise RefusedError(403, "Addresses are not fetched here.")
        if kind in (_CALL, _UPLOAD, _AGENT) and (scope.get("session") or is_local_user(scope)) and _is_foreign(scope):
            raise RefusedError(403, "Whoever is signed in here may be acted for by this page alone.")
        if kind in (_CALL, _AGENT) and self.calls.use(address(scope), 1):
            raise RefusedError(429, f"At most {MAX_CALLS:,} calls a minute are answered; wait a minute.")
        if kind in (_UPLOAD, _AGENT) and shutil.disk_usage(_existing(self.uploads)).free < FREE_BYTES:
            raise RefusedError(507, "The disk of this page is nearly full; try again in an hour.")

    async def _received(
        self, scope: MutableMapping[str, Any], kind: str, receive: Receive, hold: Callable[[int], None]
    ) -> Receive:
        """The body in bounds; of a call, with its files checked."""
        if kind == _UPLOAD:
            return self._metered(address(scope), receive)
        if kind not in (_CALL, _AGENT) or scope["method"] != "POST":
            return receive
        if kind == _AGENT:
            receive = self._metered(address(scope), receive)  # a picture in it becomes a file
        limit, body, more = (MAX_CALL if kind == _CALL else MAX_AGENT_CALL), bytearray(), True
        try:
            async with asyncio.timeout(CALL_TIME):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return _replay([message], receive)
                    part, more = message.get("body", b""), message.get("more_body", False)
                    if len(body) + len(part) > limit:
                        raise RefusedError(413, f"A call has at most {limit // 2**20} MB; upload pictures before it.")
                    hold(len(part))
                    body += part
        except TimeoutError:
            raise RefusedError(408, f"A call arrives within {CALL_TIME:g} seconds; send it again.") from None
        content = bytes(body)
        if kind == _AGENT:
            _check_agent(content, scope)
        else:
            content = _checked(content, scope)
            length = (b"content-length", str(len(content)).encode())
            scope["headers"] = [*((k, v) for k, v in scope["headers"] if k != b"content-length"), length]
        return _replay([{"type": "http.request", "body": content, "more_body": False}], receive)

    @contextmanager
    def _holding(self, visitor: str) -> Iterator[Callable[[int], None]]:
        """What takes bytes of memory for a visitor, which are given back after the block."""
        taken = 0

        def take(amount: int) -> None:
            nonlocal taken
            if self._held[visitor] + amount > MAX_HELD_EACH or self._held.total() + amount > MAX_HELD:
                raise RefusedError(503, "Too much arrives at once; try again in a minute.")
            taken += amount
            self._held[visitor] += amount

        try:
            yield take
        finally:
            self._held[visitor] -= taken
            if not self._held[visitor]:
                del self._held[visitor]

    def _metered(self, visitor: str, receive: Receive) -> Receive:
        async def metered() -> Message:
            message = await receive()
            self._spend(visitor, len(message.get("body", b"")))
            return message

        return metered

    def _spend(self, visitor: str, size: int) -> None:
        over = self.sent.use(visitor, size)
        if over == "each":
            raise RefusedError(413, f"A visitor may upload {MAX_UPLOAD / 2**30:g} GB an hour; wait, or send fewer.")
        if over:
            raise RefusedError(507, f"All visitors may upload {MAX_UPLOADS / 2**30:g} GB an hour; try again later.")


def sweep(folder: Path, kept: float = UPLOADS_KEPT, own: Collection[Path] = ()) -> None:
    """Deletes what was uploaded longer ago than `kept` seconds; Gradio forgets it when the app is killed.

    What is the page's `own` stays, files and folders: copies of its examples, as old as those, and what it serves of
    runs, which goes with them.
    """
    for parent, inner, names in os.walk(folder.resolve(), topdown=False):
        for path in (Path(parent, name) for name in (*names, *inner)):
            with suppress(OSError):  # still in use, or gone already
                mine = not {path, *path.parents}.isdisjoint(own)
                if time.time() - path.lstat().st_mtime > kept and not mine:
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
    """What the lines of that name say; proxies may each add a line of their own."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key.decode() == name)


def _is_foreign(scope: MutableMapping[str, Any]) -> bool:
    """Whether a browser says that another site asks: it would send the visitor's sign-in along, or reach their machine.

    No script can set what the browser says of the site; an old one, or one without https, names the origin alone. A
    script can send the header of a proxy, which is believed where a proxy sets it.
    """
    site, origin = _header(scope, "sec-fetch-site"), _header(scope, "origin")
    if site:
        return site not in ("same-origin", "none")
    hosts = {_header(scope, "host"), _header(scope, "x-forwarded-host") if is_space() else ""} - {""}
    return bool(origin) and urlsplit(origin).netloc not in hosts


def is_local_user(scope: MutableMapping[str, Any]) -> bool:
    """Whether who asks sits at this machine: not on a Space, nor behind a tunnel or proxy, nor led here by a name."""
    if is_space() or any(_header(scope, name) for name in ("x-forwarded-for", "forwarded", "x-forwarded-host")):
        return False
    local = ("127.0.0.1", "::1")
    try:
        host = urlsplit(f"//{_header(scope, 'host')}").hostname
    except ValueError:  # half an address
        return False
    return bool(scope.get("client")) and scope["client"][0] in local and host in (*local, "localhost")


def address(scope: MutableMapping[str, Any]) -> str:
    """The address of who asks, on a Space the last public one that its proxies name; of IPv6 the network of 64 bits."""
    hops = [_ip(hop) for hop in _header(scope, "x-forwarded-for").split(",")] if is_space() else []
    peer = scope["client"][0] if scope.get("client") else ""
    found = next((hop for hop in reversed(hops) if hop and hop.is_global), _ip(peer))
    if isinstance(found, ipaddress.IPv6Address) and not found.is_loopback:  # whoever has one of these has them all
        return str(ipaddress.IPv6Network((int(found), 64), strict=False))
    return str(found or peer)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _checked(body: bytes, scope: MutableMapping[str, Any]) -> bytes:
    """The call with files of this page under their paths; raises for a file that lies elsewhere."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The call is no JSON.") from None
    if not isinstance(call, dict):
        raise RefusedError(400, "The call is no JSON object.")
    if len(str(call.get("session_hash") or "")) > 100:  # it is kept, long after the call
        raise RefusedError(400, "The name of the session is too long.")
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


def _check_agent(body: bytes, scope: MutableMapping[str, Any]) -> None:
    """Raises where an agent's picture is neither data nor one of this page; it is told so as its protocol has it.

    Of a path, Gradio would read this machine's file and upload it in the agent's place.
    """
    try:
        call: Any = json.loads(body or b"null")
    except (ValueError, RecursionError):  # the other end might read it in another way
        raise RefusedError(400, "The call is no JSON.") from None
    try:
        given = call["params"]["arguments"]
        picture, nested = given.get("image"), any(isinstance(value, dict | list) for value in given.values())
    except (LookupError, TypeError, AttributeError):
        return
    if isinstance(picture, str) and not nested:
        with suppress(RefusedError):
            if picture.startswith("data:") or _uploaded(picture, scope):
                return
    text = "Send the picture as data (data:image/jpeg;base64,...), or upload it and send its address on this page."
    result = {"content": [{"type": "text", "text": text}], "isError": True}
    raise RefusedError(200, text, {"jsonrpc": "2.0", "id": call.get("id"), "result": result})


def _uploaded(address: str, scope: MutableMapping[str, Any]) -> str:
    """The path of an uploaded file, which an agent knows by its address here."""
    url = urlsplit(address.strip())
    path = unquote(url.path).partition(_FILE)[2]
    hosts = {_header(scope, "host"), _header(scope, "x-forwarded-host")} - {""}
    if url.netloc not in hosts or not path or _ADDRESS.match(path):
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
