"""Training on ZeroGPU, which lends a GPU to a visitor for a minute at a time and forks a process for each call.

A run is a chain of such calls; each resumes from the training state that the one before has saved. A worker on the CPU
decodes the images before the chain and evaluates the model after it. The chain is a generator of the visitor's event,
because the platform charges the GPU time to the account that sent the request. If it ends early, the run waits.

Predictions run on the CPU: they take milliseconds, less than the wait for a GPU, and cost no quota.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, cast

import gradio as gr

from resnet_hub.demo.runs.run import PageRun, Waiting
from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.space import is_zero_gpu
from resnet_hub.errors import ResNetHubError
from resnet_hub.training.events import Event, Failed, Stopped
from resnet_hub.training.run_dir import RunDir

CALL_SECONDS = 60  # seconds of GPU time that a call requests
TRAINING_SHARE = 0.8  # of which it trains; the rest is for the start, the saving and a long last step
MIN_SECONDS = 20  # seconds that are worth a request
_POLL_INTERVAL = 0.3  # seconds


def _gpu(duration: Callable[..., int]) -> Callable[[Any], Any]:
    """`spaces.GPU` on ZeroGPU. Elsewhere the function stays unchanged, and `spaces` need not be installed."""
    if not is_zero_gpu():
        return lambda function: function
    import spaces

    decorator: Callable[[Any], Any] = spaces.GPU(duration=duration)
    return decorator


@_gpu(duration=lambda folder, seconds: seconds)
def call(folder: str, seconds: int) -> Iterator[Event | None]:
    """Train a run on the GPU for a share of `seconds`, and stop. Yields None once it has the GPU, then events."""
    yield None
    import torch

    from resnet_hub.training.loop import train

    os.chdir(folder)  # the paths of a run are relative
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork: waiting for them would never end
    try:
        yield from train(RunDir("run").config, phase="train", time_limit=seconds * TRAINING_SHARE)
    except ResNetHubError as error:  # of other errors only the type leaves the process, not the message
        yield Failed(str(error))


def drive(scheduler: Scheduler, run: PageRun) -> Iterator[float]:
    """Train a run that was started, call by call; yields the seconds of GPU time that it has used.

    Events go to the run's log. Closing the generator stops the training, with its state saved.
    """
    with scheduler.supervise(run) as supervision, suppress(FileNotFoundError):  # the run was deleted meanwhile
        yield from _wait_for_worker(scheduler, run)
        seconds = CALL_SECONDS
        while (
            run.last_event_name() == "Stopped" and not supervision.should_stop and not run.read_facts().get("trained")
        ):
            used, started_at, last = run.read_facts().get("gpu_seconds", 0.0), 0.0, cast(Event | None, None)
            try:
                with closing(call(str(run.folder), seconds)) as events:
                    for event in events:
                        started_at = started_at or time.monotonic()
                        if event:
                            run.log_event(last := event)
                        yield used + time.monotonic() - started_at
            except gr.Error as refusal:
                # Only a refusal states the quota left: request that much.
                requested, left = _parse_quota(str(refusal.message))
                if not started_at and left < requested and seconds * left // requested >= MIN_SECONDS:
                    seconds = seconds * left // requested
                    continue
                run.log_event(Waiting(str(refusal.message), left if requested else None))
                return
            except GeneratorExit:
                run.log_event(Stopped(0, 0))
                raise
            finally:
                if started_at:
                    run.update_facts(gpu_seconds=round(used + time.monotonic() - started_at, 3))
            run.update_facts(trained=isinstance(last, Stopped) and last.trained)
        if run.read_facts().get("trained") and not supervision.should_stop:
            scheduler.queue_evaluation(run)
            yield from _wait_for_worker(scheduler, run)


def _wait_for_worker(scheduler: Scheduler, run: PageRun) -> Iterator[float]:
    while scheduler.is_scheduled(run):
        yield run.read_facts().get("gpu_seconds", 0.0)
        time.sleep(_POLL_INTERVAL)


def _parse_quota(message: str) -> tuple[int, int]:
    """Seconds requested and left of the visitor's quota, from the message of a refusal; 0 if it has none."""
    match = re.search(r"\((\d+)s requested vs\. (\d+)s left\)", message)
    return (int(match[1]), int(match[2])) if match else (0, 0)
