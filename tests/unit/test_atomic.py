"""Atomic replacement of files, with kills at random moments."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_hub.atomic import replace_files, write_atomic
from resnet_hub.paths import walk_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replace(folder: Path, text: str) -> None:
    with replace_files(folder, ["deep/stale", "model"]) as new:
        (new / "model").write_text(text)


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"old")
    write_atomic(path, "neu: ü\n")
    assert path.read_bytes() == "neu: ü\n".encode()
    assert names(tmp_path) == ["state"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_failed_write_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["state"]


def test_a_new_folder_and_its_parents_are_created(tmp_path: Path) -> None:
    with replace_files(tmp_path / "a" / "b", ["model", "deep/er/file"]) as new:
        (new / "model").write_text("new")
        (new / "deep" / "er").mkdir(parents=True)
        (new / "deep" / "er" / "file").touch()
    assert (tmp_path / "a" / "b" / "model").read_text() == "new"
    assert names(tmp_path / "a" / "b") == ["deep", "model"] and names(tmp_path / "a" / "b" / "deep") == ["er"]


def test_files_are_replaced_or_removed_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    replace(folder, "old")
    folder.chmod(0o750)
    for name in ("notes.txt", ".git/objects/a", "deep/stale", "deep/mine"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    (folder / "link").symlink_to("nowhere")
    before = {path: path.lstat() for path in folder.rglob("*") if path.name not in ("model", "stale", "deep")}
    with (folder / "log").open("w") as log:  # a writer that keeps the file open
        replace(folder, "new")
        log.write("on")
    assert (folder / "model").read_text() == "new" and (folder / "log").read_text() == "on"
    assert names(folder) == [".git", "deep", "link", "log", "model", "notes.txt"]
    assert names(folder / "deep") == ["mine"]
    for path, status in before.items():  # not even copied
        assert (path.lstat().st_ino, path.lstat().st_mtime) == (status.st_ino, status.st_mtime)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert names(tmp_path) == ["m"]


def test_a_folder_that_becomes_empty_is_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    replace(tmp_path, "new")
    assert names(tmp_path) == ["deep", "model"]
    (tmp_path / "deep" / "stale").touch()
    replace(tmp_path, "new")
    assert names(tmp_path) == ["model"]
    (tmp_path / "deep").touch()  # a file of that name
    replace(tmp_path, "new")
    assert names(tmp_path) == ["deep", "model"]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_failure_while_writing_leaves_the_old_files(is_new: bool, tmp_path: Path) -> None:
    if not is_new:
        replace(tmp_path / "m", "old")

    def fail() -> None:
        with replace_files(tmp_path / "m", ["model"]) as new:
            (new / "model").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    if is_new:
        assert names(tmp_path) == []
    else:
        assert (tmp_path / "m" / "model").read_text() == "old"
        assert names(tmp_path / "m") == ["model"]


def test_files_of_the_working_directory_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("mine")
    monkeypatch.chdir(tmp_path)
    for text in ("old", "new"):
        replace(Path(), text)
        assert Path("model").read_text() == text
    assert names(Path()) == ["mine", "model"]


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts")
def test_files_of_a_mount_point_are_replaced(tmp_path: Path) -> None:
    """As a Docker volume is; its parent is another file system."""
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        replace(tmp_path, "new")
        assert (tmp_path / "model").read_text() == "new"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_linked_folders_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "owls").mkdir()
    (tmp_path / "owls" / "1.png").touch()
    (tmp_path / "data" / "owl").symlink_to(tmp_path / "owls")
    (tmp_path / "data" / "cat" / "again").symlink_to(tmp_path / "data")  # a loop
    visited = {Path(parent).name: names for parent, _, names in walk_files(tmp_path / "data")}
    assert visited == {"data": [], "cat": [], "owl": ["1.png"]}


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    replace(tmp_path / "true", "old")
    (tmp_path / "link").symlink_to("true")
    replace(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "true" / "model").read_text() == "new"


WRITER = """
import itertools, json, sys
from pathlib import Path
from resnet_hub.atomic import replace_files, write_atomic
for number in itertools.count():
    with replace_files(sys.argv[1], ["a", "b"]) as new:
        for name in ("a", "b"):
            (new / name).write_text(json.dumps([number] * 20_000))
    write_atomic(sys.argv[2], json.dumps([number] * 20_000))
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_kill_leaves_the_old_or_the_new_content_of_each_file(tmp_path: Path) -> None:
    folder, file = tmp_path / "m", tmp_path / "state"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    for kill in range(10):
        process = subprocess.Popen([sys.executable, "-c", WRITER, folder, file], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # it has started
        time.sleep(0.0037 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        first, second = (json.loads((folder / name).read_text()) for name in ("a", "b"))
        assert len(set(first)) == len(set(second)) == 1 and first[0] - second[0] in (0, 1)
        assert len(set(json.loads(file.read_text()))) == 1
        assert [name for name in names(folder) if not name.endswith(".part")] == ["a", "b", "notes"]
    replace(folder, "new")
    assert names(folder) == ["a", "b", "model", "notes"]


def test_only_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    left = [".files.0a1b2c3d.part", ".files.00000000.part"]
    kept = [".m.0a1b2c3d.part", "files.0a1b2c3d.part", ".files.notes.part"]
    for name in (*left, *kept):
        (tmp_path / name / "model").mkdir(parents=True)
    (tmp_path / ".files.0000000f.part").write_text("a file")
    (tmp_path / ".files.0000000e.part").symlink_to(tmp_path / "files.0a1b2c3d.part")
    replace(tmp_path, "new")
    assert names(tmp_path) == sorted([*kept, ".files.0000000e.part", ".files.0000000f.part", "model"])
    assert (tmp_path / "files.0a1b2c3d.part" / "model").is_dir()


SAVER = """
import sys
from resnet_hub.atomic import replace_files
with replace_files(sys.argv[1], ["model"]) as new:
    (new / "model").write_text("b")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_files_of_a_live_process_are_kept(tmp_path: Path) -> None:
    for first in ("new", "replaced"):
        with replace_files(tmp_path, ["model"]) as slow:
            (slow / "model").write_text(first)
            subprocess.run([sys.executable, "-c", SAVER, tmp_path], check=True)
            assert (tmp_path / "model").read_text() == "b"
            assert names(tmp_path) == [slow.name, "model"]
        assert (tmp_path / "model").read_text() == first
        assert names(tmp_path) == ["model"]
