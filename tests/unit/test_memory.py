"""Free memory: the least of what the machine has, the container's limit leaves, and the process is allowed."""

import re
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from resnet_hub.memory import measure_free_memory

STAT = "anon 90\nfile 300\ninactive_file 100\nactive_file 200\n"
STAT_1 = "inactive_file 1\nactive_file 2\ntotal_rss 90\ntotal_inactive_file 100\ntotal_active_file 200\n"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 10_000),
        ({"memory.max": "max\n", "memory.current": "400\n", "memory.stat": STAT}, 10_000),
        ({"memory.max": "500\n", "memory.current": "400\n", "memory.stat": STAT}, 400),
        ({"memory.max": "500\n", "memory.current": "600\n", "memory.stat": ""}, 0),
        ({"memory.max": "50000\n", "memory.current": "400\n", "memory.stat": STAT}, 10_000),
        (
            {
                "memory/memory.limit_in_bytes": "500\n",
                "memory/memory.usage_in_bytes": "410\n",
                "memory/memory.stat": STAT_1,
            },
            390,
        ),
    ],
)
def test_free_memory_is_that_of_the_machine_or_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], free: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert measure_free_memory(tmp_path) == free


def test_free_memory_is_what_this_process_is_allowed() -> None:
    resource = pytest.importorskip("resource")
    assert 2**20 < measure_free_memory() < 2**50
    old = resource.getrlimit(resource.RLIMIT_DATA)
    used = re.search(r"^VmData:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert used
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(used[1]) + 2**28, old[1]))
        assert 2**27 < measure_free_memory() <= 2**28
        new = measure_free_memory(for_new_process=True)  # may use all that is allowed, as far as the machine has it
        assert new == 1024 * int(used[1]) + 2**28 or new > 2**28
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, old)
