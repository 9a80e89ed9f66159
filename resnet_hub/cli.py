"""The terminal: `resnet-hub COMMAND`, or `python -m resnet_hub COMMAND`. One function a command.

What a command needs is imported inside it, so that `--help` and `info` answer before torch would be loaded.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_hub import __version__
from resnet_hub.errors import CheckpointError, ImageError, ResNetHubError

DEFAULT_MODEL = Path(__file__).parents[1] / "weights" / "resnet20-cifar10"  # comes with the repository
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
        return arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; nothing more may be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ResNetHubError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def predict(arguments: argparse.Namespace) -> int:
    """Print the likeliest labels of each picture."""
    from tqdm import tqdm

    from resnet_hub.classifier import Classifier

    classify = Classifier.from_pretrained(_model(arguments), revision=arguments.revision, device=arguments.device)
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
    from tqdm import tqdm

    from resnet_hub import evaluation
    from resnet_hub.classifier import Classifier

    classify = Classifier.from_pretrained(arguments.model, revision=arguments.revision, device=arguments.device)
    with tqdm(unit=" pictures", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = evaluation.evaluate(
            classify,
            arguments.data,
            split=arguments.split,
            tta=arguments.tta,
            skip_unreadable=arguments.skip_unreadable,
            progress=progress,
        )
    print(found.to_json() if arguments.json else found.to_text(), end="")
    return 1 if found.skipped else 0


def info(arguments: argparse.Namespace) -> int:
    """Print what a model is made of and how good it is."""
    from resnet_hub.card import read_metrics
    from resnet_hub.hub import read_card, read_config

    model = _model(arguments)
    config = read_config(model, revision=arguments.revision)
    metrics = read_metrics(read_card(model, revision=arguments.revision) or "")
    if arguments.json:
        facts = {
            "model": str(model),
            "architecture": config.architecture,
            "num_parameters": config.num_parameters,
            "multiply_adds": config.multiply_adds,
            "resize_size": config.resize_size,
            "metrics": [metric._asdict() for metric in metrics],
            "config": config.to_dict(),
        }
        print(json.dumps(facts, indent=2))
        return 0

    more = ", ..." if config.num_classes > _SOME else ""
    rows = [
        ("model", str(model)),
        ("architecture", config.architecture),
        ("blocks", f"{' + '.join(map(str, config.depths))} {config.block}, shortcut {config.shortcut}"),
        ("parameters", f"{config.num_parameters:,}"),
        ("multiply-adds", f"{config.multiply_adds:,} a picture"),
        ("labels", f"{config.num_classes}{': ' if config.labels else ''}{', '.join(config.labels[:_SOME])}{more}"),
        ("resize", f"short side to {config.resize_size} pixels, {config.interpolation}"),
        ("crop", f"{config.image_size} x {config.image_size} pixels from the centre"),
        ("mean", ", ".join(f"{value:g}" for value in config.mean)),
        ("std", ", ".join(f"{value:g}" for value in config.std)),
        *((metric.name, f"{metric.value:g} on {metric.dataset}") for metric in metrics),
    ]
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        print(f"{_shown(key):{width}}  {_shown(value)}")
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
    command.add_argument("--json", action="store_true", help="a JSON object a line")
    command.set_defaults(run=predict)

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
    command.add_argument("--split", help="which split (default: the first of validation, test, train that exists)")
    command.add_argument("--tta", action="store_true", help="the mean over each picture and its mirror image")
    command.add_argument("--skip-unreadable", action="store_true", help="leave out pictures that cannot be read")
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the fastest present)")
    command.add_argument("--json", action="store_true", help="one JSON object, the confusion matrix included")
    command.set_defaults(run=evaluate)

    command = commands.add_parser("info", help="describe a model", description="Describe a model, without loading it.")
    command.add_argument("model", nargs="?", metavar="MODEL", help=_MODEL_HELP)
    command.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=info)
    return parser


def _pictures(item: Path) -> list[Path]:
    """The pictures of a folder; what is none, or holds none, as it is: the classifier says what is wrong with it."""
    from resnet_hub.images import list_images

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


def _shown(text: str | Path) -> str:
    """`text` on one line, without codes that a terminal would obey."""
    text = str(text)
    return text if text.isprintable() else ascii(text)
