"""Sends losses and metrics to TensorBoard, Trackio or Weights & Biases, through Accelerate's trackers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnet_hub.errors import TrainingError
from resnet_hub.training import events
from resnet_hub.training.config import LogTo, ResolvedTrainConfig

_LOGGED = ("epoch", "loss", "learning_rate", "images_per_second", "train_loss", "validation_loss", "accuracy")
_PRIVATE = ("data", "run", "base")  # may be paths of this machine


def check_tracker(name: LogTo) -> None:
    """Raises `TrainingError` if the package of a tracker is not installed: Accelerate would only warn."""
    packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
    if name != "none" and not any(map(find_spec, packages)):
        raise TrainingError(f"log_to is {name}, which is not installed: pip install {name}.")


@contextmanager
def start_tracker(
    accelerator: Any, config: ResolvedTrainConfig, run: Path
) -> Iterator[Callable[[events.Event, int], None]]:
    """Starts the tracker that `config` names, if any; gives a function that logs an event at a step of the run."""
    if config.log_to == "none":
        yield lambda event, step: None
        return
    settings = {key: value for key, value in asdict(config).items() if key not in _PRIVATE and value is not None}
    names = {"wandb": {"name": run.name}} if config.log_to == "wandb" else {}
    accelerator.init_trackers("resnet_hub", settings, names)

    def log(event: events.Event, step: int) -> None:
        if isinstance(event, events.Progress | events.Epoch):
            numbers = {key: value for key, value in event._asdict().items() if key in _LOGGED and value is not None}
            accelerator.log(numbers, step=step)

    try:
        yield log
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
