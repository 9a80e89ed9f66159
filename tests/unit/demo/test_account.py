"""In whose name the page acts."""

from contextvars import copy_context
from pathlib import Path
from unittest.mock import Mock

import fastapi
import gradio as gr
import pytest

from resnet_hub.demo import visitor
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.space import choose_hub_token


def from_(client: str, host: str = "localhost:7860", **headers: str) -> gr.Request:
    named = {"host": host, **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]
    return gr.Request(fastapi.Request({"type": "http", "headers": pairs, "client": (client, 1), "path": "/"}))


@pytest.mark.parametrize(
    ("request_", "on_space"),
    [
        (from_("192.0.2.1"), False),
        (from_("127.0.0.1", host="example.org"), False),
        (from_("127.0.0.1", x_forwarded_for="192.0.2.1"), False),
        (from_("127.0.0.1"), True),
        (gr.Request(), False),
    ],
)
def test_only_a_local_user_acts_with_the_token_of_the_machine(
    request_: gr.Request, on_space: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_saved")
    assert visitor.token(from_("127.0.0.1"), None) == "hf_saved"
    if on_space:
        monkeypatch.setenv("SPACE_ID", "owner/space")
    with pytest.raises(PageError) as refusal:
        visitor.token(request_, None)
    assert refusal.value.key == "sign_in_job"
    assert visitor.token(request_, Mock(token="hf_visitor")) == "hf_visitor"


@pytest.mark.parametrize(
    ("sender", "on_space", "token"),
    [
        (from_("127.0.0.1"), False, None),
        (from_("192.0.2.1"), False, False),
        (from_("127.0.0.1", host="example.org"), False, False),
        (from_("127.0.0.1", x_gradio_user="mcp"), False, False),  # of an agent anywhere, passed on by Gradio
        (from_("127.0.0.1"), True, False),
        (None, False, False),
    ],
)
def test_only_a_local_user_reads_with_the_token_of_the_machine(
    sender: gr.Request | None, on_space: bool, token: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if on_space:
        monkeypatch.setenv("SPACE_ID", "owner/space")

    def read() -> bool | None:
        visitor.note_sender(sender.request.scope if sender else None)
        return choose_hub_token()

    assert copy_context().run(read) is token
    assert choose_hub_token() is False  # outside of a call


def test_who_has_no_token_learns_how_to_get_one_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    local, remote = from_("127.0.0.1"), from_("192.0.2.1")
    assert visitor.describe_way_in(local, None) == "log_in_locally"
    assert visitor.describe_way_in(remote, None) == "no_sign_in"
    monkeypatch.setenv("OAUTH_CLIENT_ID", "x")
    assert visitor.describe_way_in(remote, None) == "sign_in_here"
    assert visitor.describe_way_in(remote, Mock(token="hf_visitor")) == ""
    monkeypatch.setenv("HF_TOKEN", "hf_saved")
    assert visitor.describe_way_in(local, None) == ""


@pytest.mark.parametrize("name", ["", "flowers", "a/b/c", "user/", "user/flo wers", "../x", "u/" + "n" * 200])
def test_invalid_repository_names_are_refused(name: str) -> None:
    with pytest.raises(PageError) as refusal:
        visitor.check_repo(name)
    assert refusal.value.key == "bad_repo" and len(str(refusal.value)) < 250
    visitor.check_repo(" user/flowers ")
