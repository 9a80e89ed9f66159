"""The lock of a run directory, held by real processes and found in real files."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import ROOT

from resnet_hub.errors import TrainingError
from resnet_hub.training import run_lock
from resnet_hub.training.run_lock import RunLock

HOLD = """
import sys, time
from pathlib import Path
from resnet_hub.training.run_lock import RunLock
with RunLock(Path(sys.argv[1])).hold():
    print("held", flush=True)
    sys.stdin.read()
"""


def write_lock(folder: Path, silent: float, **changes: Any) -> Path:
    """The lock of this process, with changes, whose last beat was `silent` seconds ago."""
    folder.mkdir(exist_ok=True)
    content = {
        **{"process": os.getpid(), "started": psutil.Process().create_time(), "host": socket.gethostname()},
        **{"system": run_lock._identify_system(), "token": "0"},
    }
    path = folder / "lock"
    path.write_text(json.dumps(content | changes))
    os.utime(path, (time.time() - silent,) * 2)
    return path


def find_unused_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_two_users_share_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that guards the take-over belongs to its user, and another one cannot open it."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with RunLock(tmp_path / "run").hold():
        pass
    for path in temporary.iterdir():  # now it cannot be opened, by any user
        path.unlink()
        path.mkdir()
    assert any(temporary.iterdir())
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with RunLock(tmp_path / "run").hold():
        pass


def test_another_process_is_named_and_its_death_frees_the_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        message = f"in use by process {process.pid} on host {socket.gethostname()},"
        with pytest.raises(TrainingError, match=message), RunLock(tmp_path / "run").hold():
            pass
        process.kill()
        time.sleep(0.2)  # a zombie now: nobody has waited for it
        with RunLock(tmp_path / "run").hold():
            assert json.loads((tmp_path / "run/lock").read_text())["process"] == os.getpid()
    assert not (tmp_path / "run/lock").exists()


@pytest.mark.parametrize(
    ("changes", "silent"),
    [
        ({}, 0),
        ({}, 5000),  # asleep or stopped
        ({"started": 1.0}, 5),  # the clock was set
        ({"host": "elsewhere"}, 0),
        ({"host": "elsewhere", "process": 1}, 570),
        ({"host": "elsewhere", "system": "another"}, -3000),
        ({"system": "another container"}, 30),
    ],
)
def test_a_living_holder_refuses_others(changes: dict[str, Any], silent: float, tmp_path: Path) -> None:
    path = write_lock(tmp_path, silent, **changes)
    before = path.read_text()
    name = f"process {changes.get('process', os.getpid())} on host {changes.get('host', socket.gethostname())}"
    with pytest.raises(TrainingError, match=name) as error, RunLock(tmp_path).hold():
        pass
    assert "--force-unlock" in str(error.value) and path.read_text() == before
    with RunLock(tmp_path).hold(force=True):
        assert path.read_text() != before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "silent"),
    [
        ({"process": find_unused_process()}, 0),
        ({"started": 1.0}, 90),  # the number belongs to another process now
        ({"host": "elsewhere"}, 630),
        ({"system": "before the restart"}, 90),
    ],
)
def test_a_dead_holder_is_replaced(changes: dict[str, Any], silent: float, tmp_path: Path) -> None:
    write_lock(tmp_path, silent, **changes)
    with RunLock(tmp_path).hold():
        assert json.loads((tmp_path / "lock").read_text())["token"] != "0"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", '{"process": 1}', "[]"])
def test_a_damaged_lock_holds_for_a_minute(content: str, tmp_path: Path) -> None:
    path = write_lock(tmp_path, 0)
    path.write_text(content)
    with pytest.raises(TrainingError, match="in use by another process"), RunLock(tmp_path).hold():
        pass
    os.utime(path, (time.time() - 61,) * 2)
    with RunLock(tmp_path).hold():
        pass


def test_of_many_processes_one_takes_over(tmp_path: Path) -> None:
    for _ in range(10):
        write_lock(tmp_path, 0, process=find_unused_process())
        start, end, results = threading.Barrier(8), threading.Barrier(8), []

        def hold(start: threading.Barrier = start, end: threading.Barrier = end, results: list[str] = results) -> None:
            start.wait()
            try:
                with RunLock(tmp_path).hold():
                    results.append("held")
                    end.wait()
            except TrainingError:
                results.append("refused")
                end.wait()

        threads = [threading.Thread(target=hold) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(results) == ["held"] + ["refused"] * 7


def test_a_holder_beats_and_notices_that_it_was_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_BEAT_SECONDS", 0.02)
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    with first.hold():
        os.utime(tmp_path / "lock", (0, 0))
        time.sleep(0.3)
        assert (tmp_path / "lock").stat().st_mtime > time.time() - 10
        first.check()
        with second.hold(force=True):
            second.check()
            with pytest.raises(TrainingError, match=f"was taken over by process {os.getpid()}"):
                first.check()
            first.check()  # said once
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("changes", [{"process": os.getppid()}, {"host": "elsewhere"}, {"system": "another"}])
def test_who_holds_the_lock_is_known(changes: dict[str, Any], tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    assert not lock.is_locked_here()
    with RunLock(tmp_path).hold():
        assert lock.is_locked_here()
    assert not lock.is_locked_here()
    write_lock(tmp_path, 0, **changes)
    assert not lock.is_locked_here()


def test_unfinished_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    parts = [".state.safetensors.0a1b2c3d.part", ".model.0a1b2c3d.part/config.json", "model/.README.md.00000000.part"]
    kept = ["state.safetensors", "model/README.md", "notes.part", "model/onnx/.mine"]
    for name in (*parts, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    write_lock(tmp_path, 0)
    with pytest.raises(TrainingError), RunLock(tmp_path).hold():
        pass
    assert all((tmp_path / name).exists() for name in parts)  # they may be another's
    with RunLock(tmp_path).hold(force=True):
        assert not any((tmp_path / name).exists() for name in parts)
        assert all((tmp_path / name).exists() for name in kept)


def test_the_first_process_of_a_launch_holds_the_lock_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunLock(tmp_path).hold():
        monkeypatch.setenv("RANK", "1")
        with RunLock(tmp_path).hold():
            pass
        assert (tmp_path / "lock").exists()
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(TrainingError, match="this process"), RunLock(tmp_path).hold():
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # threads and fork: the child ends at once
def test_a_fork_does_not_release_the_lock(tmp_path: Path) -> None:
    with RunLock(tmp_path).hold() as _:
        lock = RunLock(tmp_path)
        lock._path, lock._holder = tmp_path / "lock", run_lock._read(tmp_path / "lock")
        if not (child := os.fork()):
            lock._release()
            os._exit(0)
        os.waitpid(child, 0)
        assert (tmp_path / "lock").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="Cannot write the run"), RunLock(tmp_path / "file").hold():
        pass
    with RunLock(tmp_path / "new").hold():
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()  # nothing was written to it
