"""The models of the page: suggestions from the Hub, and networks that are too large for it."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from helpers.data import damage_base, save_base, wait
from helpers.hub_server import WRITER, Hub, Repo
from helpers.page import Caller, as_local_user, serving
from huggingface_hub import constants

from resnet_hub.config import ResNetConfig
from resnet_hub.demo import models as module
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.models import DefaultModels, Models
from resnet_hub.errors import HubError, ResNetHubError
from resnet_hub.hub_client import timeouts
from resnet_hub.model import ResNet


def test_a_long_text_is_no_search_and_stops_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Mock(side_effect=lambda text: [text])
    monkeypatch.setattr(module, "_search_hub", hub)
    shelf = Models(tmp_path)
    assert [shelf.search(text) for text in ("x" * 97, "x", "resnet")] == [[], [], ["resnet"]]
    hub.assert_called_once_with("resnet")
    hub.side_effect = HubError("The Hub did not answer.")
    assert shelf.search("plain") is None and shelf.search("bert") is None and shelf.search("x") == []
    assert hub.call_count == 2  # after a failure, the Hub is left alone for a while


@pytest.mark.parametrize(
    "network",
    [
        {"depths": (1,), "width": 64, "stem": "3x3", "image_size": 1024},  # 137 million numbers at once
        {"depths": (40, 40), "width": 128, "stem": "3x3", "image_size": 256},  # a trillion multiplications
    ],
    ids=["memory", "work"],
)
def test_a_network_too_large_for_the_page_is_refused_by_its_config(network: dict[str, Any], tmp_path: Path) -> None:
    """The weights, which are not even there, are not looked for."""
    config = ResNetConfig(id2label={0: "cat", 1: "dog"}, **network)
    assert (config.peak_numbers > module._PEAK) != (config.multiply_adds > module._WORK)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "config.json").write_text(config.to_json())
    reason = r"^slow needs more time or memory per image than this page allows\. Choose a smaller model\.$"
    with pytest.raises(PageError, match=reason):
        Models(tmp_path).get("slow")
    usual = ResNetConfig.from_name("resnext101_64x4d")
    assert usual.peak_numbers < module._PEAK and usual.multiply_adds < module._WORK


@pytest.mark.parametrize("restriction", ["private", "gated"])
def test_a_model_that_only_the_local_user_may_read_is_not_given_to_others(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restriction: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    publish(hub, save_base(tmp_path / "mine"), "user/mine", "user/open")
    setattr(hub.repos["user/mine"], restriction, True)
    models = Models(tmp_path / "shelf")
    with as_local_user():
        mine = models.get("user/mine")
        assert models.find_loaded("user/mine") is mine and models.get("user/open")
    assert models.find_loaded("user/mine") is None
    for ask in (models.get, models.source):
        with pytest.raises(HubError, match="user/mine"):
            ask("user/mine")
    hub.requests.clear()
    assert models.get("user/open") is models.find_loaded("user/open")
    assert hub.requests == ["GET /api/models/user/open/auth-check"]  # is asked once
    hub.fail(".*", 503)
    monkeypatch.setattr(timeouts, "SILENCE", 0.5)
    with pytest.raises(HubError, match="server error"):  # the copy in the cache is of that user
        Models(tmp_path / "shelf").get("user/mine")


BETTER, BASE = "user/better", "user/base"


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESNET_HUB_MODEL", BETTER)
    monkeypatch.setenv("RESNET_HUB_BASE", BASE)
    monkeypatch.setenv("RESNET_HUB_ASK_SECONDS", "0.05")


@pytest.fixture
def defaults(tmp_path: Path) -> DefaultModels:
    save_base(tmp_path / "shelf" / "included")
    return DefaultModels(Models(tmp_path / "shelf"), "included")


@pytest.fixture
def watched(defaults: DefaultModels) -> Iterator[DefaultModels]:
    """The models, while a thread asks the Hub for them."""
    stopped = threading.Event()

    def sleep(seconds: float) -> None:
        if stopped.wait(seconds) and threading.current_thread().name == "watch":  # others sleep too
            raise SystemExit

    def watch() -> None:
        with suppress(SystemExit):
            defaults.watch(lambda: True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resnet_hub.demo.models.time.sleep", sleep)
        thread = threading.Thread(target=watch, name="watch")
        thread.start()
        yield defaults
        stopped.set()
        thread.join(60)


def publish(hub: Hub, folder: Path, *names: str) -> None:
    for name in names:
        hub.repos[name] = repo = Repo()
        repo.commit("main", {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}, "A model")


def test_a_picker_shows_the_titles_of_the_cards(tmp_path: Path) -> None:
    for name in ("plain", "titled"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "titled" / "README.md").write_text("---\nlicense: mit\n---\n\n# Ten kinds of birds\n\nFor the garden.")
    choices = Models(tmp_path).list_choices(None, "user/found", "plain")
    assert choices == [("user/found", "user/found"), ("plain", "plain"), ("Ten kinds of birds · titled", "titled")]


def test_it_serves_as_soon_as_the_hub_has_it(hub: Hub, watched: DefaultModels, tmp_path: Path) -> None:
    wait(lambda: sum("/api/models/" in request for request in hub.requests) > 3)  # it is asked again and again
    assert (watched.get("predict"), watched.get("base")) == ("included", "included")
    publish(hub, tmp_path / "shelf" / "included", BETTER)
    wait(lambda: watched.get("predict") == BETTER, 20)
    assert watched.get("base") == "included" and watched.models.names() == [BETTER, "included"]
    publish(hub, tmp_path / "shelf" / "included", BASE)
    wait(lambda: watched.get("base") == BASE, 20)
    hub.requests.clear()
    assert watched.models.get(BETTER).config.labels == ["a", "b"]
    assert hub.requests == []


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 500}, {"seconds": 0.3}, {"page": b"<html>"}])
def test_a_broken_hub_leaves_the_included_model(hub: Hub, watched: DefaultModels, fault: dict, tmp_path: Path) -> None:
    hub.fail("GET /api/models/.*", **({"status": 200} if "page" in fault else {}), **fault)
    publish(hub, tmp_path / "shelf" / "included", BETTER, BASE)
    if "seconds" not in fault:
        wait(lambda: len(hub.requests) > 1)
        assert watched.get("predict") == "included"
        hub.faults.clear()
    wait(lambda: watched.get("predict") == BETTER, 60)


def test_a_repo_that_is_no_resnet_never_serves(hub: Hub, watched: DefaultModels) -> None:
    hub.repos[BETTER] = repo = Repo()
    repo.commit("main", {"config.json": b'{"model_type": "bert"}', "model.safetensors": b""}, "Another model")
    wait(lambda: sum(f"/api/models/{BETTER}" in request for request in hub.requests) > 2)
    assert watched.get("predict") == "included" and watched.models.names() == ["included"]


def test_a_model_without_a_head_is_not_offered(hub: Hub, watched: DefaultModels, tmp_path: Path) -> None:
    model = ResNet.from_pretrained(tmp_path / "shelf" / "included")
    model.reset_head()
    publish(hub, model.save_pretrained(tmp_path / "headless"), BETTER)
    wait(lambda: sum(f"/{BETTER}/" in request for request in hub.requests) > 2, 20)
    wait(lambda: watched.models.names() == ["included"], 20)
    assert watched.get("predict") == "included"


def test_offline_no_request_reaches_the_hub(
    hub: Hub, defaults: DefaultModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, tmp_path / "shelf" / "included", BETTER, BASE)
    ResNet.from_pretrained(BETTER)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    defaults.watch(lambda: True)  # returns
    assert (defaults.get("predict"), defaults.get("base"), hub.requests) == (BETTER, "included", [])


def test_the_environment_names_a_folder_or_the_included_model(
    hub: Hub, defaults: DefaultModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNET_HUB_MODEL", str(save_base(tmp_path / "mine")))
    monkeypatch.setenv("RESNET_HUB_BASE", "")
    defaults.watch(lambda: True)
    assert (defaults.get("predict"), defaults.get("base"), hub.requests) == ("mine", "included", [])
    assert defaults.models.source("mine") == tmp_path / "mine"


def test_folders_of_one_name_have_names_of_their_own(
    defaults: DefaultModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, folder in (("RESNET_HUB_MODEL", "a/included"), ("RESNET_HUB_BASE", "b/included")):
        monkeypatch.setenv(variable, str(save_base(tmp_path / folder)))
    defaults.watch(lambda: True)
    names = {"included": "shelf/included", "included (2)": "a/included", "included (3)": "b/included"}
    assert (defaults.get("predict"), defaults.get("base")) == ("included (2)", "included (3)")
    assert {name: defaults.models.source(name) for name in names} == {
        name: tmp_path / folder for name, folder in names.items()
    }
    assert [defaults.models.command_name(name) for name in names] == ["included", "MODEL", "MODEL"]
    assert defaults.models.add(str(tmp_path / "a" / "included")) == "included (2)"
    assert defaults.models.add(str(tmp_path / "shelf" / "included")) == "included"


@pytest.mark.parametrize("damage", ["cut", "nan", "channels"])
def test_a_base_that_cannot_serve_is_not_offered(
    defaults: DefaultModels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    folder = damage_base(save_base(tmp_path / "mine"), damage)
    monkeypatch.setenv("RESNET_HUB_MODEL", "")
    monkeypatch.setenv("RESNET_HUB_BASE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # asks once
    caplog.set_level("INFO", "resnet_hub.demo.models")
    defaults.watch(lambda: True)
    assert defaults.get("base") == "included" and defaults.models.names() == ["included"]
    (message,) = caplog.messages
    assert str(folder) in message and message.endswith("RESNET_HUB_BASE names that model.")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("RESNET_HUB_MODEL", "./nowhere"), ("RESNET_HUB_BASE", "./nowhere"), ("RESNET_HUB_ASK_SECONDS", "soon")],
)
def test_a_wrong_setting_stops_the_page_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ResNetHubError, match=f"^{variable} is .*{value}"):
        DefaultModels(Models(tmp_path), "included")


def test_new_visitors_get_the_better_model_and_choices_stay(hub: Hub, tmp_path: Path) -> None:
    folder = save_base(tmp_path / "shelf" / "included")
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache"), "RESNET_HUB_ASK_SECONDS": "0.2"}
    with serving(tmp_path, **cache) as address:
        early = Caller(address)
        assert early.call("open", "included")[1]["value"] == "included"
        publish(hub, folder, BETTER, BASE)

        def get_default() -> str:
            return Caller(address).call("open", "included")[1]["value"]

        wait(lambda: get_default() == BETTER, 60)
        assert early.call("choose", "included")[1] == "included"
        wait(lambda: Caller(address).call("open_1", "included")[0]["value"] == BASE, 20)
