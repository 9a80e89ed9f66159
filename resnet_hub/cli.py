"""The terminal: `resnet-hub COMMAND`, or `python -m resnet_hub COMMAND`. One function a command.

What a command needs is imported inside it, so that `--help` and `info` answer before torch would be loaded."""

import argparse
import io
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from resnet_hub.config import VARIANTS
from resnet_hub.convert.state_dict import LABEL_SETS
from resnet_hub.errors import CheckpointError, HubError, ImageError, ResNetHubError, TrainingError, memory_is_full
from resnet_hub.version import __version__

if TYPE_CHECKING:
    from resnet_hub.config import ResNetConfig
    from resnet_hub.datasets.dataset import Splits
    from resnet_hub.training.config import TrainConfig
    from resnet_hub.training.events import Event
    from resnet_hub.version import __version__


DEFAULT_MODEL = Path(__file__).parents[1] / "weights" / "resnet18-tiny-imagenet"  # comes with the repository
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}  # as safetensors calls them
_BYTES = {"F16": 2, "BF16": 2, "F64": 8, "I64": 8}  # of a number; of others 4
_SOME = 8  # labels that `info` shows

_MODEL_HELP = f"checkpoint folder, or user/name on the Hub (default: {DEFAULT_MODEL.name}, where it is present)"

_EXIT_CODES = """exit codes:
  0    all done
  1    some pictures could not be read; the others are done
  2    failed: wrong arguments, or a model that cannot be used
  130  interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names and labels may be in no alphabet of the terminal's
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        return arguments.run_command(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; nothing more may be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ResNetHubError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not memory_is_full(error):
            raise
        print("error: There is too little memory for that; free some, or take a smaller model.", file=sys.stderr)
        return 2


def predict(arguments: argparse.Namespace) -> int:
    """Print the likeliest labels of each picture."""
    from tqdm import tqdm

    from resnet_hub.inference.classifier import Classifier

    options = {key: getattr(arguments, key) for key in ("revision", "device", "precision", "exact")}
    classify = Classifier.from_pretrained(_model(arguments), **options)
    paths = [path for item in arguments.images for path in _pictures(item)]
    answers = classify(iter(paths), top_k=arguments.top_k, errors="return")
    failed = 0
    pairs = zip(paths, answers, strict=True)
    for path, answer in tqdm(pairs, total=len(paths), unit=" pictures", leave=False, disable=None):  # on a terminal
        if isinstance(answer, ImageError):
            failed += 1
            tqdm.write(f"skipped {_shown(path)}: {answer}", file=sys.stderr)
        elif arguments.json:
            tqdm.write(json.dumps({"file": str(path), "labels": answer}))
        else:
            scores = (f"{one['label']} {one['score']:.1%}" for one in answer)
            tqdm.write("  ".join([_shown(path), *scores]))
    return 1 if failed else 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Print how good a model is on labelled pictures."""
    from resnet_hub.evaluation.evaluate import evaluate
    from resnet_hub.inference.classifier import Classifier

    classify = Classifier.from_pretrained(arguments.model, revision=arguments.revision, device=arguments.device)
    with _counting() as progress:
        found = evaluate(
            classify,
            arguments.data,
            split=arguments.split,
            names=_data_names(arguments),
            tta=arguments.tta,
            skip_unreadable=arguments.skip_unreadable,
            progress=progress,
        )
    print(found.to_json() if arguments.json else found.to_text(), end="")
    return 1 if found.skipped else 0


def train(arguments: argparse.Namespace) -> int:
    """Train, or go on with a run, here or as a job; Ctrl-C stops and keeps, a second one leaves."""
    from resnet_hub.training.config import TrainConfig
    from resnet_hub.training.events import Failed, Stopped

    given = {key: getattr(arguments, key) for key in get_type_hints(TrainConfig)}
    given = {key: value for key, value in given.items() if value is not None}
    _check_place(arguments, given)
    if arguments.on == "jobs":
        last = _train_as_job(arguments, TrainConfig(**{"run": "run"} | given))
    else:
        last = _train_here(arguments, given)
    if isinstance(last, Failed):
        raise TrainingError(last.reason)
    return 130 if isinstance(last, Stopped) else 0


def _check_place(arguments: argparse.Namespace, given: dict[str, Any]) -> None:
    """Refuses what has no meaning where the run shall be."""
    if arguments.on == "jobs":
        if not arguments.push:
            raise TrainingError("A job keeps nothing: name the repo that its model shall go to, --push user/name.")
        if "data" not in given:
            raise TrainingError("Name what the job shall train on with --data.")
        if arguments.stop_after:
            raise TrainingError("A job stops itself before its --timeout; leave out --stop-after.")
        if arguments.end_when:
            raise TrainingError("A job has a file of its own that ends it; leave out --end-when.")
    else:
        if "run" not in given:
            raise TrainingError("Name the folder of the run with --run.")
        for key in ("flavor", "timeout", "upload"):
            if getattr(arguments, key):
                raise TrainingError(f"--{key} is for jobs; add --on jobs, or leave it out.")
    if arguments.private is not None and not arguments.push:
        raise TrainingError("--private is about the repo of --push; name one, or leave it out.")


def _train_here(arguments: argparse.Namespace, given: dict[str, Any]) -> "Event | None":
    from dataclasses import replace

    from resnet_hub import jobs
    from resnet_hub.checkpoints.push import check_push_access, push_folder
    from resnet_hub.training.config import Phase, TrainConfig, parse_duration
    from resnet_hub.training.events import Finished, Pushed
    from resnet_hub.training.loop import train as events_of
    from resnet_hub.training.run_dir import RunDir

    run = RunDir(given["run"])
    if run.exists():
        config = replace(run.config, **given)
        config.check_same(run.config, given)
    elif "data" in given:
        config = TrainConfig(**given)
    else:
        raise TrainingError(f"The folder {run.folder} holds no run to go on with; name what to train on with --data.")

    time_limit = parse_duration(arguments.stop_after) if arguments.stop_after else None
    phase: Phase = "evaluate" if time_limit == 0 else "all"
    if arguments.push and _speaks():
        check_push_access(arguments.push, private=arguments.private)

    def events() -> "Iterator[Event]":
        if arguments.end_when and _speaks():
            jobs.await_end(run, arguments.end_when)
        for event in events_of(config, phase=phase, time_limit=time_limit):
            yield event
            if isinstance(event, Finished) and arguments.push and _speaks():
                yield Pushed(push_folder(event.model, arguments.push, private=arguments.private))

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.stop.touch()
        print("stopping after this step; Ctrl-C again leaves at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, stop)
    try:
        return _last(arguments, events())
    finally:
        signal.signal(signal.SIGINT, before)


def _train_as_job(arguments: argparse.Namespace, config: "TrainConfig") -> "Event | None":
    from resnet_hub import jobs

    asked = {key: getattr(arguments, key) for key in ("flavor", "timeout", "private")}
    chosen = {key: value for key, value in asked.items() if value is not None}
    job = jobs.submit(config, arguments.push, upload=arguments.upload, **chosen)
    print(f"job {job.id} on {arguments.flavor or 't4-small'}: {job.url}", file=sys.stderr)

    def events() -> "Iterator[Event]":
        for event in jobs.follow(job):
            if isinstance(event, str):
                print(_shown(event), file=sys.stderr)
            else:
                yield event

    try:
        return _last(arguments, events())
    except KeyboardInterrupt:
        print(f"the job goes on: {job.url}; `hf jobs cancel {job.id}` ends it, nothing kept", file=sys.stderr)
        raise


def _last(arguments: argparse.Namespace, events: "Iterator[Event]") -> "Event | None":
    """Prints events as they come, and returns the last one."""
    show = _told_as_json if arguments.json else _told
    return deque(show(events), maxlen=1).pop()


def _speaks() -> bool:
    """Of several processes the first one speaks."""
    return os.environ.get("RANK", "0") == "0"


def _told(events: "Iterator[Event]") -> "Iterator[Event]":
    """Prints a line an epoch, and on a terminal a bar within it."""
    from tqdm import tqdm

    from resnet_hub.training.events import Epoch, Finished, Preparing, Progress, Pushed, Started, Stopped, TimeUp

    with tqdm(desc="looking at the pictures", leave=False, disable=None if _speaks() else True) as bar:
        for event in events:
            line = ""
            match event:
                case Started():
                    start = f", from epoch {event.epoch}" if event.epoch else ""
                    line = f"{event.train_images:,} pictures of {len(event.labels)} classes, "
                    line += f"{event.validation_images:,} to measure on ({event.split}); "
                    line += f"{event.parameters:,} parameters on {event.device}{start}"
                case Preparing():
                    bar.total, bar.n = event.total, event.done
                    bar.set_description("looking at the pictures" if event.what == "report" else event.what)
                case Progress():
                    bar.total, bar.n = event.steps, event.step
                    bar.set_description(f"epoch {event.epoch}")
                    left = tqdm.format_interval(event.seconds_left)
                    bar.set_postfix_str(f"loss {event.loss:.3f}, {event.images_per_second:.0f} pictures/s, {left} left")
                case Epoch():
                    line = f"epoch {event.epoch:3}"
                    line += "" if event.train_loss is None else f"  loss {event.train_loss:.4f}"
                    if event.accuracy is not None:
                        line += f"  held out: loss {event.validation_loss:.4f}, accuracy {event.accuracy:.2%}"
                        line += "  kept" if event.best else ""
                case Finished():
                    line = f"accuracy {event.accuracy:.2%} after {event.seconds:.0f} s: {event.model}"
                case Stopped():
                    line = f"stopped in epoch {event.epoch + 1}, all kept; the same command goes on"
                case TimeUp():
                    line = f"the training ends in epoch {event.epoch + 1}; the best so far is measured and kept"
                case Pushed():
                    line = event.url
            if line and _speaks():
                tqdm.write(line)
            yield event


def _told_as_json(events: "Iterator[Event]") -> "Iterator[Event]":
    """Prints an object a line, for programs that watch."""
    from resnet_hub.training.events import event_to_json

    for event in events:
        if _speaks():
            print(event_to_json(event), flush=True)
        yield event


def data_report(arguments: argparse.Namespace) -> int:
    """Print what is in a data set."""
    from resnet_hub.datasets.inspect import create_report

    splits = _splits(arguments)
    with _counting() as progress:
        found = create_report(splits, progress)
    print(found.to_json() + "\n" if arguments.json else found.to_text(), end="")
    found.check()
    return 1 if found.unreadable else 0


def data_export(arguments: argparse.Namespace) -> int:
    """Write a data set as a ZIP of class folders and print its path."""
    from resnet_hub.datasets.export import export_dataset

    splits = _splits(arguments)
    target = export_dataset(splits, arguments.target)
    counts = {split: len(images) for split, images in splits.items()}
    facts = {"file": str(target), "bytes": target.stat().st_size, "pictures": counts}
    print(json.dumps(facts) if arguments.json else _shown(target))
    return 0


def _splits(arguments: argparse.Namespace) -> "Splits":
    from resnet_hub.datasets.load import load_dataset

    return load_dataset(arguments.source, split=arguments.split, **_data_names(arguments))


def _data_names(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `_add_data_names` asks for, as `data.load` takes it."""
    names = {key: getattr(arguments, key) for key in ("subset", "image_column", "label_column")}
    return names | {"revision": arguments.data_revision}


def convert(arguments: argparse.Namespace) -> int:
    """Write a checkpoint folder from someone else's file and print what was recognised in it."""
    from resnet_hub.checkpoints.folder import save_checkpoint
    from resnet_hub.checkpoints.load import read_card
    from resnet_hub.checkpoints.model_card import is_generated
    from resnet_hub.convert.state_dict import convert_state_dict, known_label_set, read_label_file, read_state_dict
    from resnet_hub.model import ResNet

    labels = read_label_file(arguments.labels) if arguments.labels is not None else None
    labels = known_label_set(arguments.labels_from) if arguments.labels_from else labels
    keys = ("architecture", "shortcut", "stride_in_1x1", "image_size", "mean", "std")
    options = {key: getattr(arguments, key) for key in keys}
    options["layout"] = None if arguments.layout == "auto" else arguments.layout
    config, weights, notes = convert_state_dict(
        read_state_dict(arguments.file), arguments.file, labels=labels, **options
    )
    width = max(len(topic) for topic, _ in notes)
    for topic, note in notes:
        print(f"{topic:{width}}  {_shown(note)}")

    folder = arguments.folder.expanduser()
    old_card = read_card(folder) if folder.is_dir() else None
    if old_card and is_generated(old_card):  # for what was there; what a person wrote stays
        old_card = None
    ResNet.from_pretrained(save_checkpoint(folder, config, weights, old_card=old_card))
    print(f"{'saved':{width}}  {_shown(folder)}, and read back")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a checkpoint folder's ONNX files and print their paths."""
    from resnet_hub.inference.onnx_export import export_onnx as write

    for path in write(arguments.folder):
        print(f"{_shown(path)}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


def quantize(arguments: argparse.Namespace) -> int:
    """Calibrate a checkpoint folder for int8 and print what it costs."""
    from resnet_hub.inference.onnx_export import QUANTIZED_FILE
    from resnet_hub.inference.quantize import quantize

    with _counting() as progress:
        found = quantize(
            arguments.folder,
            arguments.calibrate,
            split=arguments.split,
            names=_data_names(arguments),
            force=arguments.force,
            progress=progress,
        )
    print(f"accuracy  {found.accuracy:.2%} in float32, {found.accuracy_int8:.2%} in int8, on the {found.data}")
    print(f"saved     {_shown(arguments.folder / QUANTIZED_FILE)}")
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Upload a checkpoint folder to the Hub and print its address."""
    from resnet_hub.checkpoints.push import push_folder

    print(
        push_folder(
            arguments.folder,
            arguments.repo,
            private=arguments.private,
            branch=arguments.branch,
            create_pr=arguments.create_pr,
            message=arguments.message,
        )
    )
    return 0


def info(arguments: argparse.Namespace) -> int:
    """Print what a model is made of and how good it is."""
    from resnet_hub.checkpoints.load import count_parameters_by_dtype, read_card, read_config
    from resnet_hub.checkpoints.model_card import read_metrics

    model = _model(arguments)
    where = {"revision": arguments.revision, "subfolder": arguments.subfolder}
    config = read_config(model, **where)
    metrics = read_metrics(read_card(model, **where) or "")
    try:
        stored = count_parameters_by_dtype(model, **where)
    except (CheckpointError, HubError):  # a config alone can be described too, also its copy where no Hub answers
        stored = {}
    size = sum(count * _BYTES.get(kind, 4) for kind, count in stored.items())
    precision = ", ".join(sorted(_FLOATS[kind] for kind in stored.keys() & _FLOATS.keys()))
    if arguments.json:
        facts = {
            "model": str(model),
            "architecture": config.architecture,
            "num_parameters": config.num_parameters,
            "multiply_adds": config.multiply_adds,
            "resize_size": config.resize_size,
            "stored_as": precision or None,
            "bytes": size or None,
            "metrics": [metric._asdict() for metric in metrics],
            "config": config.to_dict(),
        }
        print(json.dumps(facts, indent=2))
        return 0

    more = ", ..." if config.num_classes > _SOME else ""
    sides = "short side" if config.crop_mode == "center" else "both sides"
    rows = [
        ("model", str(model)),
        ("architecture", config.architecture),
        ("blocks", f"{' + '.join(map(str, config.depths))} {config.block}, shortcut {config.shortcut}"),
        ("parameters", f"{config.num_parameters:,}"),
        ("multiply-adds", f"{config.multiply_adds:,} a picture"),
        ("labels", f"{config.num_classes}{': ' if config.labels else ''}{', '.join(config.labels[:_SOME])}{more}"),
        *([("weights", f"{size / 1e6:.1f} MB of {precision or 'other numbers'}")] if stored else []),
        ("resize", f"{sides} to {config.resize_size} pixels, {config.interpolation}"),
        ("crop", f"{config.image_size} x {config.image_size} pixels from the centre"),
        ("mean", ", ".join(f"{value:g}" for value in config.mean)),
        ("std", ", ".join(f"{value:g}" for value in config.std)),
        *((metric.name, f"{metric.value:g} on {', '.join(filter(None, metric[2:]))}") for metric in metrics),
    ]
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        print(f"{_shown(key):{width}}  {_shown(value)}")
    return 0


def search(arguments: argparse.Namespace) -> int:
    """Print the ResNets on the Hub that match and open here: id, architecture, labels, downloads."""
    from concurrent.futures import ThreadPoolExecutor

    from resnet_hub.checkpoints.load import read_config
    from resnet_hub.checkpoints.search import SearchResult
    from resnet_hub.checkpoints.search import search_models as find

    def config(found: "SearchResult") -> "ResNetConfig | None":
        try:
            return read_config(found.id)
        except ResNetHubError:
            return None

    found = find(arguments.text, limit=arguments.limit)
    with ThreadPoolExecutor(8) as pool:
        opened = [(model, read) for model, read in zip(found, pool.map(config, found), strict=True) if read]
    width = max((len(model.id) for model, _ in opened), default=0)
    for model, read in opened:
        about = {"architecture": read.architecture, "labels": read.num_classes, "downloads": model.downloads}
        if arguments.json:
            print(json.dumps({"model": model.id, **about}))
        else:
            print(f"{model.id:{width}}  {read.architecture}, {read.num_classes} labels, {model.downloads} downloads")
    if not opened:
        raise HubError(f"No ResNet on the Hub with {arguments.text!r} in its name opens here; try another word.")
    if others := len(found) - len(opened):
        print(f"{others} more match but do not open here: `resnet-hub info` says why.", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-hub",
        description="ResNets for pictures, shared on the Hugging Face Hub.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"resnet-hub {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = commands.add_parser(
        "predict",
        help="label pictures",
        description="Label pictures: one line each, as they are done. Those that cannot be read are named on stderr.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of pictures")
    command.add_argument("--model", metavar="MODEL", help=_MODEL_HELP)
    command.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    command.add_argument("--top-k", type=_count, default=5, metavar="N", help="labels a picture (default: 5)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest present)")
    command.add_argument(
        "--precision", choices=("auto", "fp32", "int8"), default="auto", help="default: the fastest that is as good"
    )
    command.add_argument("--exact", action="store_true", help="read large pictures to the bit, which takes longer")
    command.add_argument("--json", action="store_true", help="a JSON object a line")
    command.set_defaults(run_command=predict)

    command = commands.add_parser(
        "evaluate",
        help="measure a model on labelled pictures",
        description="Measure a model on labelled pictures: accuracy, calibration, each class, the surest mistakes.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("model", metavar="MODEL", help="checkpoint folder, or user/name on the Hub")
    command.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    command.add_argument(
        "--data", required=True, help="folder or ZIP of class folders, folder of parquet files, or data set on the Hub"
    )
    command.add_argument(
        "--split",
        help="which split, or a part of one such as test[:500] of parquet and the Hub "
        "(default: the first of validation, test, train that exists)",
    )
    _add_data_names(command, "--data-revision")
    command.add_argument("--tta", action="store_true", help="the mean over each picture and its mirror image")
    command.add_argument("--skip-unreadable", action="store_true", help="leave out pictures that cannot be read")
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest present)")
    command.add_argument("--json", action="store_true", help="one JSON object, the confusion matrix included")
    command.set_defaults(run_command=evaluate)

    command = commands.add_parser(
        "train",
        help="train a model, or go on with a run",
        description="Train a model. The folder of a run that was stopped or killed goes on where it was. "
        "Ctrl-C stops and keeps, a second one leaves.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_settings(command)
    command.add_argument("--json", action="store_true", help="each event as a JSON object a line")
    command.add_argument(
        "--push", metavar="REPO", help="where the model goes when it is finished: user/name on the Hub"
    )
    command.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether only you see a repo that --push makes (default: yes for a job, else as your account has it)",
    )
    command.add_argument("--on", choices=("here", "jobs"), default="here", help="jobs: on a machine of Hugging Face")
    command.add_argument("--flavor", help="that machine, as in `hf jobs hardware` (default: t4-small)")
    command.add_argument(
        "--timeout",
        help="after which the job is ended, such as 90m (default: 2h); its training stops some minutes before, and "
        "what it has is pushed",
    )
    command.add_argument(
        "--stop-after",
        metavar="TIME",
        help="train so long at most, such as 90m, then measure and keep (and --push) the best so far",
    )
    command.add_argument(
        "--end-when",
        metavar="USER/NAME/FILE",
        help="end likewise once this file is in a data set on the Hub, as whoever follows a job may ask",
    )
    command.add_argument("--upload", action="store_true", help="copy local data to a private data set for the job")
    command.set_defaults(run_command=train)

    command = commands.add_parser("data", help="look at a data set, or pack it as a ZIP")
    actions = command.add_subparsers(metavar="ACTION", required=True)
    action = actions.add_parser(
        "report",
        help="what is in it, and what is wrong with it",
        description="What is in a data set: pictures of each class, damaged files, duplicates, other things to know.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_source(action)
    action.add_argument("--json", action="store_true", help="one JSON object")
    action.set_defaults(run_command=data_report)
    action = actions.add_parser(
        "export",
        help="pack it as a ZIP of class folders",
        description="Pack a data set as a ZIP of class folders, the pictures as they are.",
    )
    _add_source(action)
    action.add_argument("target", type=Path, metavar="ZIP", help="the file to write")
    action.add_argument("--json", action="store_true", help="one JSON object")
    action.set_defaults(run_command=data_export)

    command = commands.add_parser(
        "convert",
        help="make a checkpoint folder of someone else's weights",
        description="Make a checkpoint folder of weights as torchvision, timm or the CIFAR repositories save them. It "
        "says what was recognised and assumed, and why. Of a pickle only tensors and plain values are read.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("file", type=Path, metavar="FILE", help="weights: .safetensors, or a pickle (.pth, .pt, .bin)")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder to write")
    command.add_argument(
        "--layout", choices=("auto", "torchvision", "timm", "cifar"), default="auto", help="default: auto"
    )
    command.add_argument("--architecture", choices=VARIANTS, metavar="NAME", help="refuse any other, such as resnet50")
    choice = command.add_mutually_exclusive_group()
    choice.add_argument("--labels", metavar="LABELS", help="a text file with one a line, or a,b,c")
    choice.add_argument("--labels-from", choices=LABEL_SETS, help="those of a well-known data set")
    command.add_argument("--image-size", type=_count, metavar="N", help="pixels of a side")
    command.add_argument("--mean", type=_numbers, metavar="A,B,C", help="of each channel, for pixels in 0..1")
    command.add_argument("--std", type=_numbers, metavar="A,B,C", help="of each channel, for pixels in 0..1")
    command.add_argument("--shortcut", choices=("A", "none"), help="of a network without weights in its shortcuts")
    command.add_argument("--stride-in-1x1", action="store_true", help="bottlenecks as in the paper (V1), not V1.5")
    command.set_defaults(run_command=convert)

    command = commands.add_parser(
        "export",
        help="write a checkpoint folder's ONNX files",
        description="Write a network as ONNX for programs without PyTorch: onnx/model.onnx in its checkpoint folder, "
        "checked against PyTorch, and onnx/model_quantized.onnx where `resnet-hub quantize` has calibrated it.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder")
    command.set_defaults(run_command=export)

    command = commands.add_parser(
        "quantize",
        help="calibrate a model for int8",
        description="Calibrate a model for int8 on real pictures, measure what that costs, and keep it in the "
        "checkpoint folder where it is no more than half a point of accuracy.",
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder")
    command.add_argument(
        "--calibrate",
        required=True,
        metavar="DATA",
        help="folder or ZIP of class folders, folder of parquet files, or data set on the Hub",
    )
    command.add_argument("--split", help="to measure on (default: the first of validation, test, train that exists)")
    _add_data_names(command, "--data-revision")
    command.add_argument("--force", action="store_true", help="keep it also where more is lost")
    command.set_defaults(run_command=quantize)

    command = commands.add_parser(
        "push",
        help="upload a checkpoint folder to the Hub",
        description="Upload a checkpoint folder to the Hub, in one commit, as the user that `hf auth login` knows.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder")
    command.add_argument("repo", metavar="REPO", help="user/name; made if it is missing")
    command.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether only you see a repo that is made (default: as your account has it)",
    )
    command.add_argument("--branch", help="branch to commit to; made if it is missing")
    command.add_argument("--create-pr", action="store_true", help="open a pull request, where you may not write")
    command.add_argument("--message", help="of the commit")
    command.set_defaults(run_command=push)

    command = commands.add_parser("info", help="describe a model", description="Describe a model, without loading it.")
    command.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    command.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.add_argument("--subfolder", default="", help="of a repo that holds several models")
    command.set_defaults(run_command=info)

    command = commands.add_parser(
        "search",
        help="find ResNets on the Hub",
        description="Find ResNets on the Hub by their names: ours, timm's and transformers', as far as they open here.",
    )
    command.add_argument("text", metavar="TEXT", help="a word in the name, such as flowers")
    command.add_argument("--limit", type=_count, default=20, metavar="N", help="models to look at (default: 20)")
    command.add_argument("--json", action="store_true", help="a JSON object a line")
    command.set_defaults(run_command=search)
    return parser


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", metavar="DATA", help="folder or ZIP of class folders, folder of parquet files, or data set on the Hub"
    )
    command.add_argument("--split", help="what to train on, such as train[:10%%]; parquet and the Hub only")
    _add_data_names(command, "--revision", "--data-revision")


def _add_data_names(command: argparse.ArgumentParser, *revision: str) -> None:
    """What of a data set is read: of parquet and the Hub, where a class folder has no names for it."""
    command.add_argument("--subset", help="of a data set, parquet or on the Hub, that has several")
    command.add_argument("--image-column", help="default: the one with pictures")
    command.add_argument("--label-column", help="default: the one with classes")
    command.add_argument(*revision, dest="data_revision", help="branch, tag or commit of a data set on the Hub")


def _add_settings(command: argparse.ArgumentParser) -> None:
    """An option for each field of `TrainConfig`, with the help in its metadata."""
    from dataclasses import fields

    from resnet_hub.training.config import TrainConfig

    helps = {field.name: field.metadata["help"] for field in fields(TrainConfig)}
    for key, hint in get_type_hints(TrainConfig).items():
        kind = next(kind for kind in [*get_args(hint), hint] if isinstance(kind, type) or get_origin(kind) is Literal)
        kind = hint if get_origin(hint) is Literal else kind
        options: dict[str, Any] = {"help": helps[key].replace("%", "%%"), "dest": key}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is Literal:
            options["choices"] = get_args(kind)
        else:
            options |= {"type": kind, "metavar": key.upper()}
        default = getattr(TrainConfig, key, None)
        if default is not None:
            options["help"] += f" (default: {default})".lstrip("" if options["help"] else " ")
        also = ["--out"] if key == "run" else []  # as other programs call the folder that they write
        command.add_argument(f"--{key.replace('_', '-')}", *also, **options)


@contextmanager
def _counting() -> "Iterator[Callable[[int, int], None]]":
    """A bar on a terminal, and what moves it: called with how many pictures are done, and of how many."""
    from tqdm import tqdm

    with tqdm(unit=" pictures", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _pictures(item: Path) -> list[Path]:
    """The pictures of a folder; what is none, or holds none, as it is: the classifier says what is wrong with it."""
    from resnet_hub.images.load import list_images

    try:
        return (list_images(item) if item.is_dir() else []) or [item]
    except OSError:
        return [item]


def _model(arguments: argparse.Namespace) -> str | Path:
    if arguments.model is None and not DEFAULT_MODEL.is_dir():
        raise CheckpointError(
            "No model came with this installation; name a folder, or a model on the Hub as user/name."
        )
    return arguments.model or DEFAULT_MODEL


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0.5,0.5,0.5") from None


def _shown(text: str | Path) -> str:
    """`text` on one line, without codes that a terminal would obey."""
    text = str(text)
    return text if text.isprintable() else ascii(text)
