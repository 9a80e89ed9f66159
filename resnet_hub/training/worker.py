"""A process that trains one run for the page: `python -m resnet_hub.training.worker CONFIG` prints events as JSON.

It has a low priority, is the first process that the kernel ends when memory runs out, and ends with its parent.
"""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import get_args

from resnet_hub.errors import ResNetHubError, memory_is_full
from resnet_hub.training.config import Phase, TrainConfig
from resnet_hub.training.events import Event, Failed, event_to_json

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _create_parser().parse_args(argv)
    _lower_priority(arguments.niceness)
    from resnet_hub.training.loop import train  # after the priority: importing torch takes seconds

    try:
        if arguments.max_memory is not None:
            _limit_memory(arguments.max_memory)
        events = train(
            TrainConfig(**json.loads(arguments.config)),
            phase=arguments.phase,
            time_limit=arguments.time_limit,
            max_download=arguments.max_download,
        )
        for event in events:
            _write(event)
    except ResNetHubError as error:
        _write(Failed(str(error)))
    except Exception as error:  # memory can end in any place, an import or a thread's start too
        if not memory_is_full(error):
            raise
        _write(Failed("The training does not fit into memory; start again with a smaller image size."))


def _write(event: Event) -> None:
    sys.stdout.write(event_to_json(event) + "\n")
    sys.stdout.flush()


def _create_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m resnet_hub.training.worker", description=__doc__)
    parser.add_argument("config", help="the fields of TrainConfig as a JSON object")
    parser.add_argument("--phase", choices=get_args(Phase), default="all")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS")
    parser.add_argument("--max-memory", type=int, metavar="BYTES", help="of data in memory, on Linux without a GPU")
    parser.add_argument("--max-download", type=int, metavar="BYTES", help="of a dataset on the Hub")
    parser.add_argument("--niceness", type=int, default=0, help="added to that of the parent")
    return parser


def _lower_priority(niceness: int) -> None:
    if hasattr(os, "nice"):
        os.nice(niceness)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
            score.write("1000")  # when memory runs out, the kernel ends this process and not the page


def _limit_memory(size: int) -> None:
    import torch

    # Only Linux counts all of a process's data for this limit. CUDA reserves far more addresses than it uses.
    if sys.platform != "linux" or torch.cuda.is_available():
        return
    import resource

    with contextlib.suppress(OSError, ValueError):  # a lower limit is already set
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


if __name__ == "__main__":
    main()
