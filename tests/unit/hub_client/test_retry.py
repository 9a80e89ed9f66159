"""Each fault of the Hub at each step of a load, a push and a search: a retry succeeds in seconds, or one message."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.hub_server import WRITER, Hub, Repo
from huggingface_hub import constants

from resnet_hub.checkpoints.load import load_checkpoint, read_config
from resnet_hub.checkpoints.push import push_folder
from resnet_hub.checkpoints.search import search_models
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import HubError
from resnet_hub.model import ResNet

SECONDS = 4.0  # in place of timeouts.SILENCE
TINY = ResNetConfig(depths=(1, 1), width=8, id2label={0: "cat", 1: "dog"}, image_size=32)


@pytest.fixture(autouse=True)
def _short_timeouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.SILENCE", SECONDS)
    monkeypatch.setattr("resnet_hub.hub_client.timeouts.MAX_BACKOFF", 1.0)


# A step: the requests of it that fail, and what it is a step of.
STEPS: dict[str, tuple[str, str]] = {
    "list the files": ("GET /api/models/user/{}$", "load"),
    "fetch the config": ("GET /user/{}/resolve/.*config.json", "load"),
    "fetch the weights": ("GET /user/{}/resolve/.*safetensors", "load"),
    "request the size": ("HEAD /user/{}/resolve/.*safetensors", "load"),
    "read the config": ("GET /user/{}/resolve/.*config.json", "read"),
    "check the permission": ("GET /api/models/user/{}/auth-check/write", "push"),
    "create": ("POST /api/repos/create", "push"),
    "list before the push": ("GET /api/models/user/{}$", "push"),
    "preupload": ("POST /api/models/user/{}/preupload", "push"),
    "request the upload URL": ("POST /user/{}.git/info/lfs", "push"),
    "commit": ("POST /api/models/user/{}/commit", "push"),
    "search": ("GET /api/models$", "search"),
}
LIMIT, OWN, REACHED, NONE = (
    "the Hub limits the rate of requests",
    "a server error",
    "cannot be reached",
    "does not respond like a Hugging Face Hub",
)
FAULTS: dict[str, tuple[dict[str, Any], str]] = {  # the fault, and words of the sentence; empty if a retry succeeds
    "too often, once": ({"status": 429, "headers": {"Retry-After": "1"}, "times": 1}, ""),
    "too often, an hour": ({"status": 429, "headers": {"Retry-After": "3600"}}, f"{LIMIT}. Try again in 60 minutes"),
    "too often, as the Hub says it": (
        {"status": 429, "headers": {"RateLimit": '"api";r=0;t=250', "RateLimit-Policy": '"fixed";"api";q=500;w=300'}},
        f"{LIMIT}. Try again in 5 minutes",
    ),
    "too often, until a time": (
        {"status": 429, "headers": {"Retry-After": formatdate(time.time() + 86_000, usegmt=True)}},
        f"{LIMIT}. Try again in 24 hours",
    ),
    "500 once": ({"status": 500, "times": 1}, ""),
    "503 once": ({"status": 503, "times": 1}, ""),
    "500": ({"status": 500}, f"{OWN} (500)"),
    "503 for an hour": ({"status": 503, "headers": {"Retry-After": "3600"}}, f"{OWN} (503)"),
    "silence": ({"seconds": 60}, REACHED),
    "cut once": ({"cut": 1, "times": 1}, ""),
    "cut": ({"cut": 1}, REACHED),
    "silence half-way": ({"cut": 1, "hold": 60}, REACHED),
    "a page of a hotel": ({"status": 200, "page": b"<html>Please log in</html>"}, NONE),
    "an answer of another kind": ({"status": 200, "page": b"[1]"}, NONE),
}
# What a step makes of a fault otherwise.
OTHERWISE = {
    ("commit", "cut"): "",  # it has happened
    ("commit", "silence half-way"): "",
    # Its answer is a status without content; what comes next meets the hotel.
    **{
        ("check the permission", fault): "" for fault in FAULTS if "cut" in FAULTS[fault][0] or FAULTS[fault][1] == NONE
    },
}
FILES = ("fetch the config", "fetch the weights", "read the config")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint folder a step, no two with the same weights."""
    made = {}
    for number, step in enumerate(STEPS):
        torch.manual_seed(number)
        made[step] = ResNet(TINY).save_pretrained(tmp_path_factory.mktemp("folders") / "m")
    return made


def put(hub: Hub, repo_id: str, folder: Path) -> None:
    hub.repos[repo_id] = Repo()
    hub.repos[repo_id].commit("main", {path.name: path.read_bytes() for path in folder.iterdir()}, "Upload")


def attempt(what: str, repo_id: str, folder: Path) -> None:
    match what:
        case "load":
            load_checkpoint(repo_id)
        case "read":
            read_config(repo_id)
        case "push":
            push_folder(folder, repo_id, token=WRITER)
        case "search":
            search_models("flowers")


def said(call: Callable[[], object]) -> tuple[str, float]:
    start = time.monotonic()
    try:
        call()
        sentence = ""
    except HubError as error:
        sentence = str(error)
        assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 300
    return sentence, time.monotonic() - start


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_any_step_is_retried_or_raises(fault: str, hub: Hub, folders: dict[str, Path]) -> None:
    about, words = FAULTS[fault]

    def tried(number: int) -> tuple[str, float]:
        step = list(STEPS)[number]
        _, what = STEPS[step]
        return said(lambda: attempt(what, f"user/m{number}", folders[step]))

    chosen = []
    for number, (step, (pattern, what)) in enumerate(STEPS.items()):
        if what in ("load", "read"):
            put(hub, f"user/m{number}", folders[step])
        if (step == "create" and (about.get("times") or fault == "silence half-way")) or (
            step in (*FILES, "request the size") and about.get("status") == 200
        ):
            continue  # one of all of them would meet it; a file is checked by its digest
        if step == "request the size" and "cut" in about:
            continue  # an answer without a body
        if step != "create":
            hub.fail(pattern.format(f"m{number}"), **about)
            chosen.append(number)
    with ThreadPoolExecutor(len(chosen)) as pool:
        outcomes = dict(zip(chosen, pool.map(tried, chosen), strict=True))
    for number, (sentence, seconds) in outcomes.items():
        step = list(STEPS)[number]
        expected = OTHERWISE.get((step, fault), words)
        assert (expected in sentence) if expected else (sentence == ""), (step, sentence)
        if sentence and expected != NONE:
            assert f"user/m{number}" in sentence or step == "search"
        assert seconds < 2 * SECONDS + 7.5, (step, seconds)  # of 30 s, with timeouts.SILENCE = 15
        if STEPS[step][1] == "push":
            commits = hub.repos[f"user/m{number}"].commits if f"user/m{number}" in hub.repos else {}
            assert {len(files) for files in commits.values()} <= {1, 4}  # nothing, or all of it
            if not sentence:
                assert len(commits) == 2


@pytest.mark.parametrize("fault", ["too often, an hour", "500", "silence"])
def test_a_repo_that_cannot_be_created_raises(fault: str, hub: Hub, folders: dict[str, Path]) -> None:
    about, words = FAULTS[fault]
    hub.fail("POST /api/repos/create", **about)
    sentence, seconds = said(lambda: push_folder(folders["create"], "user/new", token=WRITER))
    assert "user/new cannot be pushed" in sentence
    assert words in sentence
    assert seconds < 2 * SECONDS + 5


@pytest.mark.parametrize("fault", ["too often, an hour", "500", "silence", "silence half-way"])
def test_an_upload_that_fails_leaves_no_commit(fault: str, hub: Hub, folders: dict[str, Path]) -> None:
    about, words = FAULTS[fault]
    hub.fail("PUT /lfs/", **about)
    sentence, seconds = said(lambda: push_folder(folders["create"], "user/new", token=WRITER))
    assert words in sentence
    assert seconds < 2 * SECONDS + 5
    assert len(hub.repos["user/new"].commits) == 1
    hub.faults.clear()
    push_folder(folders["create"], "user/new", token=WRITER)
    assert len(hub.repos["user/new"].commits) == 2


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid", "nonsense"])
def test_a_hub_that_is_not_there_is_one_sentence(endpoint: str, folders: dict[str, Path], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom resnet_hub.cli import main\n"
        f"sys.exit(main(['info', 'user/tiny']) or main(['push', {str(folders['create'])!r}, 'user/tiny']))"
    )
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_TOKEN": WRITER}
    command = [sys.executable, "-c", program.replace(" or ", " and ")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    lines = run.stderr.strip().splitlines()
    assert run.returncode == 2
    assert len(lines) == 2, run.stderr
    assert all("user/tiny cannot be" in line for line in lines), lines


def test_a_push_whose_answer_is_lost_has_happened(hub: Hub, folders: dict[str, Path]) -> None:
    hub.fail("POST .*/commit/", lost=True, times=1)  # it is sent again, and refused as not the first
    url = push_folder(folders["commit"], "user/new", token=WRITER)
    repo = hub.repos["user/new"]
    assert url == f"{hub.url}/user/new/commit/{repo.refs['main']}"
    assert len(repo.commits) == 2
    hub.fail("POST .*/commit/", lost=True)
    ResNet.from_pretrained(folders["create"]).push_to_hub("user/new", token=WRITER)
    assert len(repo.commits) == 3
    hub.fail("GET /api/models/user/new", 503)  # and the Hub goes down after it
    hub.faults.reverse()
    hub.faults[0].times, hub.faults[-1].times = 0, 10**9
    sentence, _ = said(lambda: push_folder(folders["commit"], "user/new", token=WRITER))
    assert sentence == "" or "ry again" in sentence
    hub.faults.clear()
    before = len(repo.commits)
    push_folder(folders["commit"], "user/new", token=WRITER)  # again is safe
    push_folder(folders["commit"], "user/new", token=WRITER)
    assert len(repo.commits) == before


def test_the_slower_of_two_pushes_raises_and_may_push_again(hub: Hub, folders: dict[str, Path]) -> None:
    push_folder(folders["create"], "user/new", token=WRITER)
    other = folders["search"]
    hub.fail("POST .*/commit/", times=1, first=lambda: push_folder(other, "user/new", token=WRITER))
    sentence, _ = said(lambda: push_folder(folders["commit"], "user/new", token=WRITER))
    assert sentence.startswith("user/new was changed by someone else at the same time")
    repo = hub.repos["user/new"]
    assert repo.files()["model.safetensors"] == (other / "model.safetensors").read_bytes()
    push_folder(folders["commit"], "user/new", token=WRITER)
    assert repo.files()["model.safetensors"] == (folders["commit"] / "model.safetensors").read_bytes()


def test_a_renamed_repo_is_found_by_its_old_name(hub: Hub, folders: dict[str, Path]) -> None:
    put(hub, "user/new", folders["create"])
    hub.moved["user/old"] = "user/new"
    assert load_checkpoint("user/old").config == TINY
    hub.moved["user/new"] = "user/old"  # round and round
    sentence, seconds = said(lambda: load_checkpoint("user/old", cache_dir="elsewhere"))
    assert "user/old cannot be fetched" in sentence
    assert seconds < 2 * SECONDS


@pytest.mark.parametrize("what", ["load", "push"])
def test_an_expired_token_is_called_so(what: str, hub: Hub, folders: dict[str, Path]) -> None:
    put(hub, "user/tiny", folders["create"])
    header = {"X-Error-Message": 'User Access Token "laptop" is expired'}
    hub.fail(".", 401, headers=header)
    sentence, _ = said(lambda: attempt(what, "user/tiny", folders["create"]))
    assert 'does not accept the token (User Access Token "laptop" is expired). Log in' in sentence
