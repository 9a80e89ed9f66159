"""`resnet-hub train`: train a model or resume a run, on this machine or as a Hugging Face job."""

import argparse
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from resnet_hub.cli import options, output
from resnet_hub.errors import ResNetHubError, TrainingError, format_bytes
from resnet_hub.training import events
from resnet_hub.training.config import AUTO, Phase, TrainConfig, parse_duration

RUNS = Path("runs")  # folder of the run directories of commands that name none
_FROM_A_BASE = ("finetune", "head")  # recipes; others start from random weights unless a base is named


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "train", run, "train a model, or resume a run", skips_images=True)
    _add_settings(parser)
    add = parser.add_argument
    options.add_json(parser, "each event as a JSON object on its own line")
    add("--push", metavar="REPO", help="Hub repository for the finished model: user/name")
    options.add_private(parser, "; of a job: private")
    add("--on", choices=("here", "jobs"), default="here", help="jobs: train as a Hugging Face job")
    add("--flavor", help="hardware of the job, as `hf jobs hardware` lists it (default: t4-small)")
    help_text = "training stops some minutes earlier, so that the model is evaluated and pushed"
    add("--timeout", help=f"time limit of the job, such as 90m (default: 2h); {help_text}")
    help_text = "time limit of the training, such as 90m; then the best model so far is evaluated and saved"
    add("--stop-after", metavar="TIME", help=help_text)
    help_text = "stop after so many steps of the run, without an evaluation; the command without it resumes the run"
    add("--max-steps", type=int, metavar="STEPS", help=help_text)
    help_text = "print what the run would take: memory, disk and time, by a sample of the images; train nothing"
    add("--dry-run", action="store_true", help=help_text)
    help_text = "end the training in the same way once this file exists in a Hub dataset"
    add("--end-when", metavar="USER/NAME/FILE", help=help_text)
    help_text = "train even if another process seems to train in the run directory"
    add("--force-unlock", action="store_true", help=help_text)
    add("--upload", action="store_true", help="copy local data to a private Hub dataset for the job")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrainConfig`, with the help text of its metadata."""
    hints = get_type_hints(TrainConfig)
    for field in fields(TrainConfig):
        union = hints[field.name]
        types = [union] if get_origin(union) is Literal else [*get_args(union), union]
        hint = next(hint for hint in types if isinstance(hint, type) or get_origin(hint) is Literal)
        settings: dict[str, Any] = {"type": hint, "metavar": field.name.upper()}
        if hint is bool:
            settings = {"action": argparse.BooleanOptionalAction}
        elif get_origin(hint) is Literal:
            settings = {"choices": get_args(hint)}
        help_text = field.metadata["help"].replace("%", "%%")
        if field.default not in (None, MISSING):
            help_text += f" (default: {field.default})".lstrip("" if help_text else " ")
        alias = ["--out"] if field.name == "run" else []  # other programs' name for the folder that they write
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, *alias, dest=field.name, help=help_text, **settings)


def run(arguments: options.Arguments) -> int:
    """Train a model. If the run directory holds a stopped or killed run, the run is resumed.

    Without --base, training starts from ImageNet weights of the Hub, or from the included model if the Hub does not
    respond; with --base none, --architecture, or another recipe than finetune and head, it starts from random weights.
    Without --run, the run directory is a new folder in runs/, named after the data.

    Ctrl-C stops after the current step and saves the run; a second Ctrl-C exits at once.
    """
    settings = _select_set(arguments, *get_type_hints(TrainConfig))
    _check_options(arguments, settings)
    if arguments.on == "jobs":
        return _train_as_job(arguments, TrainConfig(**{"run": "run"} | _add_base(settings)))
    if "run" in settings:
        return _train_here(arguments, settings)
    with _claim_run_dir(settings["data"]) as folder:
        return _train_here(arguments, settings | {"run": str(folder)})


def _select_set(arguments: options.Arguments, *names: str) -> dict[str, Any]:
    """Return the values of those options that are set."""
    return {name: value for name, value in options.select(arguments, *names).items() if value is not None}


def _check_options(arguments: options.Arguments, settings: dict[str, Any]) -> None:
    """Raise `TrainingError` for options that are missing, or have no effect, with the chosen `--on`."""
    if arguments.on == "jobs":
        problems = {
            "A job saves nothing here; name the Hub repository for its model, --push user/name.": not arguments.push,
            "A job needs a dataset; name one with --data.": "data" not in settings,
            "A job stops training some minutes before its --timeout; leave out --stop-after.": arguments.stop_after,
            "A job trains to its end; leave out --max-steps.": arguments.max_steps is not None,
            "A dry run measures this machine, not that of a job; leave out --on jobs.": arguments.dry_run,
            "A job already watches a file that ends it; leave out --end-when.": arguments.end_when,
            "A job has a run directory of its own; leave out --force-unlock.": arguments.force_unlock,
        }
    else:
        names_neither, has_several = not settings.keys() & {"run", "data"}, int(os.environ.get("WORLD_SIZE", "1")) > 1
        problems = {
            "Name a dataset with --data, or a run to resume with --run.": names_neither,
            "Name the run directory that the processes share with --run.": has_several and "run" not in settings,
        }
        for key in ("flavor", "timeout", "upload"):
            problems[f"--{key} has no effect without --on jobs. Add that, or leave it out."] = getattr(arguments, key)
    is_private_unused = arguments.private is not None and not arguments.push
    problems["--private has no effect without --push. Add a repository, or leave it out."] = is_private_unused
    for message, applies in problems.items():
        if applies:
            raise TrainingError(message)


def _add_base(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a new run with a base, unless they are those of a training from random weights."""
    is_from_scratch = "architecture" in settings or settings.get("recipe", "finetune") not in _FROM_A_BASE
    return settings if is_from_scratch else {"base": AUTO} | settings


@contextmanager
def _claim_run_dir(data: str) -> Iterator[Path]:
    """Create a run directory named after the data; it is removed again if no run starts in it, or none can resume."""
    from resnet_hub.training.run_dir import RunDir

    path = data if data.startswith("hf://") else str(Path(data).expanduser().resolve())
    name = re.sub(r"\.zip$", "", re.split(r"[/\\]", path)[-1], flags=re.IGNORECASE)
    name = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "run"
    number, folder = 1, RUNS / name
    while True:
        try:
            folder.mkdir(parents=True)  # fails if another command has claimed it meanwhile
            break
        except FileExistsError:
            number += 1
            folder = RUNS / f"{name}-{number}"
        except OSError as error:
            raise TrainingError(
                f"Cannot create the run directory {folder}: {error.strerror}. Name one with --run."
            ) from None
    print(f"run: {output.escape(folder)}", file=sys.stderr)
    run_dir, has_failed = RunDir(folder), False
    try:
        yield folder
    except ResNetHubError:
        has_failed = True
        raise
    finally:
        if not run_dir.exists() or (has_failed and not run_dir.state.is_file()):
            shutil.rmtree(folder, ignore_errors=True)


def _train_here(arguments: options.Arguments, settings: dict[str, Any]) -> int:
    from resnet_hub import jobs
    from resnet_hub.checkpoints.push import check_push_access, push_folder
    from resnet_hub.training.loop import Limits, train
    from resnet_hub.training.run_dir import RunDir

    run_dir = RunDir(settings["run"])
    if run_dir.exists():
        config = replace(run_dir.config, **settings)
        config.check_same(run_dir.config, settings)
    elif "data" in settings:
        config = TrainConfig(**_add_base(settings))
    else:
        raise TrainingError(f"The directory {run_dir.folder} holds no run to resume. Name a dataset with --data.")

    time_limit = parse_duration(arguments.stop_after) if arguments.stop_after else None
    phase: Phase = "evaluate" if time_limit == 0 else "all"
    Limits.create(phase, time_limit, arguments.max_steps)  # raises if they contradict each other, as `train` does
    train_options: dict[str, Any] = {"phase": phase, "time_limit": time_limit, "max_steps": arguments.max_steps}
    train_options["force_unlock"] = arguments.force_unlock
    is_main = _is_main_process()
    if arguments.dry_run:
        return _print_plan(config, as_json=arguments.json) if is_main else 0
    if arguments.push and is_main:
        check_push_access(arguments.push, private=arguments.private)

    def train_and_push() -> Iterator[events.Event]:
        if arguments.end_when and is_main:
            jobs.await_end(run_dir, arguments.end_when)
        for event in train(config, **train_options):
            yield event
            if isinstance(event, events.Finished) and arguments.push and is_main:
                yield events.Pushed(push_folder(event.model, arguments.push, private=arguments.private))

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not is_main:  # the first process stops all
            return
        if not run_dir.lock.is_locked_here():  # this run has not begun; the file would stop that of another command
            raise KeyboardInterrupt
        run_dir.stop.touch()
        print("stopping after this step; press Ctrl-C again to exit at once", file=sys.stderr)

    old_handler = signal.signal(signal.SIGINT, stop)
    try:
        return _print_events(train_and_push(), as_json=arguments.json)
    finally:
        signal.signal(signal.SIGINT, old_handler)


def _print_plan(config: TrainConfig, *, as_json: bool) -> int:
    from tqdm import tqdm

    from resnet_hub.training.plan import plan_run

    plan = plan_run(config)
    if as_json:
        print(json.dumps(plan._asdict()))
        return 0
    print(f"base: {output.escape(plan.base) if plan.base else 'none, random weights'}")
    if plan.base_reason:
        print(f"  {output.escape(plan.base_reason)}")
    print(f"{plan.train_images:,} images of {plan.labels:,} classes, {plan.validation_images:,} to evaluate on")
    print(f"{plan.epochs} epochs of {plan.steps:,} steps: about {tqdm.format_interval(plan.seconds)}")
    print(f"  {plan.loaded_per_second:,.0f} images decoded and {plan.trained_per_second:,.0f} trained on in a second")
    print(f"memory for images: {format_bytes(plan.in_memory)}")
    again = f"; {plan.decoded_again:.0%} of the images are decoded in each epoch" if plan.decoded_again else ""
    print(f"disk for decoded images: {format_bytes(plan.on_disk)}{again}")
    print(f"disk for the dataset: {format_bytes(plan.dataset)}")
    print(f"disk for the training state and the model: {format_bytes(plan.files)}")
    return 0


def _train_as_job(arguments: options.Arguments, config: TrainConfig) -> int:
    from resnet_hub import jobs

    settings = _select_set(arguments, "flavor", "timeout", "private")
    job = jobs.submit(config, arguments.push, upload=arguments.upload, **settings)
    print(f"job {job.id} on {arguments.flavor or 't4-small'}: {job.url}", file=sys.stderr)

    def print_log() -> Iterator[events.Event]:
        for event in jobs.follow(job):
            if isinstance(event, str):
                print(output.escape(event), file=sys.stderr)
            else:
                yield event

    try:
        return _print_events(print_log(), as_json=arguments.json)
    except KeyboardInterrupt:
        cancel = f"`hf jobs cancel {job.id}` ends it and discards its model"
        print(f"the job continues: {job.url}; {cancel}", file=sys.stderr)
        raise


def _is_main_process() -> bool:
    """Whether this process prints and pushes; of several under `accelerate launch` it is the first."""
    return os.environ.get("RANK", "0") == "0"


def _print_events(run_events: Iterator[events.Event], *, as_json: bool) -> int:
    """Print events as they come, as JSON lines or as one line per epoch with a progress bar on a terminal.

    Returns:
        The exit code.

    Raises:
        TrainingError: The run failed.
    """
    from tqdm import tqdm

    event, run, unreadable, is_main = None, "", 0, _is_main_process()
    with tqdm(desc="checking the images", leave=False, disable=None if is_main and not as_json else True) as bar:
        for event in run_events:
            match event:
                case events.Started():
                    run = event.run
                    if event.base_note and is_main:
                        name = output.escape(Path(event.base or "").name)
                        note = output.escape(event.base_note)
                        tqdm.write(f"using the included base {name}: {note}", file=sys.stderr)
                case events.Preparing():
                    bar.total, bar.n = event.total, event.done
                    bar.set_description("checking the images" if event.what == "report" else event.what)
                case events.Progress():
                    bar.total, bar.n = event.steps, event.step
                    bar.set_description(f"epoch {event.epoch}")
                    left = tqdm.format_interval(event.seconds_left)
                    bar.set_postfix_str(f"loss {event.loss:.3f}, {event.images_per_second:.0f} images/s, {left} left")
                case events.Finished():
                    unreadable = event.unreadable
            if is_main and (line := events.event_to_json(event) if as_json else _format_event(event, run)):
                tqdm.write(line)
    if isinstance(event, events.Failed):
        raise TrainingError(event.reason)
    if isinstance(event, events.Finished) and is_main:
        output.print_restriction(Path(event.model))
    if isinstance(event, events.Stopped):
        return 0 if event.is_at_limit else 130
    return 1 if unreadable else 0


def _format_event(event: events.Event, run: str) -> str:
    """Return the line for an event of a run, or an empty string for one that only the progress bar shows."""
    from resnet_hub.datasets.report import Finding, format_finding
    from resnet_hub.evaluation.metrics import describe_uncertainty

    match event:
        case events.Checked():
            return "\n".join(format_finding(Finding(**finding)) for finding in event.findings)  # type: ignore[arg-type]
        case events.OutOfMemory():
            line = f"a step did not fit into memory: each batch is now computed in {event.parts} chunks, "
            return line + ("with the same result" if event.keeps_numbers else "with other BatchNorm statistics")
        case events.Started():
            line = f"{event.train_images:,} images of {len(event.labels)} classes, "
            line += f"{event.validation_images:,} to evaluate on ({event.split}); "
            line += f"{event.parameters:,} parameters on {event.device}, "
            line += f"from {output.escape(event.base) if event.base else 'random weights'}"
            return line + (f", resumed from epoch {event.epoch}" if event.epoch else "")
        case events.Epoch():
            line = f"epoch {event.epoch:3}"
            line += "" if event.train_loss is None else f"  loss {event.train_loss:.4f}"
            if event.accuracy is not None:
                line += f"  validation loss {event.validation_loss:.4f}, accuracy {event.accuracy:.2%}"
                line += "  best so far" if event.best else ""
            return line
        case events.Finished():
            uncertainty = describe_uncertainty(event.accuracy, event.num_images)
            split = (f" ({uncertainty})" if uncertainty else "") + (f" on {event.split}" if event.split else "")
            return f"accuracy {event.accuracy:.2%}{split} after {event.seconds:.0f} s: {output.escape(event.model)}"
        case events.Stopped():
            return f"stopped in epoch {event.epoch + 1}; `resnet-hub train --run {output.escape(run)}` resumes it"
        case events.TimeUp():
            return f"training ends in epoch {event.epoch + 1}; the best model so far is evaluated and saved"
        case events.Pushed():
            return event.url
    return ""
