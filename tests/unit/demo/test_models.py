"""What a Space keeps of the Hub's files on its disk."""

import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from helpers.data import save_base
from helpers.hub_server import WRITER, Hub
from huggingface_hub import constants, scan_cache_dir

from resnet_hub.config import ResNetConfig
from resnet_hub.demo import models as module
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.models import Models, sweep_downloads
from resnet_hub.model import ResNet


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_models_unused_for_longest_leave_the_disk_first(home: Path, tmp_path: Path, hub: Hub) -> None:
    sweep_downloads()  # nothing was downloaded yet
    model = ResNet.from_pretrained(save_base(tmp_path / "tiny"))
    models = Models(tmp_path / "shelf")
    now = time.time()
    for name, hours in {"old": 2, "older": 3, "new": 1}.items():
        model.push_to_hub(f"user/{name}", token=WRITER)
        models.get(f"user/{name}")
        for file in (home / "hub").glob(f"models--user--{name}/blobs/*"):
            os.utime(file, (now - 3600 * hours, now - 36_000))
    whole = scan_cache_dir(home / "hub").size_on_disk
    sweep_downloads(limit=whole)
    assert len(scan_cache_dir(home / "hub").repos) == 3
    sweep_downloads(limit=whole - 1)
    assert {repo.repo_id for repo in scan_cache_dir(home / "hub").repos} == {"user/old", "user/new"}
    sweep_downloads(limit=1)
    assert not scan_cache_dir(home / "hub").repos
    assert models.get("user/old")  # it is in memory


def test_a_prepared_data_set_goes_after_a_day(home: Path) -> None:
    for name, age in (("fresh", 0), ("stale", 2 * 24 * 3600)):
        file = home / "datasets" / name / "default" / "data.arrow"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"rows")
        for path in (file, file.parent):
            os.utime(path, times=(time.time() - age,) * 2)
    sweep_downloads()
    assert [path.name for path in (home / "datasets").iterdir()] == ["fresh"]


def test_a_long_text_is_no_search_and_stops_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Mock(side_effect=lambda text: [text])
    monkeypatch.setattr(module, "_search_hub", hub)
    shelf = Models(tmp_path)
    assert [shelf.search(text) for text in ("x" * 97, "x", "resnet")] == [[], [], ["resnet"]]
    hub.assert_called_once_with("resnet")


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
