"""The errors of the package. A message names the subject, the cause and what to do."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class ResNetHubError(Exception):
    """Base class of the errors that this package raises; the message can be shown to users."""


class ConfigError(ResNetHubError):
    """An invalid configuration, or a `config.json` that cannot be read."""


class CheckpointError(ResNetHubError):
    """A checkpoint that is incomplete or damaged, or whose files disagree."""


class HubError(ResNetHubError):
    """The Hugging Face Hub refuses a request or cannot be reached."""


class ImageError(ResNetHubError):
    """An image that cannot be read: damaged, of an unsupported format, or too large."""


class DataError(ResNetHubError):
    """A dataset that cannot be used for training or evaluation."""


class TooLargeError(DataError):
    """A dataset on the Hub that is larger than the download limit."""

    def __init__(self, name: str, size: int, most: int):
        self.size = format_bytes(size)
        limit = format_bytes(most)
        super().__init__(f"The dataset {name!r} has {self.size}; at most {limit} are downloaded. Choose a smaller one.")


class MemoryFullError(ResNetHubError):
    """There is too little memory for an operation, which has changed nothing."""


class TrainingError(ResNetHubError):
    """A training run that cannot start or continue; its saved training state is unchanged."""


class AnalysisError(ResNetHubError):
    """An analysis that does not fit the model, such as a block that it does not have."""


def disk_is_full(error: BaseException) -> bool:
    """Whether the disk is full: by the error number, or by the text of safetensors, which has no number."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in numbers or any(f"(os error {number})" in str(error) for number in numbers)


def memory_is_full(error: BaseException) -> bool:
    """Whether memory is full: by the type of the error, or by the texts of PyTorch, ONNX Runtime and the system."""
    texts = (
        *("can't allocate memory", "Cannot allocate memory", "Failed to allocate memory", "bad_alloc", "new thread"),
        "failed to map segment",  # of a library that is imported
        "NULL without setting an exception",  # of the interpreter
    )
    is_memory_error = isinstance(error, MemoryError) or gpu_memory_is_full(error)
    return is_memory_error or any(text in str(error) for text in texts)


def gpu_memory_is_full(error: BaseException) -> bool:
    """Whether the memory of a GPU is full: by the type of the error, or by the texts of CUDA, its libraries and MPS."""
    texts = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")
    return type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in texts)


@contextmanager
def memory_errors(subject: str) -> Iterator[None]:
    """Raise `MemoryFullError` for any error that is due to too little memory for `subject`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ResNetHubError) or not memory_is_full(error):
            raise
        raise MemoryFullError(f"There is too little memory for {subject}. Free some, or use a smaller model.") from None


def format_bytes(count: float) -> str:
    """Format a number of bytes with its decimal unit, such as `12.3 MB`, as disks and the Hub show them."""
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if count >= size), ("kB", 1e3))
    return f"{f'{count / size:,.1f}'.removesuffix('.0')} {unit}"


def one_line(text: object, max_length: int = 300) -> str:
    """Untrusted text for use in a message: printable characters on one line, cut to `max_length`."""
    printable = "".join(char if char.isprintable() else " " for char in str(text)[: 4 * max_length])
    line = " ".join(printable.split()).rstrip(".:")
    return line if len(line) <= max_length else f"{line[: max_length - 1]}…"


def first_line(error: object) -> str:
    """The first line of an error's text, or its type where it has none."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


def printable(text: str) -> str:
    """Replace unprintable characters by `?`, and cut the text to 200 characters."""
    return "".join(char if char.isprintable() else "?" for char in text)[:200]


def list_some(items: Sequence[T], limit: int = 3, to_text: Callable[[T], str] = str) -> str:
    """`a, b, c and 2 more`: at most `limit` items and the number of the others."""
    shown = ", ".join(to_text(item) for item in items[:limit])
    return shown + (f" and {len(items) - limit:,} more" if len(items) > limit else "")


def list_untrusted(names: Sequence[object], limit: int = 3) -> str:
    """As `list_some`, with each name made printable and cut to 80 characters."""
    return list_some(names, limit, partial(one_line, max_length=80))
