"""Sends losses and metrics to TensorBoard, Trackio or Weights & Biases, through Accelerate's trackers."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from resnet_hub.errors import TrainingError, first_line
from resnet_hub.training import events
from resnet_hub.training.config import LogTo, ResolvedTrainConfig

_log = logging.getLogger(__name__)

_LOGGED = ("epoch", "loss", "learning_rate", "images_per_second", "train_loss", "validation_loss", "accuracy")
_PRIVATE = ("data", "run", "base")  # may be paths of this machine


def check_tracker(name: LogTo) -> None:
    """Raises `TrainingError` if the package of a tracker is not installed: Accelerate would only warn."""
    packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
    if name != "none" and not any(map(find_spec, packages)):
        raise TrainingError(f"log_to is {name}, which is not installed: pip install {name}.")


class Tracker:
    """The tracker that the settings of a run name; with "none" it does nothing.

    Only a run that starts fails with its tracker. Later, the run matters more than its log.
    """

    def __init__(self, accelerator: Any, name: LogTo, run: Path):
        self.accelerator, self.name, self.run = accelerator, name, run
        self.has_started = False

    def start(self) -> None:
        """Starts the tracker, unless it has started: here it asks for a login, or fails without one.

        Raises:
            TrainingError: It cannot start.
        """
        if self.name == "none" or self.has_started:
            return
        settings = {"wandb": {"name": self.run.name}} if self.name == "wandb" else {}
        try:
            with redirect_stdout(sys.stderr):
                self.accelerator.init_trackers("resnet_hub", init_kwargs=settings)
        except Exception as error:
            advice = "Fix that, or set log_to to none."
            raise TrainingError(f"{self.name} cannot start: {first_line(error)}. {advice}") from None
        self.has_started = True

    def describe_run(self, config: ResolvedTrainConfig) -> None:
        """Starts the tracker, unless it has started, and stores the settings of the run."""
        self.start()
        settings = {key: value for key, value in asdict(config).items() if key not in _PRIVATE and value is not None}
        with self._warn("store the settings"):
            for tracker in self.accelerator.trackers:
                tracker.store_init_configuration(settings)

    def log(self, event: events.Event, step: int) -> None:
        """Logs an event at a step of the run."""
        if self.name != "none" and isinstance(event, events.Progress | events.Epoch):
            numbers = {key: value for key, value in event._asdict().items() if key in _LOGGED and value is not None}
            with self._warn("log a step"):
                self.accelerator.log(numbers, step=step)

    def close(self) -> None:
        """Finishes the tracker if it has started."""
        trackers = [*self.accelerator.trackers] if self.has_started and self.accelerator.is_main_process else []
        self.accelerator.trackers.clear()
        with self._warn("finish"):
            for tracker in trackers:
                if self.name == "trackio":
                    import_module("trackio").finish()  # else Trackio finishes, and prints, again at exit
                else:
                    tracker.finish()

    @contextmanager
    def _warn(self, action: str) -> Iterator[None]:
        """Sends what the tracker prints to stderr, since the output may be JSON, and logs its error."""
        try:
            with redirect_stdout(sys.stderr):
                yield
        except Exception as error:
            _log.warning("%s cannot %s: %s.", self.name, action, first_line(error))
