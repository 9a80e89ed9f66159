"""Uploads and downloads by Xet, as the client does by default: broken stores, slow ones, and Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import ROOT
from helpers.checkpoints import is_one_sentence
from helpers.hub_server import WRITER, Hub, Repo
from helpers.xet_store import XetStore
from huggingface_hub import CommitOperationAdd, HfApi, _commit_api, constants
from huggingface_hub.utils import _xet as hub_xet

from resnet_hub.errors import HubError
from resnet_hub.hub_client import timeouts, xet
from resnet_hub.hub_client.errors import hub_errors
from resnet_hub.hub_client.retry import retry_call
from resnet_hub.hub_client.upload import upload_large_files

SIZE = 300_000
PACE = 150_000  # bytes a second; the server's own buffer takes less than half a second of it
UPLOAD_FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no token": ("xet-write-token", {"status": 500}),
    "silence instead of a token": ("xet-write-token", {"seconds": 60}),
    "a web page instead of a token": ("xet-write-token", {"status": 200, "page": b"<html>"}),
    "a store that fails": ("/cas/", {"status": 500}),
    "a store that is busy for an hour": ("/cas/", {"status": 503, "headers": {"Retry-After": "3600"}}),
    "a silent store": ("/cas/", {"seconds": 60}),
    "a store that closes": ("/cas/", {"lost": True}),
    "a store that says nonsense": ("/cas/", {"status": 200, "page": b"<html>\xff"}),
    "silence at the end": ("/cas/v1/shards", {"seconds": 60}),
}
DOWNLOAD_FAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (pattern.replace("write", "read"), fault) for name, (pattern, fault) in UPLOAD_FAULTS.items()},
    "silence at the end": ("GET /cas/xorbs", {"cut": 1000, "hold": 60}),
    "other bytes": ("GET /cas/xorbs", {"body": b"other" * SIZE}),
    "half of the bytes": ("GET /cas/xorbs", {"cut": 1000}),
}
SLOW = {"up": "POST /cas/v1/xorbs", "down": "GET /cas/xorbs"}


@pytest.fixture(autouse=True)
def _xet(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timeouts, "SILENCE", 4.0)
    monkeypatch.setattr(timeouts, "XET_SILENCE", 1.0)
    hub.xet = XetStore()
    hub.repos["user/m"] = Repo()
    hub.repos["user/m"].commit("main", {}, "x")
    xet.report_store(broken=False)
    yield
    xet.report_store(broken=False)


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)  # not what hf_xet remembers of another test


def upload(content: bytes) -> None:
    api = HfApi(token=WRITER)
    files = [CommitOperationAdd("w.safetensors", content)]
    with hub_errors("user/m", writing=True):
        retry_call(api.preupload_lfs_files, "user/m", files, free_memory=False)
        retry_call(lambda: api.create_commit("user/m", files, commit_message="x"))


def download() -> bytes:
    with hub_errors("user/m"):
        return Path(retry_call(HfApi(token=WRITER).hf_hub_download, "user/m", "w.safetensors")).read_bytes()


def test_files_go_up_and_down_by_xet(hub: Hub, content: bytes) -> None:
    upload(content)
    assert hub.repos["user/m"].files()["w.safetensors"] == content
    assert hub.xet and hub.xet.files and not hub.blobs
    hub.requests.clear()
    assert download() == content
    assert any("GET /cas/xorbs" in request for request in hub.requests)
    assert not any("telemetry" in request for request in hub.requests)


@pytest.mark.parametrize("fault", UPLOAD_FAULTS)
def test_an_upload_uses_plain_http_where_the_store_fails(fault: str, hub: Hub, content: bytes) -> None:
    pattern, about = UPLOAD_FAULTS[fault]
    hub.fail(pattern, **about)
    start = time.monotonic()
    upload(content)
    assert time.monotonic() - start < 8
    assert hub.repos["user/m"].files()["w.safetensors"] == content
    assert hub.blobs  # by LFS
    hub.requests.clear()
    upload(content[::-1])
    assert not any("/cas/" in request or "xet" in request for request in hub.requests)  # it is known to be broken


@pytest.mark.parametrize("fault", UPLOAD_FAULTS)
def test_an_upload_to_a_store_without_plain_http_raises_one_sentence(fault: str, hub: Hub, content: bytes) -> None:
    hub.only_xet = True
    pattern, about = UPLOAD_FAULTS[fault]
    hub.fail(pattern, **about)
    start = time.monotonic()
    with pytest.raises(HubError, match=r"user/m cannot be pushed: its store fails \(.*\), by plain HTTP too") as error:
        upload(content)
    assert time.monotonic() - start < 8
    assert is_one_sentence(error.value) and "http:" not in str(error.value) and len(str(error.value)) < 250
    hub.faults.clear()
    upload(content)
    assert hub.repos["user/m"].files()["w.safetensors"] == content


@pytest.mark.parametrize("fault", DOWNLOAD_FAULTS)
def test_a_download_uses_plain_http_where_the_store_fails(fault: str, hub: Hub, content: bytes) -> None:
    upload(content)
    pattern, about = DOWNLOAD_FAULTS[fault]
    hub.fail(pattern, **about)
    start = time.monotonic()
    assert download() == content
    assert time.monotonic() - start < 8


def test_a_download_that_fails_both_ways_raises_one_sentence(hub: Hub, content: bytes) -> None:
    upload(content)
    hub.fail("/cas/", seconds=60)
    hub.fail("GET /user/m/resolve", seconds=60)
    start = time.monotonic()
    with pytest.raises(HubError, match="user/m cannot be fetched: its store fails") as error:
        download()
    assert time.monotonic() - start < 12
    assert is_one_sentence(error.value)


@pytest.mark.parametrize("way", SLOW)
def test_a_slow_transfer_is_finished(way: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(PACE * 5)
    monkeypatch.setattr(timeouts, "XET_SILENCE", 2.0)
    if way == "down":
        upload(content)
    hub.fail(SLOW[way], pace=PACE)
    start = time.monotonic()
    assert download() == content if way == "down" else upload(content) is None
    assert time.monotonic() - start > 2 * timeouts.XET_SILENCE
    assert not hub.blobs  # by Xet to its end


def test_a_slow_upload_by_plain_http_is_finished(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(timeouts, "SILENCE", 2.0)
    hub.fail("PUT /lfs/", pace=PACE)
    start = time.monotonic()
    upload(os.urandom(PACE * 5))
    assert time.monotonic() - start > 2 * timeouts.SILENCE
    assert sum(request.startswith("PUT /lfs/") for request in hub.requests) == 1


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts programs in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("fault", ["silence instead of a token", "a silent store", "silence at the end"])
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_transfer_at_once(way: str, fault: str, hub: Hub, content: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr(timeouts, "XET_SILENCE", 30.0)
    monkeypatch.setattr(timeouts, "SILENCE", 30.0)
    if way == "down":
        upload(content)
    pattern, about = (DOWNLOAD_FAULTS if way == "down" else UPLOAD_FAULTS)[fault]
    interrupted_at = []

    def interrupt() -> None:
        time.sleep(0.7)
        interrupted_at.append(time.monotonic())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    hub.fail(pattern, **about | {"first": None})
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        upload(content) if way == "up" else download()
    assert time.monotonic() - interrupted_at[0] < 2


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_process(hub: Hub, tmp_path: Path) -> None:
    reached = threading.Event()
    hub.fail("xet-write-token", seconds=60, first=None)
    program = (
        "from huggingface_hub import CommitOperationAdd, HfApi\n"
        "from resnet_hub.hub_client.retry import retry_call\n"
        "file = CommitOperationAdd('w.safetensors', bytes(300_000))\n"
        "retry_call(HfApi().preupload_lfs_files, 'user/m', [file])\n"
    )
    hub.heard = lambda request, headers, body: reached.set() if "/preupload/" in request else None
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_XET"}
    environment |= {"HF_TOKEN": WRITER, "HF_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) as process:
        assert reached.wait(60)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 3
    assert process.returncode == -signal.SIGINT, errors


def test_other_transfers_of_the_process_are_not_watched(hub: Hub, content: bytes) -> None:
    upload(content)
    hub.fail("GET /cas/xorbs", seconds=2 * timeouts.XET_SILENCE, times=1)
    path = HfApi(token=WRITER).hf_hub_download("user/m", "w.safetensors")
    assert Path(path).read_bytes() == content


@pytest.mark.parametrize("holder", [None, SimpleNamespace(acquire=hub_xet.get_xet_session)])
def test_another_version_without_its_holder_of_sessions_transfers_by_plain_http(
    holder: object, hub: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_xet, "_GLOBAL_XET_HOLDER", holder)
    if holder is None:
        monkeypatch.delattr(hub_xet, "_GLOBAL_XET_HOLDER")
    upload(content)
    assert hub.repos["user/m"].files()["w.safetensors"] == content == download()
    assert hub.blobs and not any("/cas/" in request for request in hub.requests)


def test_another_version_with_another_request_for_upload_modes_uploads(
    hub: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = _commit_api._fetch_upload_modes

    def fetch_by_keywords(*, additions: Any, repo_type: str, repo_id: str, **options: Any) -> None:
        fetch(additions, repo_type, repo_id, **options)

    monkeypatch.setattr(_commit_api, "_fetch_upload_modes", fetch_by_keywords)
    api = HfApi(token=WRITER)
    files = [CommitOperationAdd("w.safetensors", content), CommitOperationAdd("README.md", b"small")]
    upload_large_files(api, "user/m", files)
    retry_call(lambda: api.create_commit("user/m", files, commit_message="x"))
    assert hub.repos["user/m"].files() == {"w.safetensors": content, "README.md": b"small"}
    assert download() == content


def test_private_names_of_huggingface_hub_are_in_one_module() -> None:
    names = re.compile(
        r"huggingface_hub(\.\w+)*(\._| import _)|\b(api|addition)\._|import .*\b_(xet|runtime|commit_api)\b"
    )
    users = [path.name for path in (ROOT / "resnet_hub").rglob("*.py") if names.search(path.read_text("utf-8"))]
    assert users == ["hub_compat.py"]
