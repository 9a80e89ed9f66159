"""Datasets of a Hub that is slow, busy or broken: retried as models are, with the same sentences."""

import time
from pathlib import Path
from typing import Any

import pytest
from helpers.checkpoints import is_one_sentence
from helpers.hub_server import Hub, Repo, sha256_hex
from helpers.xet_store import XetStore
from huggingface_hub import constants

from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import ResNetHubError
from resnet_hub.hub_client import timeouts, xet

ROUTES = {
    "list": "GET /api/datasets/user/tables",
    "card": "GET /datasets/user/tables/resolve/.*README.md",
    "files": "GET /datasets/user/tables/resolve/.*parquet",
}


@pytest.fixture(autouse=True)
def _short_timeouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: Repo) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(timeouts, "SILENCE", 3.0)
    monkeypatch.setattr(timeouts, "MAX_BACKOFF", 1.0)


def load() -> Any:
    return load_dataset("user/tables", subset="three", image_column="photo", label_column="kind")


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("status", [429, 503])
def test_requests_to_a_busy_hub_are_retried(route: str, status: int, hub: Hub) -> None:
    hub.fail(ROUTES[route], status, headers={"Retry-After": "1"}, times=1)
    assert len(load()["train"]) > 0


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ({"status": 500}, r"the Hub has a server error \(500\)\. Try again in some minutes"),
        (
            {"status": 429, "headers": {"Retry-After": "3600"}},
            r"the Hub limits the rate .* again in 60 minutes",
        ),
        ({"seconds": 60}, r"the Hub at .* cannot be reached"),
        ({"cut": 1}, r"the Hub at .* cannot be reached"),
    ],
)
def test_a_broken_hub_is_one_sentence(route: str, fault: dict[str, Any], cause: str, hub: Hub) -> None:
    hub.fail(ROUTES[route], **fault)
    start = time.monotonic()
    with pytest.raises(ResNetHubError, match=f"^The dataset 'user/tables' cannot be fetched: {cause}") as error:
        load()
    assert time.monotonic() - start < 6 * timeouts.SILENCE  # of a busy machine
    assert is_one_sentence(error.value) and len(str(error.value)) < 250


def test_a_short_file_is_fetched_again(hub: Hub) -> None:
    hub.fail(ROUTES["files"], body=b"PAR1", times=1)
    assert len(load()["train"]) > 0


def test_a_file_that_stays_short_is_one_sentence(hub: Hub) -> None:
    hub.fail(ROUTES["files"], body=b"PAR1")
    with pytest.raises(ResNetHubError, match="cannot be fetched: a file arrived incomplete twice") as error:
        load()
    assert is_one_sentence(error.value)


@pytest.mark.parametrize("fault", [{"status": 503}, {"seconds": 60}, {"status": 200, "page": b"<html>"}])
def test_the_cached_copy_is_read_where_the_hub_fails(fault: dict[str, Any], hub: Hub) -> None:
    first = load()
    hub.fail("", **fault)
    start = time.monotonic()
    assert len(load()["train"]) == len(first["train"])
    assert time.monotonic() - start < 6 * timeouts.SILENCE  # of a busy machine


def test_a_silent_store_behind_xet_is_replaced_by_plain_http(
    hub: Hub, tables: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(timeouts, "XET_SILENCE", 1.0)
    hub.xet = XetStore()
    for name, content in tables.files().items():
        if name.endswith("parquet"):
            hub.xet.hashes[sha256_hex(content)] = "ab" * 32
    hub.fail("/cas/", seconds=60)
    xet.report_store(broken=False)
    assert len(load()["train"]) > 0
    assert any("/cas/" in request for request in hub.requests)
    xet.report_store(broken=False)
