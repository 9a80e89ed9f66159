"""How the events of a training are printed."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_hub.training.events import Event


def is_main_process() -> bool:
    """Return whether this process prints and pushes; of several under `accelerate launch` it is the first."""
    return os.environ.get("RANK", "0") == "0"


def print_events(events: "Iterator[Event]") -> "Iterator[Event]":
    """Print one line per epoch, and a progress bar on a terminal. Yields the same events."""
    from tqdm import tqdm

    from resnet_hub.training.events import Preparing, Progress

    with tqdm(desc="checking the images", leave=False, disable=None if is_main_process() else True) as bar:
        for event in events:
            match event:
                case Preparing():
                    bar.total, bar.n = event.total, event.done
                    bar.set_description("checking the images" if event.what == "report" else event.what)
                case Progress():
                    bar.total, bar.n = event.steps, event.step
                    bar.set_description(f"epoch {event.epoch}")
                    left = tqdm.format_interval(event.seconds_left)
                    bar.set_postfix_str(f"loss {event.loss:.3f}, {event.images_per_second:.0f} images/s, {left} left")
            if is_main_process() and (line := _format_event(event)):
                tqdm.write(line)
            yield event


def print_events_as_json(events: "Iterator[Event]") -> "Iterator[Event]":
    """Print one JSON object per event. Yields the same events."""
    from resnet_hub.training.events import event_to_json

    for event in events:
        if is_main_process():
            print(event_to_json(event), flush=True)
        yield event


def _format_event(event: "Event") -> str:
    """Return the line for an event, or an empty string for one that only the progress bar shows."""
    from resnet_hub.training.events import Epoch, Finished, Pushed, Started, Stopped, TimeUp

    match event:
        case Started():
            line = f"{event.train_images:,} images of {len(event.labels)} classes, "
            line += f"{event.validation_images:,} to evaluate on ({event.split}); "
            line += f"{event.parameters:,} parameters on {event.device}"
            return line + (f", resumed from epoch {event.epoch}" if event.epoch else "")
        case Epoch():
            line = f"epoch {event.epoch:3}"
            line += "" if event.train_loss is None else f"  loss {event.train_loss:.4f}"
            if event.accuracy is not None:
                line += f"  validation loss {event.validation_loss:.4f}, accuracy {event.accuracy:.2%}"
                line += "  best so far" if event.best else ""
            return line
        case Finished():
            return f"accuracy {event.accuracy:.2%} after {event.seconds:.0f} s: {event.model}"
        case Stopped():
            return f"stopped in epoch {event.epoch + 1}; the run is saved, the same command resumes it"
        case TimeUp():
            return f"training ends in epoch {event.epoch + 1}; the best model so far is evaluated and saved"
        case Pushed():
            return event.url
    return ""
