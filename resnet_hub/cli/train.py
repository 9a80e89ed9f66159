"""`resnet-hub train`: train a model or resume a run, on this machine or as a Hugging Face job."""

import argparse
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.cli.output import escape
from resnet_hub.cli.train_events import is_main_process, print_events, print_events_as_json
from resnet_hub.errors import TrainingError

if TYPE_CHECKING:
    from resnet_hub.training.config import TrainConfig
    from resnet_hub.training.events import Event


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "train", run, "train a model, or resume a run")
    _add_settings(parser)
    parser.add_argument("--json", action="store_true", help="print each event as a JSON object on its own line")
    parser.add_argument("--push", metavar="REPO", help="Hub repository for the finished model: user/name")
    parser.add_argument(
        "--private", action=argparse.BooleanOptionalAction, help=f"{options.PRIVATE_HELP}; of a job: private"
    )
    parser.add_argument("--on", choices=("here", "jobs"), default="here", help="jobs: train as a Hugging Face job")
    parser.add_argument("--flavor", help="hardware of the job, as `hf jobs hardware` lists it (default: t4-small)")
    parser.add_argument(
        "--timeout",
        help="time limit of the job, such as 90m (default: 2h); training stops some minutes earlier, so that the "
        "model is evaluated and pushed",
    )
    parser.add_argument(
        "--stop-after",
        metavar="TIME",
        help="time limit of the training, such as 90m; then the best model so far is evaluated and saved",
    )
    parser.add_argument(
        "--end-when",
        metavar="USER/NAME/FILE",
        help="end the training in the same way once this file exists in a Hub dataset",
    )
    parser.add_argument("--upload", action="store_true", help="copy local data to a private Hub dataset for the job")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrainConfig`, with the help text of its metadata."""
    from dataclasses import MISSING, fields

    from resnet_hub.training.config import TrainConfig

    hints = get_type_hints(TrainConfig)
    for field in fields(TrainConfig):
        hint = hints[field.name]
        kinds = [hint] if get_origin(hint) is Literal else [*get_args(hint), hint]
        kind = next(kind for kind in kinds if isinstance(kind, type) or get_origin(kind) is Literal)
        settings: dict[str, Any] = {"type": kind, "metavar": field.name.upper()}
        if kind is bool:
            settings = {"action": argparse.BooleanOptionalAction}
        elif get_origin(kind) is Literal:
            settings = {"choices": get_args(kind)}
        help_text = field.metadata["help"].replace("%", "%%")
        if field.default not in (None, MISSING):
            help_text += f" (default: {field.default})".lstrip("" if help_text else " ")
        alias = ["--out"] if field.name == "run" else []  # other programs' name for the folder that they write
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, *alias, dest=field.name, help=help_text, **settings)


def run(arguments: Arguments) -> int:
    """Train a model. If the run directory holds a stopped or killed run, the run is resumed.

    Ctrl-C stops after the current step and saves the run; a second Ctrl-C exits at once.
    """
    from resnet_hub.training.config import TrainConfig
    from resnet_hub.training.events import Failed, Stopped

    settings = {key: getattr(arguments, key) for key in get_type_hints(TrainConfig)}
    settings = {key: value for key, value in settings.items() if value is not None}
    _check_options(arguments, settings)
    if arguments.on == "jobs":
        last_event = _train_as_job(arguments, TrainConfig(**{"run": "run"} | settings))
    else:
        last_event = _train_here(arguments, settings)
    if isinstance(last_event, Failed):
        raise TrainingError(last_event.reason)
    return 130 if isinstance(last_event, Stopped) else 0


def _check_options(arguments: Arguments, settings: dict[str, Any]) -> None:
    """Raise `TrainingError` for options that are missing, or have no effect, with the chosen `--on`."""
    if arguments.on == "jobs":
        problems = {
            "A job saves nothing here; name the Hub repository for its model, --push user/name.": not arguments.push,
            "A job needs a dataset; name one with --data.": "data" not in settings,
            "A job stops training some minutes before its --timeout; leave out --stop-after.": arguments.stop_after,
            "A job already watches a file that ends it; leave out --end-when.": arguments.end_when,
        }
    else:
        problems = {"Name the run directory with --run.": "run" not in settings}
        for key in ("flavor", "timeout", "upload"):
            problems[f"--{key} has no effect without --on jobs. Add that, or leave it out."] = getattr(arguments, key)
    problems["--private has no effect without --push. Add a repository, or leave it out."] = (
        arguments.private is not None and not arguments.push
    )
    for message, applies in problems.items():
        if applies:
            raise TrainingError(message)


def _train_here(arguments: Arguments, settings: dict[str, Any]) -> "Event | None":
    from dataclasses import replace

    from resnet_hub import jobs
    from resnet_hub.checkpoints.push import check_push_access, push_folder
    from resnet_hub.training.config import Phase, TrainConfig, parse_duration
    from resnet_hub.training.events import Finished, Pushed
    from resnet_hub.training.loop import train
    from resnet_hub.training.run_dir import RunDir

    run = RunDir(settings["run"])
    if run.exists():
        config = replace(run.config, **settings)
        config.check_same(run.config, settings)
    elif "data" in settings:
        config = TrainConfig(**settings)
    else:
        raise TrainingError(f"The directory {run.folder} holds no run to resume. Name a dataset with --data.")

    time_limit = parse_duration(arguments.stop_after) if arguments.stop_after else None
    phase: Phase = "evaluate" if time_limit == 0 else "all"
    if arguments.push and is_main_process():
        check_push_access(arguments.push, private=arguments.private)

    def events() -> "Iterator[Event]":
        if arguments.end_when and is_main_process():
            jobs.await_end(run, arguments.end_when)
        for event in train(config, phase=phase, time_limit=time_limit):
            yield event
            if isinstance(event, Finished) and arguments.push and is_main_process():
                yield Pushed(push_folder(event.model, arguments.push, private=arguments.private))

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.stop.touch()
        print("stopping after this step; press Ctrl-C again to exit at once", file=sys.stderr)

    old_handler = signal.signal(signal.SIGINT, stop)
    try:
        return _print_all(arguments, events())
    finally:
        signal.signal(signal.SIGINT, old_handler)


def _train_as_job(arguments: Arguments, config: "TrainConfig") -> "Event | None":
    from resnet_hub import jobs

    options = {key: getattr(arguments, key) for key in ("flavor", "timeout", "private")}
    options = {key: value for key, value in options.items() if value is not None}
    job = jobs.submit(config, arguments.push, upload=arguments.upload, **options)
    print(f"job {job.id} on {arguments.flavor or 't4-small'}: {job.url}", file=sys.stderr)

    def events() -> "Iterator[Event]":
        for event in jobs.follow(job):
            if isinstance(event, str):
                print(escape(event), file=sys.stderr)
            else:
                yield event

    try:
        return _print_all(arguments, events())
    except KeyboardInterrupt:
        print(
            f"the job continues: {job.url}; `hf jobs cancel {job.id}` ends it and discards its model", file=sys.stderr
        )
        raise


def _print_all(arguments: Arguments, events: "Iterator[Event]") -> "Event | None":
    """Print events as they come and return the last one."""
    show: Callable[[Iterator[Event]], Iterator[Event]] = print_events_as_json if arguments.json else print_events
    return deque(show(events), maxlen=1).pop()
