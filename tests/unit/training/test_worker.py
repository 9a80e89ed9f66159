"""The process that trains for the page: its events, its limits, and errors as events."""

import json
import os
import subprocess
import sys
from pathlib import Path

from helpers import ROOT
from helpers.data import save_base, write_zip

from resnet_hub.training.events import Event, Failed, Finished, Stopped, event_from_json


def run_worker(folder: Path, *arguments: str, **config: object) -> list[Event | None]:
    fields = json.dumps({"data": "colors.zip", "run": "run", "base": "tiny", "recipe": "head"} | config)
    command = [sys.executable, "-m", "resnet_hub.training.worker", fields, *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [event_from_json(line) for line in done.stdout.splitlines()]


def test_a_worker_does_its_phase_and_writes_events(tmp_path: Path) -> None:
    write_zip(tmp_path / "colors.zip")
    save_base(tmp_path / "tiny")
    *_, last = run_worker(tmp_path, "--phase=prepare", "--niceness=5", "--max-download=1000")
    assert isinstance(last, Stopped) and (tmp_path / "run" / "split.json").is_file()
    *_, last = run_worker(tmp_path)
    assert isinstance(last, Finished)
    (failed,) = run_worker(tmp_path, data="absent.zip", run="other")
    assert isinstance(failed, Failed) and "absent.zip" in failed.reason


def test_a_worker_without_enough_memory_fails_with_a_message(tmp_path: Path) -> None:
    write_zip(tmp_path / "colors.zip")
    save_base(tmp_path / "tiny")
    *_, last = run_worker(tmp_path, f"--max-memory={2**29}", image_size=1024)
    assert isinstance(last, Failed) and "memory" in last.reason
