"""Checks the bodies of calls: a file in them is one that was uploaded here, never an address or a path."""

import json
import re
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from resnet_hub.demo.routes import FILE
from resnet_hub.demo.visitor import Scope, get_header

ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
MAX_SESSION_NAME = 100  # characters; Gradio keeps the name after the call


class RefusedError(Exception):
    """A request that is answered with a status and a message instead of being passed on."""

    def __init__(self, status: int, message: str, answer: dict[str, Any] | None = None):
        self.status, self.answer = status, answer or {"detail": message}


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
