"""The folders of all runs: ids, access, and served files."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.page import made

from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore, ServedFiles
from resnet_hub.errors import TrainingError


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "../x", "a" * 31, "a" * 33, "a" * 31 + "/", "a" * 32 + "\n", None, 7]
)
def test_an_invalid_id_finds_nothing(runs: RunStore, scheduler: Scheduler, name: object) -> None:
    (runs.root / "run.txt").touch()
    assert runs.find(name) is None and scheduler.find_model(name) is None


def test_ids_cannot_be_guessed(runs: RunStore) -> None:
    run = runs.create()
    assert runs.find(run.id) == run and len(run.id) == 32
    assert run.folder.stat().st_mode & 0o077 == 0
    assert runs.find("A" * 32) is None


def test_a_folder_that_others_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("open", "link"):
        with pytest.raises(TrainingError, match="RESNET_HUB_RUNS"):
            RunStore(tmp_path / name)


def test_a_folder_of_another_user_is_refused_and_one_that_others_read_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir(mode=0o755)
    RunStore(tmp_path / "runs")
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.getuid", lambda: -1)
    with pytest.raises(TrainingError, match="belongs to another user"):
        RunStore(tmp_path / "runs")


def test_served_files_of_a_run_are_deleted_with_it(data: Path, tmp_path: Path) -> None:
    runs = RunStore(tmp_path / "runs", ServedFiles(tmp_path / "served"))
    scheduler = Scheduler(runs)
    one, two = made(runs, data), made(runs, data)
    first, second = (runs.files.publish(run, run.export_dataset) for run in (one, two))
    assert first != second and first.read_bytes() == second.read_bytes()
    assert one.id not in str(first) and list(one.folder.rglob("*-data.zip")) == []
    with ThreadPoolExecutor() as tabs:  # again, in tabs of one run
        assert set(tabs.map(lambda _: runs.files.publish(one, one.export_dataset), range(4))) == {first}
    assert runs.list_served_folders() == {first.parent, second.parent}
    scheduler.delete(one)
    assert not first.parent.exists() and second.is_file() and runs.list_served_folders() == {second.parent}
    scheduler.close()
