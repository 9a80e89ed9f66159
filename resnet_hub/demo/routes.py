"""The routes of Gradio that the page serves. All others answer 404.

Gradio has more than the page needs: one fetches any address, one calls handlers past the queue.
"""

import re

from resnet_hub.demo.visitor import Scope

API = "/gradio_api"
HEALTH, UPLOAD, CALL, AGENT, FILE, ANSWERS = (
    "/health",
    f"{API}/upload",
    "a call",
    f"{API}/mcp",
    f"{API}/file=",
    "/answers",
)

_ROUTES = [  # methods, pattern of the path, kind
    ("GET|HEAD", "/health", HEALTH),
    ("GET|HEAD", r"/", "/"),
    ("GET|HEAD", r"/(config|favicon\.ico|robots\.txt|manifest\.json|theme\.css|pwa_icon(/\d+)?)", "/"),
    ("GET|HEAD", r"/(assets|static|svelte)/.*", "/assets"),
    ("GET", r"/(login/huggingface|login/callback|logout)", "/login"),
    ("GET", rf"{API}/(info/?|openapi\.json|startup-events|theme\.css|app_id/?)", "/info"),
    ("GET", rf"{API}/heartbeat/[\w-]+", "/heartbeat"),
    ("GET", rf"{API}/upload_progress", "/upload_progress"),
    ("GET|HEAD", rf"{API}/file=.*", FILE),
    ("GET", rf"{API}/(queue/data|call/(v2/)?[\w-]+/[\w-]+)", ANSWERS),
    ("POST", rf"{API}/(queue/join|call/(v2/)?[\w-]+/?|cancel|reset/?)", CALL),
    ("POST", rf"{API}/upload", UPLOAD),
    ("GET|POST|DELETE|HEAD", rf"{API}/mcp(/.*)?", AGENT),
]


def get_path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", "").rstrip("/"))


def find_route(scope: Scope) -> str:
    """The kind of route of a request; "" if the page does not serve it."""
    path = get_path(scope)
    for methods, pattern, kind in _ROUTES:
        if scope["method"] in methods.split("|") and re.fullmatch(pattern, path, re.DOTALL):
            return kind
    return ""
