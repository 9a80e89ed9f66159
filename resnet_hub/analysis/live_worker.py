"""The process of the page's live experiments: `python -m resnet_hub.analysis.live_worker`, JSON lines in and out.

A process of low priority with one thread, so that a prediction never waits for it. It takes a line such as
`{"task": "race", "depth": 20}`, answers with lines of values and then with `{"done": true}`. The line
`{"task": "stop"}` ends the current task early. The process ends with its input, or after ten idle minutes.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Literal, TextIO

from resnet_hub.errors import ResNetHubError

NICENESS = 10
IDLE = 600.0  # seconds
MAX_SECONDS = 40.0  # of a task
_PAUSE = 0.4  # seconds between two lines of curves

Values = dict[str, Any]


def gradients(depth: int, *, normalization: Literal["none", "batch"] = "batch", seed: int = 0) -> Iterator[Values]:
    """The gradient along a line of a plain and of a residual network, and their autocorrelations beside noise.

    First from two draws of the weights, then from ten: 100 layers take half a minute on a slow processor.
    """
    from resnet_hub.analysis.gradients import gradient_autocorrelation, noise_autocorrelation

    for draws in (2, 10):
        sizes: dict[str, Any] = {"points": 192, "draws": draws, "seed": seed}
        series = {noise: noise_autocorrelation(noise, **sizes) for noise in ("white", "brown")}
        sizes["width"] = 96
        for kind in ("plain", "residual"):
            series[kind] = gradient_autocorrelation(kind, depth=depth, normalization=normalization, **sizes)
        lines = {
            name: {
                "positions": line.positions.tolist(),
                "series": line.series.tolist(),
                "lags": line.lags[:48].tolist(),
                "values": line.values[:48].tolist(),
            }
            for name, line in series.items()
        }
        yield {"lines": lines, "sizes": sizes}


def identity(blocks: int, *, target: Literal["identity", "near"] = "identity", seed: int = 0) -> Iterator[Values]:
    """The losses of a plain and of a residual stack that learn the identity, or a function near it."""
    from resnet_hub.analysis.races import learn_identity

    steps, losses = [], {"plain": list[float](), "residual": list[float]()}
    for state in _thin_out(learn_identity(blocks, target=target, steps=400, seed=seed)):
        steps.append(state.step)
        for name, curve in losses.items():
            curve.append(state.losses[name])
        yield {"steps": steps, "losses": losses}


def race(depth: int, *, seconds: float = 20.0, seed: int = 0) -> Iterator[Values]:
    """The losses and accuracies of a plain and of a residual network of one depth that train side by side."""
    from resnet_hub.analysis.races import race as run_race

    values: Values = {"steps": [], "seconds": 0.0, "losses": {"plain": [], "residual": []}}
    values |= {"evaluated": [], "accuracies": {"plain": [], "residual": []}}
    for state in run_race(depth, seconds=min(seconds, MAX_SECONDS), seed=seed, evaluate_every=10):
        values["steps"].append(state.step)
        values["seconds"] = state.seconds
        for name, loss in state.losses.items():
            values["losses"][name].append(loss)
        if state.accuracies:
            values["evaluated"].append(state.step)
            for name, accuracy in state.accuracies.items():
                values["accuracies"][name].append(accuracy)
        yield values


_TASKS: dict[str, Callable[..., Iterator[Values]]] = {"gradients": gradients, "identity": identity, "race": race}


def _thin_out(states: Iterator[Any]) -> Iterator[Any]:
    """The first ten states, and then every fourth."""
    for index, state in enumerate(states):
        if index < 10 or index % 4 == 3:
            yield state


def serve(lines: TextIO, output: TextIO, *, idle: float = IDLE) -> None:
    """Compute the tasks of `lines` until they end, or until none came for `idle` seconds."""
    tasks: queue.Queue[Values | None] = queue.Queue()
    stop = threading.Event()

    def read() -> None:
        for line in lines:
            task = json.loads(line)
            if task["task"] == "stop":
                stop.set()
            else:
                stop.clear()
                tasks.put(task)
        stop.set()
        tasks.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            task = tasks.get(timeout=idle)
        except queue.Empty:
            return
        if task is None:
            return
        try:
            for values in _pace(_TASKS[task.pop("task")](**task), stop):
                _write(output, values)
            _write(output, {"done": True})
        except ResNetHubError as error:
            _write(output, {"error": str(error)})


def _pace(states: Iterator[Values], stop: threading.Event) -> Iterator[Values]:
    """The first values at once, later ones with a pause, and the last; ends at a stop, or after `MAX_SECONDS`."""
    start, shown_at, last = time.monotonic(), 0.0, None
    for values in states:
        now, last = time.monotonic(), values
        if now - shown_at >= _PAUSE:
            shown_at, last = now, None
            yield values
        if stop.is_set() or now - start > MAX_SECONDS:
            return
    if last is not None:
        yield last


def _write(output: TextIO, values: Values) -> None:
    output.write(json.dumps(values) + "\n")
    output.flush()


def main() -> None:
    """Serve the standard input with a low priority."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the page, and with it the input
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    import torch  # after the priority: importing it takes seconds

    torch.set_num_threads(1)
    # Before the first task, which would wait for them; an optimizer imports torch._dynamo, which takes seconds.
    for name in ("resnet_hub.analysis.gradients", "resnet_hub.analysis.races", "torch._dynamo"):
        import_module(name)
    try:
        serve(sys.stdin, sys.stdout)
    except BrokenPipeError:  # the page has ended
        os._exit(0)  # else Python would try to write once more


if __name__ == "__main__":
    main()
