"""Every test runs against a Hub on loopback with a cache of its own, and meets no other network.

huggingface_hub reads its environment when it is imported, so all of it is set here, before any test file is.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.hub_server import Hub, Repo

if TYPE_CHECKING:
    from playwright.sync_api import Browser

assert "huggingface_hub" not in sys.modules, "too late to point it at the loopback Hub"
_hub = Hub().__enter__()
_home = tempfile.TemporaryDirectory(prefix="resnet_hub_tests_")
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN_PATH"):
    os.environ.pop(name, None)
os.environ |= {
    "HF_ENDPOINT": _hub.url,
    "HF_HOME": _home.name,
    "HF_HUB_DISABLE_XET": "1",  # tests of Xet switch it on
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",  # the `hf` command would ask a package index
    "NO_PROXY": "127.0.0.1,localhost",
    # Tests run beside each other, and two threads that wait for a busy core take ten times as long as one.
    "OMP_NUM_THREADS": "1",
}


def pytest_configure(config: pytest.Config) -> None:
    # huggingface_hub 2.4 uploads with an argument that its HTTP library deprecates.
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that none of them is what all others wait for at the end."""
    long = (
        "test_train_page",
        "test_loop",
        "test_scheduler",
        "test_hostile",
        "test_whole_page",
        "test_strangers",
        "test_zero_gpu",
        "test_predict_page",
    )
    items.sort(key=lambda item: long.index(item.path.stem) if item.path.stem in long else len(long))


def pytest_unconfigure() -> None:
    _hub.__exit__()
    _home.cleanup()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The Hub that the client talks to, empty and without faults; see `hub_server.Hub`."""
    _hub.reset()
    yield _hub
    _hub.reset()


@pytest.fixture
def tables(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """The dataset user/tables on the Hub; a run must name its columns as `helpers.data.NAMED` does."""
    from helpers.data import write_tables
    from huggingface_hub import HfFileSystem

    HfFileSystem.clear_instance_cache()  # it remembers what lies on a Hub
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    repo = hub.repos["datasets/user/tables"] = Repo()
    repo.commit("main", write_tables(tmp_path / "tables"), "Tables")
    return repo


@pytest.fixture(scope="module")  # not longer: its event loop runs in this thread, where others may want theirs
def browser() -> "Iterator[Browser]":
    """Chromium for journeys through the page; without it they are skipped, in CI they fail."""
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Chromium is not installed.")
    flags = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    flags += "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"  # a camera, and leave to use it
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags.split())
        expect.set_options(timeout=240_000)  # whatever else this machine does meanwhile
        yield browser
        browser.close()
