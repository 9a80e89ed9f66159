"""The command line: `resnet-hub COMMAND`, or `python -m resnet_hub COMMAND`. One module per command or command group.

Each command imports its dependencies inside its function, so that `--help` and `info` run without importing torch.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from resnet_hub.cli import convert, data, deploy, evaluate, info, onnx, predict, push, reproduce, search, train
from resnet_hub.cli.options import EXIT_CODES
from resnet_hub.errors import ResNetHubError, memory_is_full
from resnet_hub.version import __version__

_INTERRUPTED = 130  # the exit code after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name. Defaults to those of the process.

    Returns:
        The exit code: see `resnet_hub.cli.options.EXIT_CODES`.
    """
    arguments = create_parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal's encoding may lack characters of names and labels
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        code: int = arguments.run_command(arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed; nothing more may be written at exit
        _discard_output()
        return 141
    except (ResNetHubError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # a full disk: what could not be written would be tried again at exit
            _discard_output()
        return 2
    except Exception as error:
        if not memory_is_full(error):
            raise
        print("error: Not enough memory. Close other programs or use a smaller model.", file=sys.stderr)
        return 2
    return code


def run_program() -> NoReturn:
    """Run one command and end the process with its exit code.

    After Ctrl-C it ends at once: a thread that builds an engine would be waited for, and native code that it has loaded
    sometimes ends the process in its own way then.
    """
    code = main()
    if code == _INTERRUPTED:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; the parsed `run_command` is the function to call."""
    parser = argparse.ArgumentParser(
        prog="resnet-hub",
        description="Train, use and share ResNet image classifiers on the Hugging Face Hub.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"resnet-hub {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (predict, evaluate, train, data, convert, onnx, push, search, deploy, info, reproduce):
        module.add_parsers(commands)
    return parser
