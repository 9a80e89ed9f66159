"""Downloads from the Hub and their cache: commits, digests, interruptions, refusals and outages."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoints import TINY, compute_logits, is_one_sentence, load_error, make_model
from helpers.hub_server import READER, STRANGER, WRITER, Hub
from helpers.xet_store import XetStore
from huggingface_hub import constants

from resnet_hub.checkpoints.load import load_checkpoint, read_config
from resnet_hub.checkpoints.push import push_folder
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import CheckpointError, HubError
from resnet_hub.hub_client import timeouts, xet
from resnet_hub.hub_client.listing import digest_file
from resnet_hub.model import ResNet


@pytest.mark.parametrize(
    "source", ["./gone", "/gone/away", "~/gone-away", "~nobody-here/m", "a/b/c", Path("user/name")]
)
def test_a_missing_path_is_not_requested_from_the_hub(source: str | Path, hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="There is no folder") as error:
        load_checkpoint(source)
    assert is_one_sentence(error.value)
    assert hub.requests == []


def test_files_of_one_load_are_of_one_commit(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)

    def move() -> None:
        hub.edit("user/tiny", "config.json", ResNetConfig(depths=(1,), width=8).to_json())
        hub.edit("user/tiny", "model.safetensors", b"of the next commit")

    hub.fail("HEAD .*/resolve/.*config", times=1, first=move)
    loaded = ResNet.from_pretrained("user/tiny")
    assert len(hub.repos["user/tiny"].commits) == 4
    assert torch.equal(compute_logits(loaded), compute_logits(model))


def test_no_such_repo(hub: Hub) -> None:
    assert "no model on the Hub named user/none" in load_error("user/none")
    assert "no model on the Hub named user/none" in load_error("user/none", token=READER)


@pytest.mark.parametrize(
    "name", ["", "user/-name", "user--x/y", "user/name.git", "two words", "a" * 97, "a" * 5000, "nul\0", "user/", "é/x"]
)
def test_invalid_ids_are_not_sent(name: str, model: ResNet, hub: Hub, tmp_path: Path) -> None:
    if name:  # the empty path is the folder that one stands in
        with pytest.raises((CheckpointError, HubError), match=r"no folder|nor the name of a model") as error:
            ResNet.from_pretrained(name)
        assert is_one_sentence(error.value)
    with pytest.raises(HubError, match="nor the name of a model"):
        push_folder(model.save_pretrained(tmp_path / "m"), name, token=WRITER)
    assert hub.requests == []


def test_private_and_gated(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER, private=True)
    assert "private" in load_error()
    hub.repos["user/tiny"].private, hub.repos["user/tiny"].gated = False, True
    assert f"Request access at {hub.url}/user/tiny" in load_error()
    assert "is gated" in load_error(token=STRANGER)


def test_bad_tokens(model: ResNet, hub: Hub, tmp_path: Path) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    assert "does not accept the token" in load_error(token="hf_wrong")
    assert "characters that no token has" in load_error(token="hf_wrong\n")
    assert "characters that no token has" in load_error(token="令牌")
    folder = model.save_pretrained(tmp_path / "m")
    for token, words in {"hf_wrong": "does not accept the token", READER: "cannot write", False: "Log in"}.items():
        with pytest.raises(HubError, match=words) as error:
            push_folder(folder, "user/other", token=token)
        assert is_one_sentence(error.value)
    with pytest.raises(HubError, match="Log in"):
        push_folder(folder, "user/other", token=True)


def test_no_such_revision(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    assert "no branch, tag or commit v2" in load_error(revision="v2")
    assert "no branch, tag or commit" in load_error(revision="0" * 40)


def test_rate_limit_and_server_errors(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail(".", 429, headers={"Retry-After": "17"})
    assert "Try again in 17 seconds" in load_error()
    hub.faults.clear()
    for status in (500, 503):
        hub.fail("api/models", status)
        assert f"a server error ({status})" in load_error()
        hub.faults.clear()
    for status in (500, 503):  # half-way
        hub.fail("GET .*/resolve/", status)
        assert f"a server error ({status})" in load_error()
        hub.faults.clear()
    hub.fail("GET .*/resolve/.*config", 429, headers={"Retry-After": "0"})  # and stays so
    assert "Try again in 0 seconds" in load_error(seconds=30)
    hub.faults.clear()
    hub.fail("POST /api/repos/create", 503)
    with pytest.raises(HubError, match="a server error"):
        model.push_to_hub("user/another", token=WRITER)


def test_a_truncated_download_raises(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail("GET .*/resolve/.*safetensors", body=b"too short")
    assert "cannot be fetched" in load_error()
    hub.faults.clear()
    assert torch.equal(compute_logits(ResNet.from_pretrained("user/tiny")), compute_logits(model))


def test_an_interrupted_download_resumes(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail("GET .*/resolve/.*safetensors", cut=1000, times=1)
    hub.fail("GET .*/resolve/.*README", 429, headers={"Retry-After": "0"}, times=1)
    assert torch.equal(compute_logits(ResNet.from_pretrained("user/tiny")), compute_logits(model))


def test_a_download_without_progress_fails(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail("GET .*/resolve/.*safetensors", cut=0)
    assert "cannot be reached" in load_error(seconds=30)


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_download_is_fetched_again(
    name: str, links: bool, model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", not links)
    monkeypatch.setattr("huggingface_hub.file_download._are_symlinks_supported_in_dir", {})
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail(f"GET .*/resolve/.*{name}", flip=True)
    for _ in range(2):  # nothing of the first is left to be taken for the file
        assert re.search(rf"^{name} of user/tiny arrived damaged from {hub.url} twice", load_error())
    hub.faults.clear()
    hub.fail(f"GET .*/resolve/.*{name}", flip=True, times=1)
    loaded = ResNet.from_pretrained("user/tiny")
    assert torch.equal(compute_logits(loaded), compute_logits(model))
    assert loaded.config == TINY
    files = [path for path in (tmp_path / "cache").rglob(name) if path.parent.parent.name == "snapshots"]
    assert [path.is_symlink() for path in files] == [links]


def test_a_file_is_checked_once(model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    checked, digest = [], digest_file

    def watched(path: Path, length: int) -> str | None:
        checked.append(path.name)
        if checked.count(path.name) == 1 and path.name == "model.safetensors":
            raise KeyboardInterrupt
        return digest(path, length)

    monkeypatch.setattr("resnet_hub.checkpoints.load.digest_file", watched)
    hub.fail("GET .*/resolve/.*safetensors", flip=True, times=1)
    with pytest.raises(KeyboardInterrupt):
        ResNet.from_pretrained("user/tiny")
    assert torch.equal(compute_logits(ResNet.from_pretrained("user/tiny")), compute_logits(model))
    assert checked.count("model.safetensors") == 3  # interrupted, damaged, whole
    assert {"config.json", "README.md"} < set(checked)
    checked.clear()
    assert torch.equal(compute_logits(ResNet.from_pretrained("user/tiny")), compute_logits(model))
    assert checked == []


KILLED = """
import os, sys
from resnet_hub.checkpoints import load
load.digest_file = lambda path, length: os.kill(os.getpid(), 9)
load.load_checkpoint("user/tiny", cache_dir=sys.argv[1])
"""


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_is_checked_after_a_kill_between_download_and_check(
    name: str, model: ResNet, hub: Hub, tmp_path: Path
) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    if name != "config.json":
        read_config("user/tiny")
    hub.fail(f"GET .*/resolve/.*{name}", flip=True, times=1)
    run = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "cache"], capture_output=True, check=False)
    assert run.returncode == -9
    (damaged,) = [path for path in (tmp_path / "cache").rglob(name) if path.parent.parent.name == "snapshots"]
    assert damaged.read_bytes() != hub.repos["user/tiny"].files()[name]
    loaded = ResNet.from_pretrained("user/tiny")
    assert torch.equal(compute_logits(loaded), compute_logits(model))
    assert loaded.config == TINY


def test_the_ref_of_a_branch_moves_once_all_files_are_fetched(
    model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    old = compute_logits(ResNet.from_pretrained("user/tiny"))
    torch.nn.init.ones_(model.fc.bias)
    model.push_to_hub("user/tiny", token=WRITER)
    assert read_config("user/tiny") == TINY  # of the new commit, whose weights are not here
    hub.fail("GET .*/resolve/.*safetensors", 503)
    assert "a server error" in load_error()
    hub.fail(".", 503)
    hub.faults.reverse()
    assert torch.equal(compute_logits(ResNet.from_pretrained("user/tiny")), old)
    hub.faults.clear()
    new = compute_logits(ResNet.from_pretrained("user/tiny"))
    assert torch.equal(new, compute_logits(model))
    assert torch.equal(compute_logits(ResNet.from_pretrained("user/tiny", local_files_only=True)), new)


def test_the_cached_copy_of_a_deleted_repo_stays(model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    ResNet.from_pretrained("user/tiny")
    del hub.repos["user/tiny"]
    assert "no model on the Hub named user/tiny" in load_error()
    assert torch.equal(
        compute_logits(ResNet.from_pretrained("user/tiny", local_files_only=True)), compute_logits(model)
    )


@pytest.mark.parametrize("trouble", ["limit", "down", "silent", "offline", "local", "dead"])
def test_without_a_working_hub_the_cached_copy_is_used(
    trouble: str, model: ResNet, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    first = ResNet.from_pretrained("user/tiny")
    options = {"local_files_only": True} if trouble == "local" else {}
    match trouble:
        case "limit":
            hub.fail(".", 429)
        case "down":
            hub.fail(".", 503)
        case "silent":
            hub.fail(".", seconds=2)
            monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", 0.2)
        case "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        case "dead":
            monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
            monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    again = ResNet.from_pretrained("user/tiny", **options)
    assert torch.equal(compute_logits(again), compute_logits(first))
    assert again.card == first.card
    message = load_error("user/other", **options)
    assert {"offline": "not in the cache", "local": "not in the cache"}.get(trouble, "ry again") in message


@pytest.fixture
def by_xet(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub with a store behind Xet, which the client uses."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(timeouts, "XET_SILENCE", 1.0)
    hub.xet = XetStore()
    xet.report_store(broken=False)
    yield hub
    xet.report_store(broken=False)


@pytest.mark.parametrize("fault", [None, {"seconds": 60}, {"status": 500}, {"lost": True}, {"body": b"x" * 300_000}])
def test_a_model_travels_by_xet_or_else_by_plain_http(
    fault: dict[str, Any] | None, by_xet: Hub, tmp_path: Path
) -> None:
    model, generator = make_model(TINY), torch.Generator()
    generator.seed()  # hf_xet remembers what it has sent, and would not send it to the store of another test
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    model.push_to_hub("user/tiny", token=WRITER)
    assert by_xet.xet and by_xet.xet.files
    by_xet.requests.clear()
    if fault:
        by_xet.fail("/cas/", **fault)
    loaded = ResNet.from_pretrained("user/tiny")
    assert torch.equal(compute_logits(loaded), compute_logits(model))
    plain = [request for request in by_xet.requests if re.match("GET .*/resolve/.*safetensors", request)]
    assert bool(plain) == bool(fault)
    assert not list((tmp_path / "cache").rglob(".unchecked/**/*.safetensors"))  # the digest was checked


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_arrives_short_is_fetched_again(name: str, model: ResNet, hub: Hub) -> None:
    model.push_to_hub("user/tiny", token=WRITER)
    hub.fail(f"GET /user/tiny/resolve/.*{name}", body=b"{}", times=1)
    assert torch.equal(compute_logits(ResNet.from_pretrained("user/tiny")), compute_logits(model))
    hub.fail(f"GET /user/tiny/resolve/.*{name}", body=b"{}")
    torch.nn.init.ones_(model.fc.bias)
    hub.edit("user/tiny", name, hub.repos["user/tiny"].files()[name] + b" ")
    message = load_error("user/tiny")
    assert message.startswith("user/tiny cannot be fetched: a file arrived incomplete twice.")
