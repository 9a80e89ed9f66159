"""How long requests wait without progress: what moves goes on, and only requests of the library have a timeout."""

import time
from pathlib import Path

import pytest
from helpers.hub_server import Hub, Repo
from huggingface_hub import constants

from resnet_hub.checkpoints.load import load_checkpoint, read_config
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import HubError
from resnet_hub.model import ResNet

SECONDS = 4.0  # in place of timeouts.SILENCE
TINY = ResNetConfig(depths=(1, 1), width=8, id2label={0: "cat", 1: "dog"}, image_size=32)


@pytest.fixture(autouse=True)
def tiny(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """The repo user/tiny, with short timeouts."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", SECONDS)
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.MAX_BACKOFF", 1.0)
    folder = ResNet(TINY).save_pretrained(tmp_path / "tiny")
    hub.repos["user/tiny"] = repo = Repo()
    repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Upload")
    return repo


def test_other_requests_have_no_timeout(hub: Hub) -> None:
    from huggingface_hub import get_session

    read_config("user/tiny")
    hub.fail("GET /api/models/user/tiny", seconds=SECONDS + 0.5, times=1)
    assert get_session().get(f"{hub.url}/api/models/user/tiny").status_code == 200


def test_slow_transfers_that_move_are_not_ended(hub: Hub, tiny: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.MIN_PROGRESS", 1000)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the client goes on after what it has written
    size = len(tiny.files()["model.safetensors"])
    hub.fail("GET .*safetensors", cut=size // 5, hold=0.8, times=3)
    start = time.monotonic()
    assert load_checkpoint("user/tiny").config == TINY
    assert time.monotonic() - start > SECONDS  # in which not nothing came


def test_the_same_bytes_again_are_no_progress(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.MIN_PROGRESS", 1000)
    hub.fail("GET .*safetensors", cut=5000, hold=3)  # the client has not written them: it begins anew
    start = time.monotonic()
    with pytest.raises(HubError, match=r"cannot be reached .*\.$") as failed:
        load_checkpoint("user/tiny")
    assert time.monotonic() - start < 2 * SECONDS
    assert len(str(failed.value)) < 300 and "\n" not in str(failed.value)
