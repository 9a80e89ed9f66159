"""Runs with real workers: the queue, turns, limits, stops and kills, and what they leave behind."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from helpers.data import wait
from helpers.hub_server import WRITER, Hub, Repo
from helpers.page import as_local_user, at_work, made, started
from helpers.program import Program

from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.runs import scheduler as scheduler_module
from resnet_hub.demo.runs import store as store_module
from resnet_hub.demo.runs.run import configure
from resnet_hub.demo.runs.scheduler import Scheduler, WorkerProcess
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.model import ResNet


def test_a_run_from_a_zip_to_a_model_after_a_start_that_failed(
    runs: RunStore, scheduler: Scheduler, data: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made(runs, data)
    assert scheduler.get_status(run).state == "new" and scheduler.find_model(run.id) is None
    report = run.read_report()
    assert report and report.images == 36

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as short_of_processes:
        short_of_processes.setattr(scheduler_module.subprocess, "Popen", refuse)
        scheduler.start(run, {"visitor"}, configure(run, base, recipe="head"))
        wait(lambda: scheduler.get_status(run).state == "failed")
    event = scheduler.get_status(run).event
    assert event and event["reason"].startswith("The run could not be started (Resource temporarily unavailable)")
    scheduler.start(run, {"visitor"})  # the failed start does not block the queue
    wait(lambda: scheduler.get_status(run).state == "finished")
    folder = scheduler.find_model(run.id)
    assert folder and ResNet.from_pretrained(folder).config.labels == ["blue", "green", "red"]
    evaluation = run.read_evaluation()
    assert evaluation and evaluation["num_images"] == len(run.load_evaluation_images())
    assert run.run_dir.evaluation_split().name == "20% held out"
    with zipfile.ZipFile(run.pack_model("colors")) as packed:
        assert {"colors/config.json", "colors/model.safetensors", "colors/README.md"} <= set(packed.namelist())
        for name in packed.namelist():  # what is shared must not lead to the run
            assert run.id.encode() not in packed.read(name) and str(runs.root).encode() not in packed.read(name)
    again = runs.copy(run)
    assert again.id != run.id and scheduler.get_status(again).state == "new"
    assert (again.folder / "colors.zip").read_bytes() == data.read_bytes()


def test_only_a_run_of_the_local_user_has_their_token(
    runs: RunStore, scheduler: Scheduler, data: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(scheduler, "_start_worker", lambda run: None)
    environments: list[dict[str, str]] = []
    monkeypatch.setattr(scheduler_module.subprocess, "Popen", lambda *_, env, **__: environments.append(env))
    run = made(runs, data)
    for sender in (nullcontext, as_local_user, nullcontext):  # who resumes a run decides, too
        with sender():
            scheduler.start(run, {"visitor"}, configure(run, base, recipe="head"))
        scheduler.stop(run)
        WorkerProcess(run, math.inf)
    has_token = ["HF_TOKEN" in env and "HF_HUB_DISABLE_IMPLICIT_TOKEN" not in env for env in environments]
    assert has_token == [False, True, False]


def test_a_dataset_that_grew_on_the_hub_is_not_downloaded(
    runs: RunStore, scheduler: Scheduler, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["datasets/user/colors"] = Repo()
    hub.repos["datasets/user/colors"].commit("main", {"train.parquet": bytes(2000)}, "Pictures")
    monkeypatch.setattr(scheduler_module, "MAX_DATASET_BYTES", 1000)
    run = runs.create()
    run.update_facts(data="hf://datasets/user/colors", title="colors")
    scheduler.start(run, {"visitor"}, configure(run, None, architecture="resnet18", image_size=32))
    wait(lambda: scheduler.get_status(run).state == "failed")
    assert "at most 1 kB are downloaded" in scheduler.get_status(run).event["reason"]
    assert not any(request.endswith(".parquet") for request in hub.requests)


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


def test_a_run_has_one_controlling_tab_and_can_be_taken_over(runs: RunStore, scheduler: Scheduler, data: Path) -> None:
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


def test_a_long_run_goes_back_to_the_queue(data: Path, base: Path, tmp_path: Path) -> None:
    scheduler = Scheduler(RunStore(tmp_path / "runs"), time_slice=0.5)
    long = started(scheduler, data, base, "ann")
    wait(at_work(scheduler, long))
    short = started(scheduler, data, base, "bob", recipe="head", epochs=None)
    wait(lambda: scheduler.get_status(short).state == "finished")
    wait(lambda: scheduler.get_status(long).state == "running")
    scheduler.close()


def test_an_address_has_half_of_the_queue(
    runs: RunStore, scheduler: Scheduler, data: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_RUNS", 8)
    monkeypatch.setattr(scheduler_module, "MAX_WAITING_RUNS", 4)
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


def test_a_run_at_its_time_limit_is_evaluated(data: Path, base: Path, tmp_path: Path) -> None:
    scheduler = Scheduler(RunStore(tmp_path / "runs"), training_limit=1)
    run = started(scheduler, data, base, "ann")
    wait(lambda: scheduler.get_status(run).state in ("finished", "failed"))
    assert scheduler.get_status(run).state == "finished" and scheduler.find_model(run.id) and run.read_evaluation()
    assert run.read_facts()["time_up"] and run.run_dir.epochs()[-1].epoch < run.run_dir.config.epochs
    with pytest.raises(PageError, match=r"0\.0166667 minutes here"):
        scheduler.start(run, {"ann"})
    scheduler.close()


def test_a_run_that_does_not_stop_is_killed(data: Path, base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(scheduler_module, "_EVALUATION_TIMEOUT", 0.0)
    scheduler = Scheduler(RunStore(tmp_path / "runs"))
    run = started(scheduler, data, base, "ann")
    wait(at_work(scheduler, run))
    scheduler.training_limit = 6
    wait(lambda: scheduler.get_status(run).state == "failed")
    assert "0.1 minutes here" in str(scheduler.get_status(run).event) and scheduler.find_model(run.id)
    scheduler.close()


def test_a_stopped_run_can_be_finished_or_resumed(scheduler: Scheduler, data: Path, base: Path) -> None:
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
    assert there.training_limit == scheduler_module.MAX_TRAINING_SECONDS and here.training_limit == float("inf")
    there.close()
    here.close()


def test_runs_are_deleted_after_a_day(tmp_path: Path) -> None:
    scheduler = Scheduler(RunStore(tmp_path / "runs"))
    old, new = scheduler.runs.create(), scheduler.runs.create()
    day = time.time() - scheduler_module.RUN_LIFETIME - 60
    os.utime(old.folder, (day, day))
    scheduler._delete_old()
    assert scheduler.runs.find(old.id) is None and scheduler.runs.find(new.id) == new
    scheduler.close()


def test_a_late_write_does_not_restore_a_deleted_run(tmp_path: Path) -> None:
    # A call on ZeroGPU is a process of its own, which saves until it is told that nobody listens any more.
    program = """
from pathlib import Path
from resnet_hub.atomic import replace_files
names = [str(number) for number in range(50)]
while True:
    with replace_files("run/model", names) as folder:
        for name in names:
            (folder / name).write_bytes(b"weights")
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


def test_a_worker_may_use_nine_tenths_of_the_free_memory(
    runs: RunStore, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(scheduler_module.subprocess, "Popen", lambda command, **_: commands.append(command))
    monkeypatch.setattr(scheduler_module, "measure_free_memory", lambda for_new_process: 1000 * for_new_process)
    WorkerProcess(made(runs, data), math.inf)
    assert "--max-memory=900" in commands[0]


def test_the_worker_ends_with_the_app_and_holds_no_token_of_a_space(data: Path, base: Path, tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from helpers.page import at_work, started
from helpers.data import wait
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.demo.runs.scheduler import Scheduler
scheduler = Scheduler(RunStore(sys.argv[1]))
run = started(scheduler, Path(sys.argv[2]), Path(sys.argv[3]), "ann")
wait(at_work(scheduler, run))
print(run.id, scheduler._workers[run.id].process.pid, flush=True)
time.sleep(600)
"""
    arguments = [str(tmp_path / "runs"), str(data), str(base), str(ROOT / "tests")]
    env = os.environ | {"PYTHONPATH": str(ROOT), "SPACE_ID": "user/space", "HF_TOKEN": "hf_secret", "MY_TOKEN": "x"}
    output, errors = tmp_path / "output", tmp_path / "errors"
    output.touch()
    app = Program(program, *arguments, cwd=tmp_path, env=env, output=output, errors=errors)
    try:
        wait(lambda: output.read_text().endswith("\n") or app.poll() is not None)
        assert app.poll() is None, errors.read_text()
        name, worker = output.read_text().split()
        process = Path("/proc", worker)
        assert b"TOKEN=" not in process.joinpath("environ").read_bytes().replace(b"IMPLICIT_TOKEN=1", b"")
        assert b"--niceness=10" in process.joinpath("cmdline").read_bytes()
        assert os.getpriority(os.PRIO_PROCESS, int(worker)) == min(os.getpriority(os.PRIO_PROCESS, app.pid) + 10, 19)
        assert process.joinpath("oom_score_adj").read_text() == "1000\n"
        assert re.search(r"Max data size +\d+ +\d+ +bytes", process.joinpath("limits").read_text())
    finally:
        app.kill()
        app.wait()
    wait(lambda: not process.exists() or ") Z " in process.joinpath("stat").read_text(), seconds=10)

    scheduler = Scheduler(RunStore(tmp_path / "runs"))  # the app again, after the crash
    run = scheduler.runs.find(name)
    assert run and scheduler.get_status(run).state == "interrupted"
    assert json.loads((run.folder / "page.json").read_text())["config"]["base"] == "weights/tiny"
    scheduler.close()
