"""The trackers of a run, as packages that fail, ask for a login, or print."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from helpers.data import write_zip

from resnet_hub.errors import TrainingError
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.loop import train

NOT_LOGGED_IN = """
def init(**settings):
    raise RuntimeError("No API key configured. Use `wandb login` to log in.\\nFor more, see the manual.")
"""
PRINTING = """
import atexit
config, rows = {}, []
class Run:
    def log(self, values, step=None, **options):
        rows.append(values)
    def finish(self):
        print(f"* Run finished with {len(rows)} rows and seed {config['seed']}")
run = None
def init(**settings):
    global run
    run = Run()
    print("* Created new run")
    return run
def finish():
    global run
    run.finish()
    run = None
atexit.register(lambda: run and run.finish())
"""


def write_package(folder: Path, name: str, code: str) -> None:
    """Write an installed package: Accelerate looks at its metadata."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code)
    (folder / f"{name}-1.0.dist-info").mkdir()
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


def run_with(tracker: str, code: str, data: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    write_package(folder / "packages", tracker, code)
    words = ["train", "--data", data, "--run", "run", "--architecture", "resnet20", "--image-size", "16"]
    words += ["--epochs", "1", "--json", "--log-to", tracker]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder / "packages"), str(ROOT)])}
    command = [sys.executable, "-m", "resnet_hub", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (NOT_LOGGED_IN, "No API key configured. Use `wandb login` to log in"),
        ("import absent_module", "No module named 'absent_module'"),
    ],
)
def test_a_tracker_that_cannot_start_is_an_error_before_the_dataset_is_read(
    code: str, cause: str, tmp_path: Path
) -> None:
    done = run_with("wandb", code, "nowhere", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == f"error: wandb cannot start: {cause}. Fix that, or set log_to to none."
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_what_a_tracker_prints_is_not_among_the_events(tmp_path: Path) -> None:
    write_zip(tmp_path / "d.zip")
    done = run_with("trackio", PRINTING, "d.zip", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()][-1] == "Finished"
    printed = [line for line in done.stderr.splitlines() if line.startswith("*")]
    assert printed == ["* Created new run", "* Run finished with 2 rows and seed 0"]  # a step and an epoch


def test_a_tracker_that_fails_later_costs_the_run_nothing(tmp_path: Path) -> None:
    write_zip(tmp_path / "d.zip")
    failing = PRINTING.replace("rows.append(values)", 'raise RuntimeError("no network")').replace(
        "    run.finish()\n    run = None", '    run = None\n    raise RuntimeError("no network")'
    )
    done = run_with("trackio", failing, "d.zip", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "Finished"
    for action in ("log a step", "finish"):
        assert f"trackio cannot {action}: no network." in done.stderr.splitlines()


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_hub.training.tracking.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="log_to is wandb, which is not installed: pip install wandb"):
        list(train(TrainConfig(data="nowhere", run=str(tmp_path / "run"), log_to="wandb")))
