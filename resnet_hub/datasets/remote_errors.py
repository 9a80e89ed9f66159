"""Errors of `datasets` and of the Hub as messages: subject, cause, advice."""

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import cast

from resnet_hub.errors import DataError, ResNetHubError, one_line
from resnet_hub.hub_client.errors import XetTransferError, error_message, is_short_body

_MISSING_CHOICES = {  # patterns of errors of `datasets`, whose second group lists the choices -> our text
    r"(?s)Config name is missing()(.*?)(?:`load_dataset|$)": "has subsets",
    r"BuilderConfig '(.*)' not found. Available: (.*)": "has no subset {!r}",
    r'Unknown split "(.*)". Should be one of (.*)': "has no split {!r}",
    r"Bad split: (.*). Available splits: (.*)": "has no split {!r} that can be read as a stream",
}


@contextlib.contextmanager
def wrap_errors(source: str, revision: str | None) -> Iterator[None]:
    """Turn all errors into `DataError`, and silence the progress bars and log messages of `datasets`."""
    try:
        import datasets
        from huggingface_hub import utils as hub
    except ImportError:
        install = "Run pip install 'resnet_hub[train]'."
        raise DataError(f"Parquet files and the Hub need another package. {install}") from None
    modules = (datasets, hub)
    old_states = [(module.are_progress_bars_disabled(), module.logging.get_verbosity()) for module in modules]
    for module in modules:
        module.disable_progress_bars()
        module.logging.set_verbosity(logging.ERROR)
    try:
        yield
    except ResNetHubError:
        raise
    except Exception as error:
        raise DataError(explain_error(source, revision, error)) from None
    finally:
        for module, (was_disabled, verbosity) in zip(modules, old_states, strict=True):
            module.logging.set_verbosity(verbosity)
            if not was_disabled:
                module.enable_progress_bars()


def explain_error(source: str, revision: str | None, error: Exception, file: str = "") -> str:
    """Return the message for an error of `datasets` or the Hub, in one file if it is known: subject, cause, advice."""
    from huggingface_hub import errors

    if isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError | errors.DisabledRepoError):
        return error_message(error, source, revision, writing=False, kind="dataset")
    if error.__cause__ and str(error) == "An error occurred while generating the dataset":
        error = cast(Exception, error.__cause__)
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if isinstance(error, ValueError):
        for pattern, problem in _MISSING_CHOICES.items():
            if match := re.search(pattern, str(error)):
                names = ", ".join(re.findall(r"'([^']+)'", match[2]))
                return f"The dataset {source!r} {problem.format(match[1])}. Choose one of {names}."
        if match := re.match(r"Unrecognized instruction format: (.*)", reason):
            return f"The split {match[1]!r} is not valid. Give the name of a split, or a part such as train[:10%]."
    if "is a gated dataset" in reason:
        return f"{source} is gated. Request access on its page, then use a token of that account."
    if "scripts are no longer supported" in reason:
        return f"The dataset {source!r} needs a script to be read. Scripts are never run; use another dataset."
    cause = error.__cause__ if isinstance(error.__cause__, errors.HTTPError) else error
    if isinstance(cause, errors.HTTPError | XetTransferError) or (isinstance(error, OSError) and is_short_body(error)):
        return error_message(error, f"The dataset {source!r}", None, writing=False)
    if isinstance(error, ConnectionError | TimeoutError):
        return f"The dataset {source!r} cannot be fetched. Check the connection, or use a folder or ZIP."
    where = f"{file} of the dataset {source!r}" if file else f"the dataset {source!r}"
    return f"Cannot read {where}: {one_line(reason).rstrip('.')}. Check {'it' if file else 'its files'}."
