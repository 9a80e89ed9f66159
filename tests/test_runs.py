"""Runs of visitors with real workers: who finds them, whose turn it is, what a stop, a kill or a day leaves of them."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub.config import ResNetConfig
from resnet_hub.data import load
from resnet_hub.demo import runs as module
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.runs import PageRun, Runs, configure
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.model import ResNet

ROOT = Path(__file__).parents[1]


def picture(channel: int, number: int) -> bytes:
    noise = np.random.default_rng([channel, number]).integers(0, 100, (24, 24, 3), np.uint8)
    noise[..., channel] += 100
    content = BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()


def write_zip(path: Path, labels: tuple[str, ...] = ("red", "green", "blue"), count: int = 12) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for channel, label in enumerate(labels):
            for number in range(count):
                out.writestr(f"{label}/{number}.png", picture(channel, number))
    return path


def save_base(folder: Path) -> Path:
    torch.manual_seed(0)
    config = ResNetConfig(depths=(1, 1), width=8, stem="3x3", image_size=16, crop_pct=1.0, id2label={0: "a", 1: "b"})
    model = ResNet(config)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None  # the mean over all it sees, as a trained base has it
    model.train()(torch.randn(64, 3, 16, 16))
    model.eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("shelf") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zip(tmp_path_factory.mktemp("data") / "colours.zip")


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(tmp_path / "runs")
    yield runs
    runs.close()


def made(runs: Runs, data: Path) -> PageRun:
    run = runs.create()
    run.bring_zip(data, data.name)
    return run


def started(runs: Runs, data: Path, base: Path, owner: str, **choices: Any) -> PageRun:
    run = made(runs, data)
    runs.start(run, {owner}, configure(run, base, **{"recipe": "finetune", "epochs": 5000} | choices))
    return run


def wait(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "It did not happen."
        time.sleep(0.1)


def at_work(runs: Runs, run: PageRun) -> Callable[[], bool]:
    return lambda: runs.status(run).state == "running" and len(run.run.epochs()) > 1


def test_a_run_from_a_zip_to_a_model(runs: Runs, data: Path, base: Path) -> None:
    run = made(runs, data)
    assert runs.status(run).state == "new" and runs.model(run.id) is None
    report = run.report()
    assert report and report.images == 36
    runs.start(run, {"visitor"}, configure(run, base, recipe="head"))
    wait(lambda: runs.status(run).state == "finished")
    folder = runs.model(run.id)
    assert folder and ResNet.from_pretrained(folder).config.labels == ["blue", "green", "red"]
    evaluation = run.evaluation()
    called, held_out = run.held_out()
    assert evaluation and evaluation["num_images"] == len(held_out) and called == "20% held out"
    with zipfile.ZipFile(run.pack("colours")) as packed:
        assert {"colours/config.json", "colours/model.safetensors", "colours/README.md"} <= set(packed.namelist())
        for name in packed.namelist():  # what is shared must not lead to the run
            assert run.id.encode() not in packed.read(name) and str(runs.root).encode() not in packed.read(name)
    again = runs.copy(run)
    assert again.id != run.id and runs.status(again).state == "new"
    assert (again.folder / "colours.zip").read_bytes() == data.read_bytes()


def test_files_by_class_are_kept_as_a_data_set(runs: Runs, tmp_path: Path) -> None:
    files: dict[str, list[str | Path]] = {"a/b <i>": [], "../../evil": []}
    for channel, label in enumerate(files):
        for number in range(3):
            path = tmp_path / f"{channel}-{number}.png"
            path.write_bytes(picture(channel, number))
            files[label].append(path)
    run = runs.create()
    report = run.bring_files(files)
    assert set(report.labels) == set(files)
    assert {path.name for path in run.folder.iterdir()} == {"photos.zip", "page.json", "report.json"}
    assert {path.name for path in tmp_path.iterdir()} >= {"runs"} and not (tmp_path / "evil").exists()


def test_a_data_set_leaves_as_it_came(runs: Runs, data: Path) -> None:
    exported = made(runs, data).export()
    assert exported.name == "colours-data.zip"
    there, back = load(data)["train"], load(exported)["train"]
    assert back.labels == there.labels and [back.read(i) for i in range(36)] == [there.read(i) for i in range(36)]


@pytest.mark.parametrize("name", ["../../up.zip", ".zip", "a b\0c.zip", "照片.zip", "x" * 300 + ".zip", "-.zip"])
def test_any_name_of_a_zip_stays_in_the_folder(runs: Runs, data: Path, name: str) -> None:
    run = runs.create()
    run.bring_zip(data, name)
    (found,) = run.folder.glob("*.zip")
    assert found.parent == run.folder and run.facts()["data"] == found.name


def test_data_that_cannot_be_learnt_from_is_refused_in_a_sentence(
    runs: Runs, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no.zip").write_bytes(b"no ZIP")
    with pytest.raises(DataError, match="no ZIP"):
        runs.create().bring_zip(tmp_path / "no.zip", "no.zip")
    with pytest.raises(DataError, match="only class"):
        runs.create().bring_zip(write_zip(tmp_path / "one.zip", ("red",)), "one.zip")
    for name in ("/etc", "../..", "gpt2", "", "C:\\x"):
        with pytest.raises(DataError, match="data set on the Hub"):
            runs.create().bring_hub(name)
    monkeypatch.setattr(module, "MAX_IMAGES", 35)
    with pytest.raises(PageError, match="at most 35 pictures"):
        runs.create().bring_zip(data, "colours.zip")
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(PageError, match="more than this page takes"):
        runs.create().bring_zip(data, "colours.zip")
    with pytest.raises(TrainingError, match="image_size"):
        configure(made_unchecked(runs), None, architecture="resnet18", image_size=5)


def made_unchecked(runs: Runs) -> PageRun:
    run = runs.create()
    run.note(data="photos.zip", title="photos")
    return run


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "../x", "a" * 31, "a" * 33, "a" * 31 + "/", "a" * 32 + "\n", None, 7]
)
def test_what_is_no_id_finds_nothing(runs: Runs, name: object) -> None:
    (runs.root / "run.txt").touch()
    assert runs.find(name) is None and runs.model(name) is None


def test_ids_cannot_be_guessed(runs: Runs) -> None:
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
            Runs(tmp_path / name)


def test_a_fair_queue_of_one_run_a_visitor(runs: Runs, data: Path, base: Path) -> None:
    first = started(runs, data, base, "ann")
    second = started(runs, data, base, "bob", recipe="head", epochs=None)
    third = started(runs, data, base, "cat")
    wait(lambda: runs.status(first).state == "running")
    assert [runs.status(run)[:2] for run in (first, second, third)] == [("running", 0), ("queued", 1), ("queued", 2)]
    with pytest.raises(PageError, match="run under way"):
        started(runs, data, base, "bob")
    with pytest.raises(PageError, match="run under way"):
        started(runs, data, base, "ann")
    runs.stop(third)
    assert runs.status(third).state == "new"
    wait(at_work(runs, first))
    assert runs.model(first.id) is None  # nobody reads a model that is being written
    runs.stop(first)
    assert runs.status(first).state == "stopping"
    wait(lambda: runs.status(second).state == "finished")
    assert runs.status(first).state == "stopped" and runs.model(first.id)
    done = len(first.run.epochs())

    runs.start(first, {"ann"})  # goes on where it was
    wait(lambda: len(first.run.epochs()) > done + 1)
    process = runs._workers[first.id].process
    os.kill(process.pid, signal.SIGKILL)
    wait(lambda: runs.status(first).state == "interrupted", seconds=5)
    runs.start(first, {"ann"})
    runs.delete(first)
    assert runs.find(first.id) is None and not first.folder.exists()


def test_long_runs_take_turns(data: Path, base: Path, tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs", turn=0.5)
    long = started(runs, data, base, "ann")
    wait(at_work(runs, long))
    short = started(runs, data, base, "bob", recipe="head", epochs=None)
    wait(lambda: runs.status(short).state == "finished")
    wait(lambda: runs.status(long).state == "running")
    runs.close()


def test_runs_are_deleted_after_a_day(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    old, new = runs.create(), runs.create()
    day = time.time() - module.KEPT - 60
    os.utime(old.folder, (day, day))
    runs._delete_old()
    assert runs.find(old.id) is None and runs.find(new.id) == new
    runs.close()


def test_the_worker_ends_with_the_app_and_holds_no_token_of_a_space(data: Path, base: Path, tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
import test_runs
from resnet_hub.demo.runs import Runs
runs = Runs(sys.argv[1])
run = test_runs.started(runs, Path(sys.argv[2]), Path(sys.argv[3]), "ann")
test_runs.wait(test_runs.at_work(runs, run))
print(run.id, runs._workers[run.id].process.pid, flush=True)
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
        app.kill()
        app.wait()
    wait(lambda: not process.exists() or ") Z " in process.joinpath("stat").read_text(), seconds=10)

    runs = Runs(tmp_path / "runs")  # the app again, after the crash
    run = runs.find(name)
    assert run and runs.status(run).state == "interrupted"
    assert json.loads((run.folder / "page.json").read_text())["config"]["base"] == "weights/tiny"
    runs.close()
