"""Training on ZeroGPU, where a Space lends its visitors a GPU for a minute at a time and forks a process for each call.

A run is a chain of such calls, each of which trains from the saved state to the next. Its worker decodes the pictures
before them and measures the model after them, on the CPU. The chain is a generator that hangs on the visitor's event,
because the platform takes the time from the account of whoever asks; when it ends early, the run waits in its folder.

Predictions stay on the CPU: they take milliseconds there, less than it takes to be given a GPU, and cost no quota.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, cast

import gradio as gr

from resnet_hub.demo.page_run import PageRun, Waiting
from resnet_hub.demo.scheduler import Scheduler
from resnet_hub.demo.space import is_zero_gpu
from resnet_hub.errors import ResNetHubError
from resnet_hub.training.events import Event, Failed, Stopped
from resnet_hub.training.run_dir import RunDir

CALL = 60  # seconds of GPU time that a call asks for
SHARE = 0.8  # of them are trained in; the rest is for the start, the saving and a long last step
LEAST = 20  # seconds for which asking is worth while
_PAUSE = 0.3  # seconds between two looks at the worker


def _gpu(duration: Callable[..., int]) -> Callable[[Any], Any]:
    """`spaces.GPU`, which changes nothing elsewhere and need not be installed there."""
    if not is_zero_gpu():
        return lambda function: function
    import spaces

    return spaces.GPU(duration=duration)


@_gpu(duration=lambda folder, seconds: seconds)
def call(folder: str, seconds: int) -> Iterator[Event | None]:
    """Trains the run of a folder on the GPU that `seconds` were asked for, and stops in time; None: it has the GPU."""
    yield None
    import torch

    from resnet_hub.training.loop import train

    os.chdir(folder)  # a run knows its data by relative paths
    torch.set_num_threads(1)  # the threads of OpenMP do not outlive a fork: whoever waits for them waits forever
    try:
        yield from train(RunDir("run").config, phase="train", time_limit=seconds * SHARE)
    except ResNetHubError as error:  # only the kind of an error leaves the process, not what it says
        yield Failed(str(error))


def drive(scheduler: Scheduler, run: PageRun) -> Iterator[float]:
    """Takes a run that was started through its calls to the end; yields the seconds of GPU time it has used.

    What happens is told to the run's log. Closing the generator stops and keeps.
    """
    with scheduler.supervise(run) as supervision, suppress(FileNotFoundError):  # deleted meanwhile
        yield from _worker(scheduler, run)
        seconds = CALL
        while (
            run.last_event_name() == "Stopped" and not supervision.should_stop and not run.read_facts().get("trained")
        ):
            used, begun, last = run.read_facts().get("gpu_seconds", 0.0), 0.0, cast(Event | None, None)
            try:
                with closing(call(str(run.folder), seconds)) as events:
                    for event in events:
                        begun = begun or time.monotonic()
                        if event:
                            run.log_event(last := event)
                        yield used + time.monotonic() - begun
            except gr.Error as refusal:
                # The platform says how much is left only when it refuses: then that much is asked for.
                asked, left = _quota(str(refusal.message))
                if not begun and left < asked and seconds * left // asked >= LEAST:
                    seconds = seconds * left // asked
                    continue
                run.log_event(Waiting(str(refusal.message), left if asked else None))
                return
            except GeneratorExit:
                run.log_event(Stopped(0, 0))
                raise
            finally:
                if begun:
                    run.update_facts(gpu_seconds=round(used + time.monotonic() - begun, 3))
            run.update_facts(trained=isinstance(last, Stopped) and last.trained)
        if run.read_facts().get("trained") and not supervision.should_stop:
            scheduler.queue_evaluation(run)
            yield from _worker(scheduler, run)


def _worker(scheduler: Scheduler, run: PageRun) -> Iterator[float]:
    while scheduler.is_scheduled(run):
        yield run.read_facts().get("gpu_seconds", 0.0)
        time.sleep(_PAUSE)


def _quota(message: str) -> tuple[int, int]:
    """Seconds asked for and left of the visitor's quota, as a refusal tells them; 0 where it does not."""
    found = re.search(r"\((\d+)s requested vs\. (\d+)s left\)", message)
    return (int(found[1]), int(found[2])) if found else (0, 0)
