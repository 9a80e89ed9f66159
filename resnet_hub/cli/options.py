"""Options that several commands share, and the types of their values."""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

from resnet_hub.included_models import DEFAULT_MODEL_NAME, find_default_model
from resnet_hub.training.config import TrainConfig

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Arguments: TypeAlias = argparse.Namespace

EXIT_CODES = """exit codes:
  0    success
  2    failure: invalid arguments, or a model or dataset that cannot be used
  130  interrupted"""

_SKIPPED = "  1    some images could not be read; the others were processed\n"

MODEL_HELP = "checkpoint folder, Hub model (user/name) or included model"
DATA_HELP = "folder, ZIP or tar of class folders, folder of parquet files, or Hub dataset (user/name)"
SPLIT_HELP = "split to evaluate on (default: the first that exists of validation, test, train)"


def add_command(
    commands: Commands, name: str, run: Callable[[Arguments], int], help_text: str, *, skips_images: bool = False
) -> argparse.ArgumentParser:
    """Add the command `name` and return its parser, to which its options are added.

    Args:
        commands: The commands of `resnet-hub`, or the actions of one.
        run: The function that runs the command and returns the exit code. Its docstring describes the command.
        help_text: A few words for the list of commands.
        skips_images: Whether the command continues without the images that cannot be read, and returns 1 then.
    """
    parser = commands.add_parser(
        name,
        help=help_text,
        description=inspect.getdoc(run),
        epilog=EXIT_CODES.replace("  2  ", f"{_SKIPPED}  2  ") if skips_images else EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run_command=run)
    return parser


def add_folder(parser: argparse.ArgumentParser, help_text: str = "checkpoint folder") -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=help_text)


def add_optional_model(parser: argparse.ArgumentParser, name: str, **settings: Any) -> None:
    """Add the argument `name`, a model that has a default, and `--revision`; `choose_model` applies the default."""
    help_text = f"{MODEL_HELP} (default: {DEFAULT_MODEL_NAME})"
    parser.add_argument(name, metavar="MODEL", help=help_text, **settings)
    add_revision(parser)


def add_revision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")


def add_dataset_options(parser: argparse.ArgumentParser, *revision: str) -> None:
    """Add the options that choose the contents of a parquet or Hub dataset; `get_dataset_options` reads them."""
    for field in fields(TrainConfig):
        if field.name in ("subset", "image_column", "label_column"):  # as of `train`
            parser.add_argument(f"--{field.name.replace('_', '-')}", help=field.metadata["help"])
    parser.add_argument(*revision, dest="data_revision", help="branch, tag or commit of a Hub dataset")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: the fastest available)")


def add_private(parser: argparse.ArgumentParser, note: str = "") -> None:
    help_text = f"create the repository as private or public (default: the setting of your account{note})"
    parser.add_argument("--private", action=argparse.BooleanOptionalAction, help=help_text)


def add_count(parser: argparse.ArgumentParser, option: str, default: int, help_text: str) -> None:
    help_text += f" (default: {default})"
    parser.add_argument(option, type=parse_positive_int, default=default, metavar="N", help=help_text)


def add_json(parser: argparse._ActionsContainer, form: str = "one JSON object") -> None:
    parser.add_argument("--json", action="store_true", help=f"print {form}")


def choose_model(arguments: Arguments) -> str | Path:
    """Return the model that the command names, or the default model."""
    return arguments.model or find_default_model()


def select(arguments: Arguments, *names: str) -> dict[str, Any]:
    """Return the values of some options, as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}


def get_dataset_options(arguments: Arguments) -> dict[str, Any]:
    """Return the options of `add_dataset_options`, as keyword arguments of `load_dataset`."""
    return select(arguments, "subset", "image_column", "label_column") | {"revision": arguments.data_revision}


def parse_positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def parse_floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.5,0.5,0.5") from None
