"""In whose name the page acts on the Hub: whoever asks, never the Space's owner."""

import os

import gradio as gr
from huggingface_hub import get_token
from huggingface_hub.utils import HFValidationError, validate_repo_id

from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.visitor import is_local_user


def token(request: gr.Request, signed_in: gr.OAuthToken | None, needed: str = "sign_in_job") -> str:
    """Of whoever asks: signed in on a Space, or the local user with a saved one; it lives in the request only."""
    local = request.request is not None and is_local_user(request.request.scope)
    found = signed_in.token if signed_in else get_token() if local else None
    if not found:
        raise PageError(needed)
    return found


def check_repo(name: str) -> None:
    """Raises `PageError` where that cannot be a repository of somebody's."""
    try:
        validate_repo_id(str(name).strip())
    except HFValidationError:
        raise PageError("bad_repo", name=str(name)[:100]) from None
    if str(name).count("/") != 1:
        raise PageError("bad_repo", name=str(name)[:100])


def render_login() -> None:
    if os.environ.get("OAUTH_CLIENT_ID"):
        gr.LoginButton()
