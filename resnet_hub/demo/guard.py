"""ASGI middleware: decides which requests reach Gradio, how much a visitor may send, and sets security headers.

The page, Gradio's clients and agents (MCP) all pass through it. Gradio has more routes than
the page needs: one fetches any address, one calls handlers past the queue. A file in a call is one that was uploaded
here, never an address or a path.
"""

import asyncio
import json
import logging
import re
import shutil
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import gradio as gr
from starlette.requests import Request

from resnet_hub.demo.i18n import translate
from resnet_hub.demo.predict_tab.tab import TOP
from resnet_hub.demo.runs.run import FREE_BYTES
from resnet_hub.demo.usage_limits import MAX_WAITING_CALLS, Budget, MemoryBudget, OpenCalls
from resnet_hub.demo.visitor import Scope, get_address, get_header, is_from_other_site, is_local_user
from resnet_hub.errors import format_bytes
from resnet_hub.version import __version__

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_UPLOAD = 4 * 10**9  # bytes an hour of one visitor address
MAX_UPLOADS = 16 * 10**9  # bytes an hour of all visitors; uploads stay on the disk for an hour
MAX_CALLS = 3000  # calls a minute of one visitor address; a page that watches a run makes one a second
MAX_FRAMES = 6000  # frames of cameras a minute of one visitor address, such as a school's; a camera sends up to 600
MAX_FRAME = 2**18  # bytes
MAX_CALL = 10**6  # bytes of a call; images are uploaded before it
MAX_AGENT_CALL = 20 * 10**6  # bytes of an agent's call, which may hold an image
CALL_TIME = 120.0  # seconds for a call to arrive
UPLOAD_LIFETIME = 3600.0  # seconds after which an uploaded file is deleted

_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # the link of a run is a secret
    "permissions-policy": "geolocation=(), microphone=(), payment=(), usb=()",
    "cross-origin-resource-policy": "same-site",
}
_PAGE_POLICY = (
    "object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self' https://huggingface.co https://*.huggingface.co https://*.hf.space"
)
_FILE_POLICY = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; sandbox"
_EVENT_ID = re.compile(rb'"event_id":\s*"(\w+)"')
ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
MAX_SESSION_NAME = 100  # characters; Gradio keeps the name after the call

API = "/gradio_api"
HEALTH, UPLOAD, CALL, AGENT, LIVE, FILE, EVENTS = (
    "/health",
    f"{API}/upload",
    "a call",
    f"{API}/mcp",
    f"{API}/live",
    f"{API}/file=",
    "/events",
)

_ROUTES = [  # methods, pattern of the path, name
    ("GET|HEAD", "/health", HEALTH),
    ("GET|HEAD", r"/", "/"),
    ("GET|HEAD", r"/(config|favicon\.ico|robots\.txt|manifest\.json|theme\.css|pwa_icon(/\d+)?)", "/"),
    ("GET|HEAD", r"/(assets|static|svelte)/.*", "/assets"),
    ("GET", r"/(login/huggingface|login/callback|logout)", "/login"),
    ("GET", rf"{API}/(info/?|openapi\.json|startup-events|theme\.css|app_id/?)", "/info"),
    ("GET", rf"{API}/heartbeat/[\w-]+", "/heartbeat"),
    ("GET", rf"{API}/upload_progress", "/upload_progress"),
    ("GET|HEAD", rf"{API}/file=.*", FILE),
    ("GET", rf"{API}/(queue/data|call/(v2/)?[\w-]+/[\w-]+)", EVENTS),
    ("POST", rf"{API}/(queue/join|call/(v2/)?[\w-]+/?|cancel|reset/?)", CALL),
    ("POST", rf"{API}/upload", UPLOAD),
    ("POST", rf"{API}/live", LIVE),
    ("GET|POST|DELETE|HEAD", rf"{API}/mcp(/.*)?", AGENT),
]

_MAX_BYTES = {CALL: MAX_CALL, AGENT: MAX_AGENT_CALL, LIVE: MAX_FRAME}

log = logging.getLogger("resnet_hub")


class RefusedError(Exception):
    """A request that gets a status and a message instead of being passed on."""

    def __init__(self, status: int, message: str, content: dict[str, Any] | None = None):
        self.status, self.content = status, content or {"detail": message}


class Guard:
    """The middleware.

    Args:
        app: Gradio's app.
        uploads: The folder in which Gradio keeps uploaded files.
        calls: The open calls of the page, which learns from Gradio when one starts.
    """

    def __init__(self, app: App, uploads: str | Path, calls: OpenCalls | None = None):
        self.app, self.uploads, self.open_calls = app, Path(uploads), calls or OpenCalls()
        self.sent = Budget(MAX_UPLOAD, MAX_UPLOADS, UPLOAD_LIFETIME)
        self.calls, self.frames = Budget(MAX_CALLS, float("inf"), 60), Budget(MAX_FRAMES, float("inf"), 60)
        self.memory = MemoryBudget()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no web sockets here
        start, route, status = time.monotonic(), find_route(scope), 0

        async def respond(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = _HEADERS | {"content-security-policy": _FILE_POLICY if route == FILE else _PAGE_POLICY}
                others = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in headers]
                message["headers"] = [*others, *((key.encode(), text.encode()) for key, text in headers.items())]
            elif route == EVENTS and b"process_completed" in message.get("body", b""):
                for event in _EVENT_ID.findall(message["body"]):
                    self.open_calls.remove(event.decode())
            await send(message)

        try:
            if route == HEALTH:
                return await _send_json(respond, 200, {"status": "ok", "version": __version__})
            self._check(scope, route)
            if route in (CALL, AGENT, LIVE) and scope["method"] == "POST":
                await self._pass_call(scope, route, receive, respond)
            else:
                metered = self._meter(get_address(scope), receive) if route == UPLOAD else receive
                await self.app(scope, metered, respond)
        except RefusedError as refusal:
            if not status:
                await _send_json(respond, refusal.status, refusal.content)
        except Exception as error:  # no traceback: invalid requests would fill the log with them
            # After the start of a response, mostly an unknown session, or a client that left.
            log.log(logging.INFO if status else logging.ERROR, "%s in %s", type(error).__name__, route)
            log.debug("%s", route, exc_info=error)
            if not status:
                await _send_json(respond, 500, {"detail": "This could not be answered."})
            else:
                with suppress(Exception):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            if route == EVENTS:
                self._end_events(scope)
            # Neither the visitor nor the path is logged: paths and queries hold the names of files and runs.
            level = logging.INFO if route in (CALL, UPLOAD, AGENT) or status >= 400 else logging.DEBUG
            log.log(level, "%s %s %d %.0f ms", scope["method"], route or "?", status, (time.monotonic() - start) * 1000)

    def _check(self, scope: Scope, route: str) -> None:
        """Raise `RefusedError` for what can be refused before the body is read."""
        if not route:
            raise RefusedError(404, "There is nothing here.")
        if route == FILE and ADDRESS.match(get_path(scope).removeprefix(FILE)):
            raise RefusedError(403, "Addresses are not fetched here.")
        may_act = scope.get("session") or is_local_user(scope)
        if route in (CALL, UPLOAD, AGENT, LIVE) and may_act and is_from_other_site(scope):
            raise RefusedError(403, "Only this page may act for a signed-in visitor.")
        if route in (CALL, AGENT) and self.calls.use(get_address(scope), 1):
            raise RefusedError(429, f"At most {MAX_CALLS:,} calls a minute are answered; wait a minute.")
        if route == LIVE and self.frames.use(get_address(scope), 1):
            raise RefusedError(429, f"At most {MAX_FRAMES:,} frames a minute are answered; wait a minute.")
        if route in (UPLOAD, AGENT) and shutil.disk_usage(_find_existing(self.uploads)).free < FREE_BYTES:
            raise RefusedError(507, "The disk of this page is nearly full; try again in an hour.")

    async def _pass_call(self, scope: Scope, route: str, receive: Receive, send: Send) -> None:
        """Read the body of a call within its limits, check it, and pass it on."""
        address = get_address(scope)
        with self.memory.hold(address) as reserve:
            if route == AGENT:
                receive = self._meter(address, receive)  # an image in it becomes a file
            body = await self._read_body(receive, _MAX_BYTES[route], reserve)
            if not isinstance(body, bytes):  # the client has left
                return await self.app(scope, _replay([body], receive), send)
            if route == AGENT:
                check_agent_call(body, scope)
            elif route == CALL:
                call = complete_call(parse_call(body), get_path(scope))
                send = self._count_call(scope, address, call, send)
                body = check_files(call, scope)
                length = (b"content-length", str(len(body)).encode())
                scope["headers"] = [*((k, v) for k, v in scope["headers"] if k != b"content-length"), length]
            message = {"type": "http.request", "body": body, "more_body": False}
            await self.app(scope, _replay([message], receive), send)

    async def _read_body(self, receive: Receive, limit: int, reserve: Callable[[int], bool]) -> bytes | Message:
        """The whole body, or the message that came instead of it."""
        body, has_more = bytearray(), True
        try:
            async with asyncio.timeout(CALL_TIME):
                while has_more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return message
                    chunk, has_more = message.get("body", b""), message.get("more_body", False)
                    if len(body) + len(chunk) > limit:
                        raise RefusedError(413, f"The call is over {format_bytes(limit)}; upload images before it.")
                    if not reserve(len(chunk)):
                        raise RefusedError(503, "Too much data arrives at once; try again in a minute.")
                    body += chunk
        except TimeoutError:
            raise RefusedError(408, f"The call took over {CALL_TIME:g} seconds to arrive; send it again.") from None
        return bytes(body)

    def _count_call(self, scope: Scope, address: str, call: dict[str, Any], send: Send) -> Send:
        """Raise if the queue is full; else count the call once Gradio answers with its event id."""
        path = get_path(scope)
        if path.endswith("/cancel"):
            self.open_calls.note_start(str(call.get("event_id")))
            return send
        if path.rstrip("/").endswith("/reset"):
            return send
        session = str(call.get("session_hash") or "")
        if exceeded := self.open_calls.find_exceeded(address, session):
            raise RefusedError(503, translate(gr.Request(Request(scope)), exceeded, count=MAX_WAITING_CALLS // 4))

        async def count(message: Message) -> None:
            if event := _EVENT_ID.search(message.get("body", b"")):
                name = event[1].decode()
                self.open_calls.add(name, address, session or name)
            await send(message)

        return count

    def _end_events(self, scope: Scope) -> None:
        """Forget the calls of a stream of events that has ended."""
        sessions = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [])
        for session in sessions:
            self.open_calls.remove_session(session)
        self.open_calls.remove(get_path(scope).rpartition("/")[2])

    def _meter(self, address: str, receive: Receive) -> Receive:
        """Count what arrives as an upload."""

        async def metered() -> Message:
            message = await receive()
            exceeded = self.sent.use(address, len(message.get("body", b"")))
            if exceeded == "each":
                raise RefusedError(
                    413, f"A visitor may upload {format_bytes(MAX_UPLOAD)} an hour; wait, or send fewer."
                )
            if exceeded:
                limit = format_bytes(MAX_UPLOADS)
                raise RefusedError(507, f"All visitors may upload {limit} an hour; try again later.")
            return message

        return metered


def get_path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", "").rstrip("/"))


def find_route(scope: Scope) -> str:
    """The name of the route of a request; "" if the page does not serve it."""
    path = get_path(scope)
    for methods, pattern, route in _ROUTES:
        if scope["method"] in methods.split("|") and re.fullmatch(pattern, path, re.DOTALL):
            return route
    return ""


def parse_call(body: bytes) -> dict[str, Any]:
    """Parse a call and check its size; raises `RefusedError`."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The call is not JSON.") from None
    if not isinstance(call, dict):
        raise RefusedError(400, "The call is not a JSON object.")
    if len(str(call.get("session_hash") or "")) > MAX_SESSION_NAME:
        raise RefusedError(400, "The name of the session is too long.")
    return call


def complete_call(call: dict[str, Any], path: str) -> dict[str, Any]:
    """Return a call of the endpoint /predict as Gradio wants it: the image an object, and no argument missing."""
    data = call.get("data")
    if not re.fullmatch(rf"{API}/call/predict/?", path) or not isinstance(data, list) or not data:
        return call
    image, *others = data
    if isinstance(image, str) and image.startswith("data:"):
        image = {"url": image, "meta": {"_type": "gradio.FileData"}}
    return call | {"data": [image, *others, *("", TOP)[len(others) :]]}


def check_files(call: dict[str, Any], scope: Scope) -> bytes:
    """The call's body, with addresses of uploads replaced by paths; raises `RefusedError` for any other address."""
    pending: list[Any] = [call]
    while pending:
        node = pending.pop()
        if isinstance(node, dict) and isinstance(path := node.get("path"), str) and ADDRESS.match(path):
            node["path"] = _find_uploaded_path(path, scope)
        pending += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    try:
        return json.dumps(call, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair, which would abort Gradio's answer
        raise RefusedError(400, "The call is not valid text.") from None


def check_agent_call(body: bytes, scope: Scope) -> None:
    """Raise unless the image of an agent's call is data or an upload; the answer follows the agent's protocol.

    Given a path, Gradio would read a file of this machine and upload it for the agent.
    """
    try:
        call: Any = json.loads(body or b"null")
    except (ValueError, RecursionError):  # another parser might read it in another way
        raise RefusedError(400, "The call is not JSON.") from None
    try:
        arguments = call["params"]["arguments"]
        image, is_nested = arguments.get("image"), any(isinstance(value, dict | list) for value in arguments.values())
    except (LookupError, TypeError, AttributeError):
        return
    if isinstance(image, str) and not is_nested:
        with suppress(RefusedError):
            if image.startswith("data:") or _find_uploaded_path(image, scope):
                return
    text = "Send the image as data (data:image/jpeg;base64,...), or upload it and send its address on this page."
    result = {"content": [{"type": "text", "text": text}], "isError": True}
    raise RefusedError(200, text, {"jsonrpc": "2.0", "id": call.get("id"), "result": result})


def _find_uploaded_path(address: str, scope: Scope) -> str:
    """The path of an uploaded file from its address on this page; raises `RefusedError` for another address."""
    url = urlsplit(address.strip())
    path = unquote(url.path).partition(FILE)[2]
    hosts = {get_header(scope, "host"), get_header(scope, "x-forwarded-host")} - {""}
    if url.netloc not in hosts or not path or ADDRESS.match(path):
        raise RefusedError(400, "Images are not fetched from addresses; upload the image first.")
    return path


def _find_existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _replay(messages: list[Message], receive: Receive) -> Receive:
    async def replay() -> Message:
        return messages.pop(0) if messages else await receive()

    return replay


async def _send_json(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
