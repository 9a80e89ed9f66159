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
from resnet_hub.errors import CheckpointError
from resnet_hub.hub_client import timeouts

SMALL = ResNetConfig(depths=(1, 1, 1, 1), image_size=64, id2label={0: "a", 1: "b"})  # timm's widths are fixed


@pytest.fixture(autouse=True)
def included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNET_HUB_MODEL", raising=False)
    monkeypatch.delenv("RESNET_HUB_BASE", raising=False)
    monkeypatch.setattr("resnet_hub.included_models.INCLUDED_FOLDER", tmp_path)
    monkeypatch.setattr("resnet_hub.included_models.DEFAULT_MODEL_NAME", "included")
    (tmp_path / "included").mkdir()
    return tmp_path / "included"


@pytest.fixture
def timms(hub: Hub, tmp_path: Path) -> Repo:
    """The preferred model's repo in timm's own form, whose config has no section of ours, with a small network."""
    folder = ResNet(SMALL).save_pretrained(tmp_path / "timm", dtype="float16")
    config = {"architecture": "resnet18", "num_classes": 2, "model_args": {"layers": [1, 1, 1, 1]}}
    config |= {"pretrained_cfg": {"input_size": [3, 64, 64]}}
    weights = (folder / "model.safetensors").read_bytes()
    repo = hub.repos[PREDICT_MODEL] = Repo()
    repo.commit("main", {"config.json": json.dumps(config).encode(), "model.safetensors": weights}, "timm")
    return repo


def test_a_hub_that_answers_gives_the_preferred_model_which_is_then_cached(timms: Repo, hub: Hub) -> None:
    assert choose_default_model("predict") == (PREDICT_MODEL, None)
    hub.requests.clear()
    assert choose_default_model("predict") == (PREDICT_MODEL, None)
    assert ResNet.from_pretrained(PREDICT_MODEL, local_files_only=True).config.num_classes == 2
    assert hub.requests == []


def test_the_base_depends_on_the_device() -> None:
    assert preferred_model("base") == BASE_ON_CPU
    assert preferred_model("base", on_gpu=True) == BASE_ON_GPU


def test_the_environment_names_another_model_or_the_included_one(
    timms: Repo, included: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_HUB_MODEL", "")
    assert choose_default_model("predict") == (included, None)
    monkeypatch.setenv("RESNET_HUB_MODEL", str(tmp_path / "timm"))
    assert choose_default_model("predict") == (str(tmp_path / "timm"), None)
    monkeypatch.setenv("RESNET_HUB_MODEL", "timm")  # by its name among the included models
    assert choose_default_model("predict") == (str(tmp_path / "timm"), None)
    monkeypatch.setenv("RESNET_HUB_BASE", PREDICT_MODEL)
    assert choose_default_model("base") == (PREDICT_MODEL, None)


@pytest.mark.parametrize("name", ["./models/mine", "models/mine", "/models/mine", "~/no/mine", "a\\b", "mine", "a/b/c"])
def test_a_path_that_does_not_exist_is_an_error(
    hub: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for variable, purpose in (("RESNET_HUB_MODEL", "predict"), ("RESNET_HUB_BASE", "base")):
        monkeypatch.setenv(variable, name)
        with pytest.raises(CheckpointError) as error:
            choose_default_model(purpose)  # type: ignore[arg-type]
        assert str(error.value).startswith(f"{variable} is {name}, which is neither a folder that exists, nor a model")
    assert hub.requests == []


def test_a_slow_hub_is_not_waited_for(timms: Repo, hub: Hub, included: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "DEFAULT_MODEL_SECONDS", 0.3)
    hub.fail("GET /api/models/.*", seconds=3.0)
    start = time.monotonic()
    source, reason = choose_default_model("predict")
    assert time.monotonic() - start < 2
    assert source == included and reason == f"The Hub did not respond about {PREDICT_MODEL} within 0.3 seconds."


def test_a_broken_hub_is_named(timms: Repo, hub: Hub, included: Path) -> None:
    hub.fail("GET /api/models/.*", 403)
    source, reason = choose_default_model("predict")
    assert source == included and reason is not None and PREDICT_MODEL in reason


def test_a_download_that_breaks_is_named(timms: Repo, hub: Hub, included: Path) -> None:
    hub.fail("(GET|HEAD) .*/model.safetensors", 403)
    source, reason = choose_default_model("predict")
    assert source == included and reason is not None and PREDICT_MODEL in reason
    hub.faults.clear()
    assert choose_default_model("predict") == (PREDICT_MODEL, None)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(429, "the Hub limits the rate of requests"), (500, "a server error (500)"), (503, "a server error (503)")],
)
@pytest.mark.parametrize("request_of", ["GET /api/models/.*", "(GET|HEAD) .*/config.json"])
def test_a_refusal_is_named_at_once(
    timms: Repo, hub: Hub, included: Path, monkeypatch: pytest.MonkeyPatch, status: int, reason: str, request_of: str
) -> None:
    monkeypatch.setattr(timeouts, "SILENCE", 15.0)
    hub.fail(request_of, status)
    start = time.monotonic()
    source, said = choose_default_model("predict")
    assert time.monotonic() - start < 2
    assert source == included and said is not None and said.startswith(PREDICT_MODEL) and reason in said


def test_a_base_is_asked_for_again(timms: Repo, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another base has another license."""
    hub.repos[BASE_ON_CPU] = timms
    hub.fail(f"GET /api/models/{BASE_ON_CPU}.*", 503, times=1)
    assert choose_default_model("base") == (BASE_ON_CPU, None)


def test_a_download_that_breaks_off_is_named_without_lines_of_the_client(
    timms: Repo, hub: Hub, included: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail("GET .*/model.safetensors", cut=1000)
    source, reason = choose_default_model("predict")
    assert source == included and reason is not None and "the connection broke off" in reason
    assert caplog.messages == []


def test_it_serves_once_the_hub_has_it(hub: Hub, included: Path, request: pytest.FixtureRequest) -> None:
    source, reason = choose_default_model("predict")
    assert source == included and reason is not None
    request.getfixturevalue("timms")
    assert choose_default_model("predict") == (PREDICT_MODEL, None)


def test_a_repo_that_is_no_resnet_is_named(timms: Repo, included: Path) -> None:
    timms.commit("main", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}, "Another model")
    source, reason = choose_default_model("predict")
    assert source == included and reason is not None and "bert" in reason


def test_without_an_included_model_the_hub_suffices(timms: Repo, hub: Hub, included: Path) -> None:
    included.rmdir()
    hub.fail("GET /api/models/.*", 403)
    with pytest.raises(CheckpointError, match=f"{PREDICT_MODEL}.* This installation has no default model"):
        choose_default_model("predict")
    hub.faults.clear()
    assert choose_default_model("predict") == (PREDICT_MODEL, None)


def test_offline_the_cache_decides(
    timms: Repo, hub: Hub, included: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        reason = f"{PREDICT_MODEL} is not in the cache, and HF_HUB_OFFLINE is set."
        assert choose_default_model("predict") == (included, reason)
        assert hub.requests == []
    assert not is_cached(PREDICT_MODEL)
    ResNet.from_pretrained(PREDICT_MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert choose_default_model("predict") == (PREDICT_MODEL, None)
    assert hub.requests == []


def test_a_cached_model_that_is_no_resnet_does_not_serve(
    timms: Repo, included: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ResNet.from_pretrained(PREDICT_MODEL)
    (config,) = Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/config.json")
    config.resolve().write_text('{"model_type": "bert"}', encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert choose_default_model("predict").source == included
