"""How much memory is free: on the machine, in its container, and for this process."""

import re
from contextlib import suppress
from pathlib import Path

import psutil  # of the extra `train`

# Of the control groups of version 2, and of 1: limit, memory in use, and the prefix of the fields of `memory.stat`.
_CONTAINER_FILES = (
    ("memory.max", "memory.current", "memory.stat", ""),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_"),
)


def measure_free_memory(groups: Path = Path("/sys/fs/cgroup"), *, for_new_process: bool = False) -> int:
    """Returns the bytes of memory that this process may still use: free on the machine, in its container, allowed.

    Args:
        groups: The folder of the control groups, which limit a container on Linux.
        for_new_process: Whether it is for a process that this one starts, which has nothing of its allowance yet.
    """
    free = [int(psutil.virtual_memory().available)]
    for limit, used, fields, prefix in _CONTAINER_FILES:
        with suppress(OSError, ValueError):  # the other version, or no limit
            in_use = int((groups / used).read_text()) - _count_cached_bytes((groups / fields).read_text(), prefix)
            free.append(int((groups / limit).read_text()) - in_use)
    with suppress(ImportError, OSError):
        import resource

        allowed = resource.getrlimit(resource.RLIMIT_DATA)[0]
        data = re.search(r"^VmData:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if allowed != resource.RLIM_INFINITY and data:
            free.append(allowed - (0 if for_new_process else 1024 * int(data[1])))
    return max(0, min(free))


def _count_cached_bytes(fields: str, prefix: str) -> int:
    """Returns the bytes of files, of the memory in use, that the kernel drops when memory is needed."""
    return sum(map(int, re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", fields, re.MULTILINE)))
