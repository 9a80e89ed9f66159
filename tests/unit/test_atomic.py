"""Atomic replacement of files and folders, with kills at random moments and on systems that lack a system call."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_hub.atomic import replace_folder, write_atomic
from resnet_hub.paths import walk_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replace(folder: Path, text: str) -> None:
    with replace_folder(folder, keep=lambda name: name != "model") as new:
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


def test_entries_of_kept_folders_can_be_left_out(tmp_path: Path) -> None:
    for name in ("m/a/old", "m/a/own", "m/a/deep/old", "m/b/old"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "m/empty").mkdir()
    with replace_folder(tmp_path / "m", keep=lambda name: not name.endswith("/old")) as new:
        (new / "file").touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "m").rglob("*")) == [
        "m/a",
        "m/a/own",
        "m/empty",
        "m/file",
    ]


def test_a_new_folder_and_its_parents_are_created(tmp_path: Path) -> None:
    replace(tmp_path / "a" / "b", "new")
    assert (tmp_path / "a" / "b" / "model").read_text() == "new"
    assert names(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("call", ["present", "absent", "unsupported", "links unsupported"])
def test_kept_entries_of_the_old_folder_are_moved(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no hard links here")

    match call:
        case "absent":  # not Linux
            monkeypatch.setattr(sys, "platform", "other")
        case "unsupported":  # a file system that does not support the flags
            monkeypatch.setattr("resnet_hub.atomic.RENAME_EXCHANGE", 1 << 20)
        case "links unsupported":
            monkeypatch.setattr(os, "link", refuse)
    folder = tmp_path / "m"
    replace(folder, "old")
    folder.chmod(0o750)
    (folder / "notes.txt").write_text("mine")
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "a").write_bytes(b"blob")
    (folder / "link").symlink_to("nowhere")
    with (folder / "log").open("w") as log:  # a writer that keeps the file open
        replace(folder, "new")
        log.write("on")
    assert (folder / "model").read_text() == "new"
    assert names(folder) == [".git", "link", "log", "model", "notes.txt"]
    assert (folder / ".git" / "objects" / "a").read_bytes() == b"blob"
    assert (folder / "link").readlink() == Path("nowhere")
    assert folder.stat().st_mode & 0o777 == 0o750
    assert names(tmp_path) == ["m"]
    if call != "links unsupported":
        assert (folder / "log").read_text() == "on"


def test_new_entries_replace_old_ones(tmp_path: Path) -> None:
    replace(tmp_path / "m", "old")
    (tmp_path / "m" / "notes").write_text("old")
    with replace_folder(tmp_path / "m", keep=lambda name: True) as new:
        (new / "notes").write_text("new")
    assert (tmp_path / "m" / "notes").read_text() == "new"


def test_a_failure_while_filling_leaves_the_old_folder(tmp_path: Path) -> None:
    replace(tmp_path / "m", "old")

    def fail() -> None:
        with replace_folder(tmp_path / "m", keep=lambda name: True) as new:
            (new / "model").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "m" / "model").read_text() == "old"
    assert names(tmp_path) == ["m"]


def test_the_working_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "mine").write_text("mine")
    monkeypatch.chdir(tmp_path / "inner")
    for folder in (Path(), tmp_path):
        with pytest.raises(OSError, match="cannot be replaced; choose a folder in it"):
            replace(folder, "new")
    assert Path("mine").read_text() == "mine"
    replace(Path("model"), "new")


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
from resnet_hub.atomic import replace_folder, write_atomic
for number in itertools.count():
    with replace_folder(sys.argv[1], keep=lambda name: name not in ("a", "b")) as new:
        for name in ("a", "b"):
            (new / name).write_text(json.dumps([number] * 20_000))
    write_atomic(sys.argv[2], json.dumps([number] * 20_000))
    print(number, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the swap has a moment without the folder")
def test_a_kill_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
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
        assert first == second
        assert len(set(first)) == 1
        assert len(set(json.loads(file.read_text()))) == 1
        assert names(folder) == ["a", "b", "notes"]
    assert [name for name in names(tmp_path) if not name.endswith(".part")] == ["m", "state"]
    replace(folder, "new")
    assert [name for name in names(tmp_path) if not name.startswith(".state.")] == ["m", "state"]


def test_only_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    left = [".m.0a1b2c3d.part", ".m.00000000.part"]
    kept = [".m.notes.part", ".m.2.0a1b2c3d.part", ".n.0a1b2c3d.part", "m.0a1b2c3d.part", ".m.0a1b2c3d.old"]
    for name in (*left, *kept):
        (tmp_path / name / "model").mkdir(parents=True)
    (tmp_path / ".m.0000000f.part").write_text("a file")
    (tmp_path / ".m.0000000e.part").symlink_to(tmp_path / "m.0a1b2c3d.part")
    replace(tmp_path / "m", "new")
    kept += ["m", ".m.0000000e.part", ".m.0000000f.part"]
    assert names(tmp_path) == sorted(kept)
    assert (tmp_path / "m.0a1b2c3d.part" / "model").is_dir()


SAVER = """
import sys
from resnet_hub.atomic import replace_folder
with replace_folder(sys.argv[1], keep=lambda name: name != "model") as new:
    (new / "model").write_text("b")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_files_of_a_live_process_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    for first in ("new", "replaced"):
        with replace_folder(folder, keep=lambda name: True) as slow:
            (slow / "model").write_text(first)
            subprocess.run([sys.executable, "-c", SAVER, folder], check=True)
            assert (folder / "model").read_text() == "b"
            assert names(tmp_path) == [slow.name, "m"]
        assert (folder / "model").read_text() == first
        assert names(tmp_path) == ["m"]
