"""The route of the live camera, called as the server calls it."""

import asyncio
import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from starlette.requests import Request

from resnet_hub.config import ResNetConfig
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.demo.predict_tab import live_camera
from resnet_hub.demo.predict_tab.live_camera import LiveCamera
from resnet_hub.demo.predict_tab.model_picker import ModelPicker
from resnet_hub.model import ResNet

LABELS = {0: "<b>cat</b>", 1: "dog"}


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> LiveCamera:
    shelf = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(0)
    config = ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=32, id2label=LABELS)
    ResNet(config).save_pretrained(shelf / "tiny")
    models = Models(shelf)
    return LiveCamera(ModelPicker(models, DefaultModels(models, "tiny")))


def encode_frame() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 48), "orange").save(content, "JPEG")
    return content.getvalue()


def send(camera: LiveCamera, frame: bytes, model: str = "tiny", language: str = "en") -> tuple[int, str]:
    """The status and the text of the answer."""

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": frame, "more_body": False}

    headers = [(b"accept-language", language.encode())]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": headers,
        "query_string": f"model={model}".encode(),
    }
    answer = asyncio.run(camera.classify(Request(scope, receive)))
    return answer.status_code, bytes(answer.body).decode()


def test_a_frame_is_answered_in_the_language_of_the_visitor(camera: LiveCamera) -> None:
    status, text = send(camera, encode_frame())
    assert status == 200 and "&lt;b&gt;cat&lt;/b&gt;" in text and "<b>" not in text
    assert "ms on CPU" in text and "<button" not in text
    assert "用时" in send(camera, encode_frame(), language="zh")[1]


@pytest.mark.parametrize(
    ("frame", "model", "message"),
    [
        (b"", "tiny", "Cannot read"),
        (b"no image", "tiny", "Cannot read"),
        (encode_frame(), "/etc", "neither in the list"),
        (encode_frame(), "", "neither in the list"),
    ],
    ids=["empty", "text", "path", "nothing"],
)
def test_failures_are_one_sentence(camera: LiveCamera, frame: bytes, model: str, message: str) -> None:
    status, text = send(camera, frame, model)
    assert status == 400 and message in text and text.startswith('<p role="alert">')


def test_too_many_frames_are_sent_again_later(camera: LiveCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_camera, "_MAX_WAITING_FRAMES", 0)
    assert send(camera, encode_frame())[0] == 503


def test_a_model_that_is_gone_is_not_used_although_it_is_loaded(camera: LiveCamera, tmp_path: Path) -> None:
    models = camera.picker.models
    send(camera, encode_frame())
    assert models.find_loaded("tiny") is models.get("tiny")
    folder = models.shelf / "tiny"
    folder.rename(tmp_path / "tiny")
    try:
        assert send(camera, encode_frame())[0] == 400
    finally:
        (tmp_path / "tiny").rename(folder)
