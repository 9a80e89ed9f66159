"""Every file of `hostile.py`: accepted, or refused in one sentence; in seconds, in bounded memory, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile
import pytest

EVERY = [(kind, name) for kind, (cases, _) in hostile.KINDS.items() for name in cases]


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], dict]:
    """What became of each, opened in processes of their own."""
    program = Path(hostile.__file__)
    environment = os.environ | {"PYTHONPATH": str(program.parents[1]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 0, ended.stderr
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    return {(row["kind"], row["name"]): row for row in rows}


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize(("kind", "name"), EVERY, ids=[f"{kind}: {name}" for kind, name in EVERY])
def test_a_hostile_file_is_right_or_refused_in_one_sentence(kind: str, name: str, found: dict) -> None:
    row, expected = found[kind, name], hostile.KINDS[kind][0][name].expected
    said = row["said"]
    assert (expected in said) if expected else (said == ""), said
    assert "\n" not in said and "CRASH" not in said and "Traceback" not in said
    assert len(said) < 600 and (not said or said.endswith("."))
    assert row["megabytes"] < 1000
    assert row["seconds"] < 10  # of the processor, whatever else the machine does
    assert not Path("/tmp/resnet_hub_was_hacked").exists()


def test_about_a_hundred_files_are_tried() -> None:
    assert len(EVERY) >= 100
