"""Identifies the sender of a request: visitor address, local user, page of another site. Works on ASGI scopes."""

import ipaddress
import os
import secrets
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from huggingface_hub import get_token

from resnet_hub.demo.i18n import PageError, message
from resnet_hub.demo.space import is_space, note_local_user
from resnet_hub.hub_client.repo_name import is_repo_name

Scope = MutableMapping[str, Any]


def get_header(scope: Scope, name: str) -> str:
    """The values of a header, joined by commas: each proxy may add a line."""
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key.decode() == name)


def get_address(scope: Scope) -> str:
    """The visitor address: on a Space the last public one in the proxies' header; of IPv6 the network of 64 bits."""
    hops = [_parse_ip(hop) for hop in get_header(scope, "x-forwarded-for").split(",")] if is_space() else []
    peer = scope["client"][0] if scope.get("client") else ""
    ip = next((hop for hop in reversed(hops) if hop and hop.is_global), _parse_ip(peer))
    if isinstance(ip, ipaddress.IPv6Address) and not ip.is_loopback:  # one customer has the whole network
        return str(ipaddress.IPv6Network((int(ip), 64), strict=False))
    return str(ip or peer)


def is_loopback(address: str) -> bool:
    """Whether that is the address of this machine: of its user, or of a proxy on it."""
    ip = _parse_ip(address)
    return ip is not None and ip.is_loopback


def is_local_user(scope: Scope) -> bool:
    """Whether the request comes from this machine: not on a Space, through a proxy or by another host name."""
    if is_space() or any(get_header(scope, name) for name in ("x-forwarded-for", "forwarded", "x-forwarded-host")):
        return False
    local = ("127.0.0.1", "::1")
    try:
        host = urlsplit(f"//{get_header(scope, 'host')}").hostname
    except ValueError:  # an incomplete address
        return False
    return bool(scope.get("client")) and scope["client"][0] in local and host in (*local, "localhost")


def note_sender(scope: Scope | None) -> None:
    """Let the rest of a call read from the Hub as its sender: see `space.choose_hub_token`.

    An agent reads as nobody: Gradio repeats its call from this machine, with the host that its sender chose to write.
    """
    is_local = scope is not None and is_local_user(scope) and get_header(scope, "x-gradio-user") != "mcp"
    note_local_user(is_local)


def is_from_other_site(scope: Scope) -> bool:
    """Whether a browser sends the request for a page of another site.

    Such a request carries the visitor's sign-in, or reaches the user's own machine. No script can set the header
    Sec-Fetch-Site. Old browsers, and those without https, send only Origin. A script can set X-Forwarded-Host, so it
    counts only on a Space, whose proxy sets it.
    """
    site, origin = get_header(scope, "sec-fetch-site"), get_header(scope, "origin")
    if site:
        return site not in ("same-origin", "none")
    hosts = {get_header(scope, "host"), get_header(scope, "x-forwarded-host") if is_space() else ""} - {""}
    return bool(origin) and urlsplit(origin).netloc not in hosts


def get_visitor_id(stored: Any) -> str:
    """The visitor id that the browser has stored, or a new one. Each visitor has one run at a time."""
    visitor = stored.get("visitor") if isinstance(stored, dict) else None
    return visitor if isinstance(visitor, str) and 16 <= len(visitor) <= 64 else secrets.token_urlsafe(24)


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def token(request: gr.Request, signed_in: gr.OAuthToken | None, needed: str = "sign_in_job") -> str:
    """The token of the visitor who signed in, or the saved one of the local user; used for this request only.

    Raises:
        PageError: With the message `needed` if there is neither.
    """
    is_local = request.request is not None and is_local_user(request.request.scope)
    value = signed_in.token if signed_in else get_token() if is_local else None
    if not value:
        raise PageError(needed)
    return value


def describe_way_in(request: gr.Request, signed_in: gr.OAuthToken | None) -> str:
    """The key of the message that says how to get a token; empty if there is one."""
    try:
        token(request, signed_in)
    except PageError:
        if os.environ.get("OAUTH_CLIENT_ID"):
            return "sign_in_here"
        is_local = request.request is not None and is_local_user(request.request.scope)
        return "log_in_locally" if is_local else "no_sign_in"
    return ""


def check_repo(name: str) -> None:
    """Raise `PageError` unless the name has the form user/name."""
    if not is_repo_name(str(name).strip()):
        raise PageError("bad_repo", name=str(name)[:100])


def render_login() -> None:
    if os.environ.get("OAUTH_CLIENT_ID"):
        gr.LoginButton()


def create_repo_field(**options: Any) -> gr.Textbox:
    """A field for a repository on the Hub."""
    return gr.Textbox(label=message("repo"), info=message("repo_info"), placeholder="user/name", **options)
