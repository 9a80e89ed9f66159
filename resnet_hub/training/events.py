"""The events of a training run. Imports no torch."""

import json
from typing import Literal, NamedTuple, get_args

PROGRESS_SECONDS = 0.5  # minimum time between two `Progress` events


class Started(NamedTuple):
    """The run is set up; a resumed run has completed `epoch` of its `epochs`."""

    run: str
    labels: list[str]
    train_images: int
    validation_images: int
    split: str
    parameters: int
    epoch: int
    epochs: int
    device: str
    base: str | None = None  # None: the weights were random
    base_note: str | None = None  # why the included base was chosen instead of the preferred one


class Preparing(NamedTuple):
    """Progress of the work before the first step: "report" checks all images, "images" decodes them.

    "features" computes what the head of a base is fitted to. "report" comes before `Started`, since it may find a
    reason not to start.
    """

    what: Literal["report", "images", "features"]
    done: int
    total: int


class Checked(NamedTuple):
    """The dataset of a new run was checked. `findings` are what the user should know, as `data report` states them."""

    images: int  # that can be read
    unreadable: int  # images that are left out
    findings: list[dict[str, str]]  # the fields of `resnet_hub.datasets.report.Finding`


class Progress(NamedTuple):
    """Progress within an epoch. `epoch` counts from 1; `loss` is the mean over the steps of the epoch so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


class OutOfMemory(NamedTuple):
    """A step did not fit into the GPU's memory; it is repeated, and the run goes on, with each batch in `parts`."""

    parts: int
    keeps_numbers: bool  # else BatchNorm's statistics are those of smaller parts


class Epoch(NamedTuple):
    """A completed epoch, as in the history. Epoch 0 is the base with its fitted head, before any training step.

    The validation metrics are None if the epoch was not evaluated; `seconds` counts from the run's first step.
    """

    epoch: int
    train_loss: float | None  # None for the fitted head
    validation_loss: float | None
    accuracy: float | None
    best: bool
    learning_rate: float
    seconds: float


class Sample(NamedTuple):
    """The prediction for the validation image at `image_index`."""

    image_index: int
    label: str
    predicted: str
    score: float


class Saved(NamedTuple):
    """The training state after `step` of `epoch` is on disk; if the process is killed, the run resumes there."""

    epoch: int
    step: int


class Finished(NamedTuple):
    """The best model, that of `epoch`, is in the checkpoint folder `model`. Its card states the same metrics."""

    model: str
    epoch: int
    accuracy: float  # on `split`, as is the loss
    loss: float
    seconds: float
    split: str = ""  # such as "test" or "20% held out"
    unreadable: int = 0  # images that were left out
    num_images: int = 0  # that the accuracy was measured on; 0 if it is not known


class Stopped(NamedTuple):
    """The run stopped on request, or at the time limit of phase "train"; it can be resumed."""

    epoch: int
    step: int
    trained: bool = False  # all epochs are done, only the final evaluation is left
    is_at_limit: bool = False  # it has done its `max_steps`


class TimeUp(NamedTuple):
    """The training ends early, at the time limit or on request; the best model so far is evaluated next."""

    epoch: int
    step: int


class Failed(NamedTuple):
    """The run cannot continue; its last training state and best model are kept."""

    reason: str


class Pushed(NamedTuple):
    """The model is on the Hub."""

    url: str


_During = Started | Preparing | Checked | Progress | OutOfMemory | Epoch | Saved
Event = _During | Finished | Stopped | TimeUp | Failed | Pushed


def event_to_json(event: NamedTuple) -> str:
    """Returns an event as one line of JSON."""
    return json.dumps({"event": type(event).__name__, **event._asdict()})


def event_from_json(line: str) -> Event | None:
    """Returns the event that `event_to_json` wrote as `line`; None for any other line."""
    try:
        content = json.loads(line)
        event: Event = {kind.__name__: kind for kind in get_args(Event)}[content.pop("event")](**content)
        return event
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
