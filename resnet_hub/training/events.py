"""What a training run tells, as events. Imports no torch."""

import json
from typing import Literal, NamedTuple, get_args


class Started(NamedTuple):
    """The run is set up; `epoch` of its epochs are done already where it is taken up again."""

    run: str
    labels: list[str]
    train_images: int
    validation_images: int
    split: str
    parameters: int
    epoch: int
    epochs: int
    device: str


class Preparing(NamedTuple):
    """Before the first step: each picture is looked at, they are decoded, then the base's features of them computed.

    The look comes before `Started`, since what it finds may be a reason not to start.
    """

    what: Literal["report", "pictures", "features"]
    done: int
    total: int


class Progress(NamedTuple):
    """About twice a second. `epoch` counts from 1; `loss` is the mean over the epoch so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


class Epoch(NamedTuple):
    """An epoch is over; a line of the history. Epoch 0 is the fitted head, before the body learns.

    The validation figures are None where it was not evaluated; `seconds` counts from the run's first step.
    """

    epoch: int
    train_loss: float | None  # None where nothing was trained
    validation_loss: float | None
    accuracy: float | None
    best: bool
    learning_rate: float
    seconds: float


class Sample(NamedTuple):
    """What the network makes of one held-out picture, the one at `place` of them."""

    place: int
    label: str
    predicted: str
    score: float


class Saved(NamedTuple):
    """The state on disk is that after `step` of `epoch`; a kill from now on loses only what follows."""

    epoch: int
    step: int


class Finished(NamedTuple):
    """The kept model, that of `epoch`, is the checkpoint folder `model`."""

    model: str
    epoch: int
    accuracy: float
    loss: float
    seconds: float


class Stopped(NamedTuple):
    """Stopped on request or out of time, with all that was reached; training the same run goes on from here."""

    epoch: int
    step: int
    trained: bool = False  # every epoch is done; what is left is to measure what came of it


class TimeUp(NamedTuple):
    """Its training ends here, out of time or asked to; what was reached is measured and kept, as at its end."""

    epoch: int
    step: int


class Failed(NamedTuple):
    """The run cannot go on, for this reason; its last good state and model stay."""

    reason: str


class Pushed(NamedTuple):
    """The model is on the Hub."""

    url: str


Event = Started | Preparing | Progress | Epoch | Saved | Finished | Stopped | TimeUp | Failed | Pushed


def event_to_json(event: NamedTuple) -> str:
    """An event as a line of JSON, for logs and for programs that watch."""
    return json.dumps({"event": type(event).__name__, **event._asdict()})


def event_from_json(line: str) -> Event | None:
    """What `told` wrote; None for any other line."""
    try:
        content = json.loads(line)
        return {kind.__name__: kind for kind in get_args(Event)}[content.pop("event")](**content)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
