"""Malformed responses and hostile texts of a Hub become one short message."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import hub_server
from helpers.checkpoints import is_one_sentence
from helpers.hub_server import WRITER, Hub, Repo
from huggingface_hub import constants

from resnet_hub.checkpoints.load import load_checkpoint, read_config
from resnet_hub.checkpoints.search import search_models
from resnet_hub.errors import HubError, ResNetHubError
from resnet_hub.model import ResNet

MALFORMED_VALUES: list[Any] = [
    *(None, -1, 1e999, "\ud800\n\x1b[31m", "x" * 10**5, "../../x"),
    *([[]], {"a": 1}, [{"rfilename": 1}], [{"rfilename": "config.json", "size": "1"}]),
]

CALLS: dict[str, Callable[[ResNet], object]] = {
    "info": lambda model: read_config("user/tiny"),
    "models": lambda model: search_models("tiny"),
    **dict.fromkeys(
        ("create", "preupload", "batch", "commit"), lambda model: model.push_to_hub("user/new", token=WRITER)
    ),
}


def replace_each(value: Any, other: Any) -> Iterator[Any]:
    """A JSON value with each of its values replaced in turn; of a list only the first."""
    yield other
    for key, part in value.items() if isinstance(value, dict) else []:
        yield from (value | {key: new} for new in replace_each(part, other))
    for part in value[:1] if isinstance(value, list) else []:
        yield from ([new, *value[1:]] for new in replace_each(part, other))


@pytest.mark.filterwarnings("ignore:Warnings while validating metadata:UserWarning")
@pytest.mark.parametrize("route", CALLS)
def test_a_malformed_response_raises_one_message(
    route: str, model: ResNet, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = b"---\npipeline_tag: image-classification\ntags: [resnet]\n---\n"
    config = (model.save_pretrained(tmp_path / "m") / "config.json").read_bytes()
    hub.repos["user/tiny"] = Repo()
    hub.repos["user/tiny"].commit("main", {"README.md": card, "config.json": config}, "x")
    true, place, count = getattr(Hub, route), 0, 1

    def twisted(*arguments: Any) -> Any:
        nonlocal count
        response = true(*arguments)
        answers = [answer for malformed in MALFORMED_VALUES for answer in replace_each(response, malformed)]
        count = max(count, len(answers))
        return answers[min(place, len(answers) - 1)]

    routes = [(pattern, twisted if answer is true else answer) for pattern, answer in hub_server._ROUTES]
    monkeypatch.setattr(hub_server, "_ROUTES", routes)
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 1.0)
    said = set()
    while place < count:
        hub.repos.pop("user/new", None)
        hub.blobs.clear()
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"cache{place}"))
        try:
            CALLS[route](model)
        except ResNetHubError as error:
            said.add(str(error))
        place += 1
    assert said and all(is_one_sentence(text) and text.isprintable() and len(text) < 600 for text in said)
    assert any("is malformed" in text for text in said) == (route in ("info", "models"))


@pytest.mark.parametrize("said", ["No\n\n\x1b[31mway. " * 10_000, ["a\r\nb", "x" * 10**6], "\ud800" * 400])
def test_an_error_text_of_the_hub_is_cut_to_one_line(said: object, hub: Hub) -> None:
    hub.fail("GET /api/models/", 400, page=json.dumps({"error": said}).encode())
    with pytest.raises(HubError, match=r"^user/tiny cannot be .*: the Hub refuses it \(400: ") as error:
        load_checkpoint("user/tiny")
    assert is_one_sentence(error.value) and str(error.value).isprintable() and len(str(error.value)) < 350
    hub.faults.clear()
    hub.fail("GET /api/models/", 401, headers={"X-Error-Message": "Bad token: " + "x" * 5000})
    with pytest.raises(HubError, match=r"x…\). Log in") as error:
        load_checkpoint("user/tiny", token="hf_bad")
    assert len(str(error.value)) < 450
