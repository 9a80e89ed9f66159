"""Runs of visitors with real workers: who finds them, whose turn it is, what a stop, a kill or a day leaves of them."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import ROOT
from helpers.data import NAMED, encode_image, save_base, wait, write_tables, write_zip
from helpers.hub_server import Hub, Repo
from helpers.page import at_work, made, started

from resnet_hub.datasets.load import load_dataset
from resnet_hub.demo import page_run, run_store, worker_process
from resnet_hub.demo import scheduler as scheduler_module
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.page_run import PageRun, configure
from resnet_hub.demo.run_store import RunStore
from resnet_hub.demo.scheduler import Scheduler
from resnet_hub.demo.served_files import ServedFiles
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.model import ResNet


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("shelf") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zip(tmp_path_factory.mktemp("data") / "colours.zip")


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def scheduler(runs: RunStore) -> Iterator[Scheduler]:
    scheduler = Scheduler(runs)
    yield scheduler
    scheduler.close()


def test_a_run_from_a_zip_to_a_model(runs: RunStore, scheduler: Scheduler, data: Path, base: Path) -> None:
    run = made(runs, data)
    assert scheduler.get_status(run).state == "new" and scheduler.find_model(run.id) is None
    report = run.read_report()
    assert report and report.images == 36
    scheduler.start(run, {"visitor"}, configure(run, base, recipe="head"))
    wait(lambda: scheduler.get_status(run).state == "finished")
    folder = scheduler.find_model(run.id)
    assert folder and ResNet.from_pretrained(folder).config.labels == ["blue", "green", "red"]
    evaluation = run.read_evaluation()
    assert evaluation and evaluation["num_images"] == len(run.load_evaluation_images())
    assert run.run_dir.evaluation_split().name == "20% held out"
    with zipfile.ZipFile(run.pack_model("colours")) as packed:
        assert {"colours/config.json", "colours/model.safetensors", "colours/README.md"} <= set(packed.namelist())
        for name in packed.namelist():  # what is shared must not lead to the run
            assert run.id.encode() not in packed.read(name) and str(runs.root).encode() not in packed.read(name)
    again = runs.copy(run)
    assert again.id != run.id and scheduler.get_status(again).state == "new"
    assert (again.folder / "colours.zip").read_bytes() == data.read_bytes()


def test_files_by_class_are_kept_as_a_data_set(runs: RunStore, tmp_path: Path) -> None:
    files: dict[str, list[str | Path]] = {"a/b <i>": [], "../../evil": []}
    for channel, label in enumerate(files):
        for number in range(3):
            path = tmp_path / f"{channel}-{number}.png"
            path.write_bytes(encode_image(channel, number))
            files[label].append(path)
    run = runs.create()
    report = run.import_photos(files)
    assert set(report.labels) == set(files)
    assert {path.name for path in run.folder.rglob("*")} == {"photos.zip", "page.json", "run", "report.json"}
    assert {path.name for path in tmp_path.iterdir()} >= {"runs"} and not (tmp_path / "evil").exists()


def test_photos_by_class_are_trained_on_as_their_report_says(
    runs: RunStore, scheduler: Scheduler, base: Path, tmp_path: Path
) -> None:
    """Packed they have other names: what cannot be read stays out all the same, and copies on one side."""
    files: dict[str, list[str | Path]] = {"red": [], "green": []}
    for channel, (label, photos) in enumerate(files.items()):
        for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0):
            photos.append(tmp_path / f"{label}-{number}.png")
            Path(photos[-1]).write_bytes(encode_image(channel, number))
    Path(files["red"][3]).write_bytes(b"no picture")
    for copy in (7, 8, 9):
        Path(files["green"][copy]).write_bytes(Path(files["green"][1]).read_bytes())
    run = runs.create()
    report = run.import_photos(files)
    assert report.unreadable[0].name == "red/red-7.png" and run.read_report() == report
    assert len(run.load_readable_dataset()["train"]) == 21
    scheduler.start(run, {"visitor"}, configure(run, base, recipe="head"))
    wait(lambda: scheduler.get_status(run).state in ("finished", "failed"))
    assert scheduler.get_status(run).state == "finished", scheduler.get_status(run)
    split = run.run_dir.read_split()
    images = run.load_dataset()["train"]
    sides = [{images.read(place) for place in indices} for indices in (split.train, split.validation)]
    assert not sides[0] & sides[1] and b"no picture" not in sides[0] | sides[1]
    assert len(split.train) + len(split.validation) == 21


def test_a_data_set_leaves_as_it_came(runs: RunStore, data: Path) -> None:
    exported = made(runs, data).export_dataset()
    assert exported.name == "colours-data.zip"
    there, back = load_dataset(data)["train"], load_dataset(exported)["train"]
    assert back.labels == there.labels and [back.read(i) for i in range(36)] == [there.read(i) for i in range(36)]


def test_a_data_set_leaves_without_what_cannot_be_read(runs: RunStore, data: Path, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "colours.zip")
    with zipfile.ZipFile(path, "a") as out:
        out.writestr("red/broken.png", b"no picture")
    run = made(runs, path)
    assert run.read_report().unreadable and len(run.load_dataset()["train"]) == 37
    assert len(load_dataset(run.export_dataset())["train"]) == len(run.load_readable_dataset()["train"]) == 36


def test_a_data_set_that_grew_on_the_hub_is_not_downloaded(
    runs: RunStore, scheduler: Scheduler, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["datasets/user/colours"] = Repo()
    hub.repos["datasets/user/colours"].commit("main", {"train.parquet": bytes(2000)}, "Pictures")
    monkeypatch.setattr(worker_process, "MAX_BYTES", 1000)
    run = runs.create()
    run.update_facts(data="hf://datasets/user/colours", title="colours")
    scheduler.start(run, {"visitor"}, configure(run, None, architecture="resnet18", image_size=32))
    wait(lambda: scheduler.get_status(run).state == "failed")
    assert "at most 0 GB are downloaded" in scheduler.get_status(run).event["reason"]
    assert not any(request.endswith(".parquet") for request in hub.requests)


def test_what_a_visitor_names_of_a_data_set_is_read_wherever_it_is_read(
    runs: RunStore, scheduler: Scheduler, tables: Repo, base: Path, tmp_path: Path
) -> None:
    commit = tables.refs["main"]
    run = runs.create()
    reasons = {"subset": "Choose one of two, three", "image_column": "Choose one of photo, mask, kind, size"}
    for wrong, reason in reasons.items():
        with pytest.raises(DataError, match=reason):
            run.import_hub_dataset("user/tables", **NAMED | {wrong: "x"})
    report = run.import_hub_dataset("user/tables", **NAMED | {"subset": " three "})
    assert report.images == 35 and report.labels == ("red", "green", "blue")
    config = configure(run, base, recipe="head")
    assert {name: getattr(config, name) for name in NAMED} == NAMED and config.data_revision == commit
    tables.commit("main", write_tables(tmp_path / "later", 2), "Nearly nothing")
    assert len(run.load_dataset()["train"]) == 35
    again = runs.copy(run)
    assert configure(again, base, recipe="head") == config and len(again.load_dataset()["train"]) == 35
    scheduler.start(run, {"visitor"}, config)
    wait(lambda: scheduler.get_status(run).state in ("finished", "failed"))
    assert scheduler.get_status(run).state == "finished", scheduler.get_status(run)
    assert run.run_dir.config.data_revision == commit and len(run.load_validation_images()) == 6
    card = (run.run_dir.model / "README.md").read_text()
    assert (
        f"--subset three --train-split 'train[:-1]' --image-column photo --label-column kind --data-revision {commit}"
        in card
    )
    two = {"subset": "two", "image_column": "photo", "label_column": "kind"}
    assert runs.create().import_hub_dataset("user/tables", **two).images == 4


def test_so_much_stays_free_on_the_disk(runs: RunStore, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, new = made(runs, data), runs.create()
    free = page_run.FREE_BYTES + 1000  # of which each would take more
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    before = {path: path.stat().st_size for path in runs.root.rglob("*") if path.is_file()}
    new.run_dir.model.mkdir(parents=True)
    (new.run_dir.model / "config.json").write_bytes(bytes(1001))
    for write in (
        lambda: runs.copy(run),
        lambda: run.export_dataset(),
        lambda: new.pack_model("model"),
        lambda: new.import_zip(data, "colours.zip"),
        lambda: new.import_photos({"a": [data]}),
    ):
        with pytest.raises(PageError, match="not enough disk space"):
            write()
    (new.run_dir.model / "config.json").unlink()
    assert {path: path.stat().st_size for path in runs.root.rglob("*") if path.is_file()} == before
    runs.create()


def test_a_run_starts_from_the_base_that_was_chosen_last(runs: RunStore, data: Path, tmp_path: Path) -> None:
    run = made(runs, data)
    for name in ("one", "two"):
        base = save_base(tmp_path / name / "model")
        config = configure(run, base, recipe="head")
        assert config.base == "weights/model" and (run.folder / config.base).resolve() == base


@pytest.mark.parametrize("name", ["../../up.zip", ".zip", "a b\0c.zip", "照片.zip", "x" * 300 + ".zip", "-.zip"])
def test_any_name_of_a_zip_stays_in_the_folder(runs: RunStore, data: Path, name: str) -> None:
    run = runs.create()
    run.import_zip(data, name)
    (found,) = run.folder.glob("*.zip")
    assert found.parent == run.folder and run.read_facts()["data"] == found.name


def test_data_that_cannot_be_learnt_from_is_refused_in_a_sentence(
    runs: RunStore, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    (tmp_path / "no.zip").write_bytes(b"no ZIP")
    with pytest.raises(DataError, match="not a ZIP"):
        runs.create().import_zip(tmp_path / "no.zip", "no.zip")
    with pytest.raises(DataError, match="only class"):
        runs.create().import_zip(write_zip(tmp_path / "one.zip", ("red",)), "one.zip")
    for name in ("/etc", "../..", "gpt2", "", "C:\\x"):
        with pytest.raises(DataError, match="dataset on the Hub"):
            runs.create().import_hub_dataset(name)
    monkeypatch.setattr(page_run, "MAX_CHECK", 0.0)
    assert runs.create().import_zip(data, "colours.zip").images == 36  # nobody waits for a local user
    monkeypatch.setenv("SPACE_ID", "user/space")
    with pytest.raises(PageError, match=r"took more than 0 minutes .*fewer images, or smaller ones"):
        runs.create().import_zip(data, "colours.zip")
    monkeypatch.delenv("SPACE_ID")
    monkeypatch.setattr(page_run, "MAX_IMAGES", 35)
    with pytest.raises(PageError, match="at most 35 images"):
        runs.create().import_zip(data, "colours.zip")
    monkeypatch.setattr(page_run, "MAX_BYTES", 1000)
    with pytest.raises(PageError, match="too large for this page"):
        runs.create().import_zip(data, "colours.zip")
    hub.repos["datasets/user/colours"] = Repo()
    hub.repos["datasets/user/colours"].commit("main", {"train.parquet": bytes(2000)}, "Pictures")
    with pytest.raises(PageError, match=r"has 0\.0 GB; this page allows at most 0 GB\. Choose a smaller one"):
        runs.create().import_hub_dataset("user/colours")
    assert not any(request.endswith(".parquet") for request in hub.requests)
    with pytest.raises(TrainingError, match="image_size"):
        configure(made_unchecked(runs), None, architecture="resnet18", image_size=5)


def made_unchecked(runs: RunStore) -> PageRun:
    run = runs.create()
    run.update_facts(data="photos.zip", title="photos")
    return run


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "../x", "a" * 31, "a" * 33, "a" * 31 + "/", "a" * 32 + "\n", None, 7]
)
def test_what_is_no_id_finds_nothing(runs: RunStore, scheduler: Scheduler, name: object) -> None:
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


def test_a_fair_queue_of_one_run_a_visitor(runs: RunStore, scheduler: Scheduler, data: Path, base: Path) -> None:
    first = started(scheduler, data, base, "ann")
    second = started(scheduler, data, base, "bob", recipe="head", epochs=None)
    third = started(scheduler, data, base, "cat")
    wait(lambda: scheduler.get_status(first).state == "running")
    assert [scheduler.get_status(run)[:2] for run in (first, second, third)] == [
        ("running", 0),
        ("queued", 1),
        ("queued", 2),
    ]
    with pytest.raises(PageError, match="an active run"):
        started(scheduler, data, base, "bob")
    with pytest.raises(PageError, match="an active run"):
        started(scheduler, data, base, "ann")
    scheduler.stop(third)
    assert scheduler.get_status(third).state == "new"
    wait(at_work(scheduler, first))
    assert scheduler.find_model(first.id) is None  # nobody reads a model that is being written
    scheduler.stop(first)
    assert scheduler.get_status(first).state == "stopping"
    wait(lambda: scheduler.get_status(second).state == "finished")
    assert scheduler.get_status(first).state == "stopped" and scheduler.find_model(first.id)
    done = len(first.run_dir.epochs())

    scheduler.start(first, {"ann"})  # goes on where it was
    wait(lambda: len(first.run_dir.epochs()) > done + 1)
    process = scheduler._workers[first.id].process
    os.kill(process.pid, signal.SIGKILL)
    wait(lambda: scheduler.get_status(first).state == "interrupted", seconds=5)
    scheduler.start(first, {"ann"})
    scheduler.delete(first)
    assert runs.find(first.id) is None and not first.folder.exists()


def test_a_run_is_led_by_one_and_may_be_taken_over(runs: RunStore, scheduler: Scheduler, data: Path) -> None:
    run, other = made(runs, data), made(runs, data)
    with scheduler.supervise(run, {"ann"}) as first:
        assert scheduler.get_status(run).state == "running"
        for again in (run, other):
            with pytest.raises(PageError, match="an active run"), scheduler.supervise(again, {"ann"}):
                pass
        with scheduler.supervise(run, take_over=True) as second:
            assert (first.was_taken_over, second.was_taken_over) == (True, False)
        assert scheduler.get_status(run).state == "new"
    with scheduler.supervise(other, {"ann"}):
        pass


def test_a_run_that_cannot_be_started_holds_up_nobody(
    scheduler: Scheduler, data: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as short_of_processes:
        short_of_processes.setattr(worker_process.subprocess, "Popen", refuse)
        first = started(scheduler, data, base, "ann", recipe="head", epochs=None)
        wait(lambda: scheduler.get_status(first).state == "failed")
    event = scheduler.get_status(first).event
    assert event and event["reason"].startswith("The run could not be started (Resource temporarily unavailable)")
    scheduler.start(first, {"ann"})
    wait(lambda: scheduler.get_status(first).state == "finished")


def test_long_runs_take_turns(data: Path, base: Path, tmp_path: Path) -> None:
    scheduler = Scheduler(RunStore(tmp_path / "runs"), turn=0.5)
    long = started(scheduler, data, base, "ann")
    wait(at_work(scheduler, long))
    short = started(scheduler, data, base, "bob", recipe="head", epochs=None)
    wait(lambda: scheduler.get_status(short).state == "finished")
    wait(lambda: scheduler.get_status(long).state == "running")
    scheduler.close()


def test_what_is_served_of_a_run_goes_with_it(data: Path, tmp_path: Path) -> None:
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


def test_an_address_has_half_of_the_places(
    runs: RunStore, scheduler: Scheduler, data: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_store, "MAX_KEPT", 8)
    monkeypatch.setattr(scheduler_module, "MAX_WAITING", 4)
    scheduler.at_once = 0  # all of them wait
    kept = [runs.create("1.2.3.4") for _ in range(4)]
    with pytest.raises(PageError, match="has 4 runs here"):
        runs.create("1.2.3.4")
    kept[0].update_facts(data="photos.zip", title="photos")
    with pytest.raises(PageError, match="has 4 runs here"):
        runs.copy(kept[0])
    others = runs.create("5.6.7.8")
    scheduler.delete(kept.pop())
    for number, run in enumerate([*kept, others]):
        run.import_zip(data, data.name)
        config = configure(run, base, recipe="head")
        if number == 2:
            with pytest.raises(PageError, match="2 runs waiting"):
                scheduler.start(run, {"another"}, config)
        else:
            scheduler.start(run, {f"visitor {number}"}, config)
    assert runs.create("1.2.3.4")


def test_a_run_trains_for_so_many_minutes_and_is_measured_then(data: Path, base: Path, tmp_path: Path) -> None:
    scheduler = Scheduler(RunStore(tmp_path / "runs"), training_limit=1)
    run = started(scheduler, data, base, "ann")
    wait(lambda: scheduler.get_status(run).state in ("finished", "failed"))
    assert scheduler.get_status(run).state == "finished" and scheduler.find_model(run.id) and run.read_evaluation()
    assert run.read_facts()["time_up"] and run.run_dir.epochs()[-1].epoch < run.run_dir.config.epochs
    with pytest.raises(PageError, match=r"0\.0166667 minutes here"):
        scheduler.start(run, {"ann"})
    scheduler.close()


def test_a_run_that_will_not_end_is_ended(data: Path, base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(scheduler_module, "_EVALUATION_TIMEOUT", 0.0)
    scheduler = Scheduler(RunStore(tmp_path / "runs"))
    run = started(scheduler, data, base, "ann")
    wait(at_work(scheduler, run))
    scheduler.training_limit = 6
    wait(lambda: scheduler.get_status(run).state == "failed")
    assert "0.1 minutes here" in str(scheduler.get_status(run).event) and scheduler.find_model(run.id)
    scheduler.close()


def test_a_stopped_run_can_end_where_it_is_and_go_on_all_the_same(scheduler: Scheduler, data: Path, base: Path) -> None:
    run = started(scheduler, data, base, "ann")
    wait(at_work(scheduler, run))
    scheduler.stop(run)
    wait(lambda: scheduler.get_status(run).state == "stopped")
    assert scheduler.find_model(run.id) and run.read_evaluation() is None
    for work in (math.inf, 1.0):  # there is time to measure it where none is left to train
        scheduler.training_limit = work
        scheduler.start(run, {"ann"}, evaluate_only=True)
        wait(lambda: scheduler.get_status(run).state in ("finished", "failed"))
        assert scheduler.get_status(run).state == "finished" and not run.read_facts()["time_up"]
        kept = max(epoch.epoch for epoch in run.run_dir.epochs() if epoch.best)
        assert run.read_evaluation() and f"those of epoch {kept}." in (run.run_dir.model / "README.md").read_text()
    scheduler.training_limit, done = math.inf, len(run.run_dir.epochs())
    scheduler.start(run, {"ann"})
    wait(lambda: len(run.run_dir.epochs()) > done + 1)
    assert run.read_evaluation() is None


def test_a_local_user_trains_for_as_long_as_they_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "user/space")
    there = Scheduler(RunStore(tmp_path / "space"))
    monkeypatch.delenv("SPACE_ID")
    here = Scheduler(RunStore(tmp_path / "home"))
    assert there.training_limit == scheduler_module.MAX_WORK and here.training_limit == float("inf")
    there.close()
    here.close()


def test_runs_are_deleted_after_a_day(tmp_path: Path) -> None:
    scheduler = Scheduler(RunStore(tmp_path / "runs"))
    old, new = scheduler.runs.create(), scheduler.runs.create()
    day = time.time() - scheduler_module.KEPT - 60
    os.utime(old.folder, (day, day))
    scheduler._delete_old()
    assert scheduler.runs.find(old.id) is None and scheduler.runs.find(new.id) == new
    scheduler.close()


def test_who_still_writes_brings_no_deleted_run_back(tmp_path: Path) -> None:
    # A call on ZeroGPU is a process of its own, which saves until it is told that nobody listens any more.
    program = """
from pathlib import Path
from resnet_hub.atomic import replace_folder
while True:
    with replace_folder("run/model", keep=lambda name: False) as folder:
        for name in range(50):
            (folder / str(name)).write_bytes(b"weights")
"""
    scheduler = Scheduler(RunStore(tmp_path / "runs"))
    run = scheduler.runs.create()
    writer = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=run.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    wait(lambda: (run.folder / "run" / "model").is_dir())
    scheduler.delete(run)
    with suppress(subprocess.TimeoutExpired):
        writer.wait(1)
    writer.kill()
    writer.wait()
    assert not run.folder.exists()
    scheduler._delete_old()
    assert list(scheduler.runs.root.iterdir()) == []
    scheduler.close()


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    10 kB"}, 9 * 1024),
        ({"sys/fs/cgroup/memory.max": "max", "proc/meminfo": "MemAvailable: 10 kB"}, 9 * 1024),
        ({"sys/fs/cgroup/memory.max": "500", "sys/fs/cgroup/memory.stat": "anon 100\nfile 300"}, 360),
        ({"sys/fs/cgroup/memory.max": "500", "sys/fs/cgroup/memory.stat": "anon 600"}, 0),
        (
            {
                "proc/meminfo": "MemAvailable: 10 kB",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "500",
                "sys/fs/cgroup/memory/memory.stat": "cache 9\ntotal_rss 400",
            },
            90,
        ),
    ],
)
def test_the_memory_that_is_left(tmp_path: Path, files: dict[str, str], found: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert worker_process.measure_free_memory(tmp_path) == found


def test_the_worker_ends_with_the_app_and_holds_no_token_of_a_space(data: Path, base: Path, tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from helpers.page import at_work, started
from helpers.data import wait
from resnet_hub.demo.run_store import RunStore
from resnet_hub.demo.scheduler import Scheduler
scheduler = Scheduler(RunStore(sys.argv[1]))
run = started(scheduler, Path(sys.argv[2]), Path(sys.argv[3]), "ann")
wait(at_work(scheduler, run))
print(run.id, scheduler._workers[run.id].process.pid, flush=True)
time.sleep(600)
"""
    arguments = [str(tmp_path / "runs"), str(data), str(base), str(ROOT / "tests")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "SPACE_ID": "user/space", "HF_TOKEN": "hf_secret", "MY_TOKEN": "x"}
    app = subprocess.Popen([sys.executable, "-c", program, *arguments], env=env, stdout=subprocess.PIPE, text=True)
    assert app.stdout
    with app.stdout:
        name, worker = app.stdout.readline().split()
        process = Path("/proc", worker)
        assert b"TOKEN=" not in process.joinpath("environ").read_bytes().replace(b"IMPLICIT_TOKEN=1", b"")
        assert os.getpriority(os.PRIO_PROCESS, int(worker)) > os.getpriority(os.PRIO_PROCESS, app.pid)
        assert process.joinpath("oom_score_adj").read_text() == "1000\n"
        assert re.search(r"Max data size +\d+ +\d+ +bytes", process.joinpath("limits").read_text())
        app.kill()
        app.wait()
    wait(lambda: not process.exists() or ") Z " in process.joinpath("stat").read_text(), seconds=10)

    scheduler = Scheduler(RunStore(tmp_path / "runs"))  # the app again, after the crash
    run = scheduler.runs.find(name)
    assert run and scheduler.get_status(run).state == "interrupted"
    assert json.loads((run.folder / "page.json").read_text())["config"]["base"] == "weights/tiny"
    scheduler.close()
