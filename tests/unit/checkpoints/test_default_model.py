"""Which model serves where nobody names one, with a Hub that answers, is slow, breaks or has something else."""

import json
import time
from pathlib import Path

import pytest
from helpers.hub_server import Hub, Repo
from huggingface_hub import constants

from resnet_hub import ResNet, ResNetConfig
from resnet_hub.checkpoints.default_model import (
    BASE_ON_CPU,
    BASE_ON_GPU,
    PREDICT_MODEL,
    choose_default_model,
    is_cached,
    preferred_model,
)

EMBEDDED = Path("embedded")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNET_HUB_MODEL", raising=False)
    monkeypatch.delenv("RESNET_HUB_BASE", raising=False)


@pytest.fixture
def timms(hub: Hub, tmp_path: Path) -> Repo:
    """The preferred model in timm's own form: its config has no section of ours."""
    folder = tmp_path / "timm"
    ResNet(ResNetConfig(depths=(1, 1, 1, 1), width=8, image_size=64, id2label={0: "a"})).save_pretrained(folder)
    config = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {"input_size": [3, 224, 224]}}
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    repo = hub.repos[PREDICT_MODEL] = Repo()
    repo.commit("main", files | {"config.json": json.dumps(config).encode()}, "timm")
    return repo


def test_a_hub_that_answers_gives_the_preferred_model(timms: Repo) -> None:
    assert choose_default_model("predict", EMBEDDED) == (PREDICT_MODEL, None)


def test_the_base_depends_on_the_device() -> None:
    assert preferred_model("base") == BASE_ON_CPU
    assert preferred_model("base", on_gpu=True) == BASE_ON_GPU


def test_the_environment_names_another_model_or_the_embedded_one(
    timms: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_HUB_MODEL", "")
    assert choose_default_model("predict", EMBEDDED) == (EMBEDDED, None)
    monkeypatch.setenv("RESNET_HUB_MODEL", str(tmp_path / "timm"))
    assert choose_default_model("predict", EMBEDDED) == (str(tmp_path / "timm"), None)
    monkeypatch.setenv("RESNET_HUB_BASE", PREDICT_MODEL)
    assert choose_default_model("base", EMBEDDED) == (PREDICT_MODEL, None)


def test_a_slow_hub_is_not_waited_for(timms: Repo, hub: Hub) -> None:
    hub.fail("GET /api/models/.*", seconds=3.0)
    start = time.monotonic()
    source, reason = choose_default_model("predict", EMBEDDED, seconds=0.3)
    assert time.monotonic() - start < 2
    assert source == EMBEDDED and reason == f"The Hub did not answer about {PREDICT_MODEL} within 0.3 seconds."


def test_a_broken_hub_is_named(timms: Repo, hub: Hub) -> None:
    hub.fail("GET /api/models/.*", 403)
    source, reason = choose_default_model("predict", EMBEDDED)
    assert source == EMBEDDED and reason is not None and PREDICT_MODEL in reason


def test_it_serves_once_the_hub_has_it(hub: Hub, request: pytest.FixtureRequest) -> None:
    source, reason = choose_default_model("predict", EMBEDDED)
    assert source == EMBEDDED and reason is not None
    request.getfixturevalue("timms")
    assert choose_default_model("predict", EMBEDDED) == (PREDICT_MODEL, None)


def test_a_repo_that_is_no_resnet_is_named(timms: Repo) -> None:
    timms.commit("main", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}, "Another model")
    source, reason = choose_default_model("predict", EMBEDDED)
    assert source == EMBEDDED and reason is not None and "bert" in reason


def test_offline_the_cache_decides(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        source, reason = choose_default_model("predict", EMBEDDED)
        assert source == EMBEDDED and reason == f"{PREDICT_MODEL} is not in the cache, and HF_HUB_OFFLINE is set."
        assert hub.requests == []
    repo = hub.repos["user/tiny"] = Repo()
    folder = tmp_path / "tiny"
    ResNet(ResNetConfig(depths=(1, 1), width=8, image_size=32, id2label={0: "a"})).save_pretrained(folder)
    repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Tiny")
    monkeypatch.setenv("RESNET_HUB_MODEL", "user/tiny")
    assert not is_cached("user/tiny")
    ResNet.from_pretrained("user/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert choose_default_model("predict", EMBEDDED) == ("user/tiny", None)
    assert hub.requests == []
