"""What the page deletes: old downloads of a Space, and that it goes on after an error."""

import os
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from helpers.data import save_base
from helpers.hub_server import WRITER, Hub
from huggingface_hub import constants, scan_cache_dir

from resnet_hub.demo import housekeeping
from resnet_hub.demo.housekeeping import sweep_downloads
from resnet_hub.demo.models import Models
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


def test_a_prepared_dataset_is_deleted_after_a_day(home: Path) -> None:
    for name, age in (("fresh", 0), ("stale", 2 * 24 * 3600)):
        file = home / "datasets" / name / "default" / "data.arrow"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"rows")
        for path in (file, file.parent):
            os.utime(path, times=(time.time() - age,) * 2)
    sweep_downloads()
    assert [path.name for path in (home / "datasets").iterdir()] == ["fresh"]


def test_housekeeping_continues_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "return_freed_memory", free := Mock(side_effect=[KeyError("anna"), None]))
    monkeypatch.setattr(housekeeping.time, "sleep", Mock(side_effect=[None, StopIteration]))
    with pytest.raises(StopIteration):
        housekeeping.clean_up(Mock(list_served_folders=set), tmp_path)
    assert free.call_count == 2
