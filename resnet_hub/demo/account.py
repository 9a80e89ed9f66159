"""The account that the page uses on the Hub: the visitor's, never that of the Space's owner."""

import os
from typing import Any

import gradio as gr
from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from resnet_hub.demo.i18n import PageError, message
from resnet_hub.demo.visitor import is_local_user


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
    try:
        validate_repo_id(str(name).strip())
    except HFValidationError:
        raise PageError("bad_repo", name=str(name)[:100]) from None
    if str(name).count("/") != 1:
        raise PageError("bad_repo", name=str(name)[:100])


def render_login() -> None:
    if os.environ.get("OAUTH_CLIENT_ID"):
        gr.LoginButton()


def create_repo_field(**options: Any) -> gr.Textbox:
    """A field for a repository on the Hub."""
    return gr.Textbox(label=message("repo"), info=message("repo_info"), placeholder="user/name", **options)
