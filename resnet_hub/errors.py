"""The errors that a user meets: each message is one sentence with what, where and what to do."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class ResNetHubError(Exception):
    """Base of every error that this package raises on purpose; safe to show to a user as it is."""


class ConfigError(ResNetHubError):
    """A configuration that describes no network, or a `config.json` that cannot be read."""


class CheckpointError(ResNetHubError):
    """A checkpoint folder or repo that is incomplete, or whose parts disagree."""


class HubError(ResNetHubError):
    """The Hugging Face Hub refused, or could not be reached."""


class ImageError(ResNetHubError):
    """An image that cannot be read: damaged, of an unsupported format, or too large."""


class DataError(ResNetHubError):
    """A dataset that cannot be used for training or evaluation."""


class TooLargeError(DataError):
    """A dataset on the Hub that is larger than the download limit."""

    def __init__(self, name: str, size: int, most: int):
        self.size = f"{size / 2**30:,.1f} GB"
        limit = f"at most {most / 2**30:.0f} GB are downloaded"
        super().__init__(f"The dataset {name!r} has {self.size}; {limit}. Choose a smaller one.")


class MemoryFullError(ResNetHubError):
    """There is too little memory for what was asked; whatever was there before stays."""


class TrainingError(ResNetHubError):
    """A training run that cannot start or go on; what it had reached is kept."""


def disk_is_full(error: BaseException) -> bool:
    """Whether an error says so: by its number, or in the words of safetensors, which writes files itself."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in numbers or any(f"(os error {number})" in str(error) for number in numbers)


def memory_is_full(error: BaseException) -> bool:
    """Whether an error says so: Python's, or in the words of PyTorch, ONNX Runtime or the system."""
    words = ("can't allocate memory", "Cannot allocate memory", "Failed to allocate memory", "bad_alloc", "new thread")
    kinds = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return kinds or any(part in str(error) for part in words)


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turn whatever says that there is no memory for `what` into a `MemoryFullError` of one sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ResNetHubError) or not memory_is_full(error):
            raise
        raise MemoryFullError(f"There is too little memory for {what}; free some, or take a smaller model.") from None


def one_line(text: object, most: int = 300) -> str:
    """What others have written, to stand in a sentence of ours: printable, on one line, no longer than `most`."""
    start = "".join(sign if sign.isprintable() else " " for sign in str(text)[: 4 * most])
    line = " ".join(start.split()).rstrip(".:")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def list_some(items: Sequence[T], limit: int = 3, to_text: Callable[[T], str] = str) -> str:
    """`a, b, c and 2 more`: at most `limit` items and the number of the others."""
    shown = ", ".join(to_text(item) for item in items[:limit])
    return shown + (f" and {len(items) - limit:,} more" if len(items) > limit else "")
