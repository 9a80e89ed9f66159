"""A small model, and a cache of the Hub for each test."""

from pathlib import Path

import pytest
from helpers.checkpoints import TINY, make_model
from huggingface_hub import constants

from resnet_hub.model import ResNet


@pytest.fixture(autouse=True)
def _isolate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 3.0)  # a lasting fault raises sooner


@pytest.fixture
def model() -> ResNet:
    return make_model(TINY)
