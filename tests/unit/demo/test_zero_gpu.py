"""Runs on ZeroGPU, with the real `spaces` package: forked processes, pickled events, and devices that say no."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT
from helpers.data import save_base, write_zip
from helpers.program import Program
from helpers.zero_server import STUBS, Devices
from safetensors.torch import load_file

from resnet_hub import TrainConfig, train

PROGRAM = """
import sys
from pathlib import Path
import torch
from gradio.context import LocalContext
from starlette.datastructures import Headers
from types import SimpleNamespace
from resnet_hub.demo import zero_gpu
from resnet_hub.demo.runs.run import configure
from resnet_hub.demo.runs.store import RunStore
from resnet_hub.demo.runs.scheduler import Scheduler
folder = Path(sys.argv[1])
torch.set_num_threads(2)
torch.randn(512, 512) @ torch.randn(512, 512)  # predictions before have started threads, which no fork takes along
# What the platform knows a visitor by; e30 is {}.
LocalContext.request.set(SimpleNamespace(headers=Headers({"x-ip-token": "a.e30.b", "x-gradio-user": "app"})))
runs = RunStore(folder / "runs")
scheduler = Scheduler(runs)
run = runs.create()
run.import_zip(folder / "colors.zip", "colors.zip")
config = configure(run, folder / "tiny", recipe="finetune", epochs=6, precision="fp32", checkpoint_seconds=0)
def start(config=None):
    scheduler.start(run, {"ann"}, config)
    return zero_gpu.drive(scheduler, run)
def show():
    event = scheduler.get_status(run).event or {}
    print(scheduler.get_status(run).state, run.folder, event.get("reason"), flush=True)
"""


@pytest.fixture
def devices() -> Iterator[Devices]:
    with Devices() as devices:
        yield devices


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    save_base(folder / "tiny")
    write_zip(folder / "colors.zip")
    return folder


def do(devices: Devices, folder: Path, program: str) -> list[list[str]]:
    """The lines that a program on ZeroGPU prints, as words."""
    env = os.environ | devices.env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    code = (
        STUBS + PROGRAM + program + "\nsys.stdout.flush(); scheduler.close(); zero_gpu.os._exit(0)"
    )  # waits for no fork
    output, errors = (folder / f"{name}-{len(list(folder.iterdir()))}" for name in ("output", "errors"))
    process = Program(code, str(folder), cwd=Path.cwd(), env=env, output=output, errors=errors)
    status = process.wait(400)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the processes of its calls
    out, err = output.read_text(), errors.read_text()
    assert status == 0, err[-3000:]
    assert "Traceback" not in err, err[-3000:]
    return [line.split() for line in out.splitlines() if not line.startswith("SPACES_ZERO_GPU_DEBUG")]


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "model" / "model.safetensors")


def test_a_run_whose_quota_ends_is_resumed_in_many_calls_to_the_weights_of_an_unbroken_one(
    devices: Devices, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.left = [35, 3]
    program = """
zero_gpu.TRAINING_SHARE = 1e-9  # one step a call
list(start(config))
show()
print(run.last_event_name(), scheduler.get_status(run).event["seconds_left"], len(run.run_dir.epochs()))
used = list(start())
assert used == sorted(used) and used[-1] > 0
show()
"""
    waiting, told, (state, run, *_) = do(devices, folder, program)
    assert waiting[0] == "waiting" and told == ["Waiting", "3", "0"]
    assert state == "finished"
    seconds = [call["durationSeconds"] for call in devices.asked]
    assert seconds[:3] == ["60", "35", "60"] and len(seconds) >= 7 and set(seconds[3:]) == {"60"}
    assert {call["token"] for call in devices.asked} == {"a.e30.b"}  # of the visitor, who pays with their time
    config = json.loads((Path(run) / "run" / "run.json").read_text()) | {"run": "unbroken"}
    monkeypatch.chdir(run)
    list(train(TrainConfig(**config)))
    broken, unbroken = weights(Path(run, "run")), weights(Path(run, "unbroken"))
    assert broken.keys() == unbroken.keys()
    assert all(value.equal(unbroken[key]) for key, value in broken.items())
    assert json.loads(Path(run, "run", "evaluation.json").read_text())["num_images"] == 6


def test_closing_the_tab_and_stop_keep_the_training_state(devices: Devices, folder: Path) -> None:
    program = """
from resnet_hub.training import events
from resnet_hub.demo.i18n import PageError
from dataclasses import replace
events.PROGRESS_SECONDS = 0.0
led = start(replace(config, epochs=5000))
while len(run.run_dir.epochs()) < 3:
    next(led)
try:
    scheduler.start(runs.create(), {"ann"}, config)
except PageError as error:
    print(error)
led.close()
show()
first = len(run.run_dir.epochs())
led = start()
while len(run.run_dir.epochs()) < first + 3:
    next(led)
scheduler.stop(run)
show()
list(led)
show()
print(first, len(run.run_dir.epochs()))
led = start()
while len(run.run_dir.epochs()) < first + 9:
    next(led)
scheduler.delete(run)
list(led)
print(run.folder.exists(), scheduler._owners)
"""
    lines = do(devices, folder, program)
    assert len(lines) == 6, lines
    one_run, closed, stopping, stopped, epochs, deleted = lines
    assert one_run[:3] == ["You", "have", "an"]
    assert (closed[0], stopping[0], stopped[0]) == ("stopped", "stopping", "stopped")
    assert int(epochs[1]) >= int(epochs[0]) + 3
    assert deleted == ["False", "{}"]
