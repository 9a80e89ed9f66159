"""The checkpoint folders that ship with the project: inside the package in a wheel, beside it in a clone."""

from pathlib import Path

from resnet_hub.errors import CheckpointError
from resnet_hub.paths import find_path

DEFAULT_MODEL_NAME = "resnet18-imagenet"  # the first model of the page, and the fallback of commands
_IN_WHEEL, _IN_CLONE = Path(__file__).with_name("weights"), Path(__file__).parents[1] / "weights"
INCLUDED_FOLDER = _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CLONE


def find_included_model(name: str) -> Path | None:
    """Return the included checkpoint folder of that name, such as "resnet20-cifar10", or None."""
    return next((path.parent for path in INCLUDED_FOLDER.glob("[!.]*/config.json") if path.parent.name == name), None)


def find_local_model(source: str | Path) -> Path | None:
    """Return the file or folder of that path, else, for a text, the included model of that name, or None."""
    return find_path(source) or (find_included_model(source) if isinstance(source, str) else None)


def find_default_model() -> Path:
    """Return the checkpoint folder that is used if a command names no model.

    Raises:
        CheckpointError: This installation has no such folder.
    """
    folder = INCLUDED_FOLDER / DEFAULT_MODEL_NAME
    if not folder.is_dir():
        raise CheckpointError(
            "This installation has no default model. Name a checkpoint folder or a Hub model (user/name)."
        )
    return folder
