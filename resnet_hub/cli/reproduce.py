"""`resnet-hub reproduce`: run the experiments of the papers again."""

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resnet_hub.cli import options, output
from resnet_hub.errors import AnalysisError, DataError, HubError

if TYPE_CHECKING:
    from resnet_hub.analysis.experiment_report import Report

_DATA = "uoft-cs/cifar10"
_MODELS = ("resnet56-cifar10", "plain56-cifar10")  # included models
# Sizes of the smaller versions
_FAST_GRADIENTS = {"width": 64, "inputs": 48, "draws": 4}
_FAST_IDENTITY = {"blocks": 3, "steps": 150}
_FAST_PATHS = {"samples": 2}
_FAST_TRAINING = {"width": 8, "steps": 100}
_COMPUTED = {  # options of what is computed, with their defaults
    **{"fast": False, "data": _DATA, "model": None, "split": None, "jpeg_quality": None},
    **{"images": 1000, "draws": 5, "seed": 0, "seeds": 1, "work": Path("runs/cifar")},
}


def add_parsers(commands: options.Commands) -> None:
    parser = commands.add_parser(
        "reproduce", help="run experiments of the papers again", description="Run an experiment of the papers again."
    )
    claims = parser.add_subparsers(metavar="CLAIM", required=True)
    degradation = options.add_command(claims, "degradation", run_degradation, "deeper plain networks are worse")
    shortcuts = options.add_command(claims, "shortcuts", run_shortcuts, "shortcuts A, B, C and none")
    lesion = options.add_command(claims, "lesion", run_lesion, "networks without some of their blocks")
    gradients = options.add_command(claims, "shattered-gradients", run_gradients, "gradients at initialization")
    identity = options.add_command(claims, "identity", run_identity, "learning the identity")
    paths = options.add_command(claims, "paths", run_paths, "path lengths, and the share of the gradient of each")
    tables = options.add_command(claims, "tables", run_tables, "tables 1 and 6 of the paper beside ours")
    for training in (degradation, shortcuts):
        training.add_argument("--data", default=_DATA, help=f"{options.DATA_HELP} (default: {_DATA}); not with --fast")
        help_text = "folder of the trainings, which resumes them (default: runs/cifar)"
        training.add_argument("--work", type=Path, default=Path("runs/cifar"), metavar="FOLDER", help=help_text)
        options.add_count(training, "--seeds", 1, "trainings of each network")
    lesion.add_argument("--data", default=_DATA, help=f"{options.DATA_HELP} (default: {_DATA})")
    lesion.add_argument("--split", help=options.SPLIT_HELP)
    help_text = f"checkpoint folders, Hub models or included models (default: {' '.join(_MODELS)})"
    lesion.add_argument("--model", nargs="+", metavar="MODEL", help=help_text)
    options.add_count(lesion, "--images", 1000, "images to evaluate on")
    options.add_count(lesion, "--draws", 5, "random choices for each point of the curves")
    help_text = "encode the images again as JPEG, as for the recorded networks: 75"
    lesion.add_argument("--jpeg-quality", type=options.parse_positive_int, metavar="Q", help=help_text)
    help_text = f"{options.MODEL_HELP} (default: {_MODELS[0]})"
    paths.add_argument("--model", metavar="MODEL", help=help_text)
    paths.add_argument("--image", type=Path, metavar="IMAGE", help="image to measure on (default: random numbers)")
    for recorded in (degradation, shortcuts, lesion, tables):
        help_text = (
            "compute nothing: print what is recorded, in this package or in a folder such as runs/cifar/histories"
        )
        settings: dict[str, Any] = {"type": Path, "nargs": "?", "const": True, "metavar": "FOLDER"}
        recorded.add_argument("--recorded", default=True if recorded is tables else None, help=help_text, **settings)
    options.add_json(tables)
    for parser in (degradation, shortcuts, lesion, gradients, identity, paths):
        parser.add_argument("--fast", action="store_true", help="a smaller version")
        parser.add_argument("--seed", type=_parse_seed, default=0, help="random seed (default: 0)")
        parser.add_argument("--plots", type=Path, metavar="FOLDER", help="also write plots into this folder")
        options.add_json(parser)


def run_degradation(arguments: options.Arguments) -> int:
    """Train plain and residual networks of 20 and 56 layers on CIFAR-10 and compare their errors: hours of one thread.

    With --fast: networks of 8 and 32 layers on made-up images, in minutes. With --recorded: what was trained before.
    """
    from resnet_hub.analysis.cifar_claims import reproduce_degradation

    return _reproduce_training(reproduce_degradation, arguments, {"layers": (8, 32)})


def run_shortcuts(arguments: options.Arguments) -> int:
    """Train networks of 20 layers with shortcuts A, B, C and none on CIFAR-10: hours of one thread.

    With --fast: networks of 14 layers on made-up images, in minutes. With --recorded: what was trained before.
    """
    from resnet_hub.analysis.cifar_claims import reproduce_shortcuts

    return _reproduce_training(reproduce_shortcuts, arguments, {"layers": 14})


def run_lesion(arguments: options.Arguments) -> int:
    """Measure the accuracy after removing one block, several blocks, or swapping blocks.

    With --fast: 200 images, and no curves. With --recorded: what was measured before, of all networks over their seeds.
    """
    from resnet_hub.analysis.cifar_claims import report_lesions, reproduce_lesion
    from resnet_hub.analysis.lesion_records import list_lesions
    from resnet_hub.model import ResNet

    if arguments.recorded:
        _check_recorded(arguments)
        return _print_report(report_lesions(list_lesions(_get_folder(arguments))), arguments)
    sources = dict.fromkeys(arguments.model or _find_models())
    are_distinct = len({Path(source).name for source in sources}) == len(sources)
    models = {Path(source).name if are_distinct else source: ResNet.from_pretrained(source) for source in sources}
    sizes = {"images": 200, "curves": False} if arguments.fast else options.select(arguments, "images", "draws")
    source = options.select(arguments, "data", "split", "jpeg_quality")
    with output.show_progress("networks") as progress:
        try:
            report = reproduce_lesion(models, seed=arguments.seed, progress=progress, **source, **sizes)
        except HubError as error:
            raise DataError(f"{error} Or name a copy of the images with --data.") from None
    return _print_report(report, arguments)


def run_gradients(arguments: options.Arguments) -> int:
    """Measure how gradients at different inputs correlate, by depth, in random plain and residual networks."""
    from resnet_hub.analysis.claims import reproduce_shattered_gradients

    sizes = _FAST_GRADIENTS if arguments.fast else {}
    with output.show_progress("networks") as progress:
        report = reproduce_shattered_gradients(seed=arguments.seed, progress=progress, **sizes)
    return _print_report(report, arguments)


def run_identity(arguments: options.Arguments) -> int:
    """Train a plain and a residual stack of layers to represent the identity, and a function near it."""
    from resnet_hub.analysis.claims import reproduce_identity

    sizes = _FAST_IDENTITY if arguments.fast else {}
    with output.show_progress("steps") as progress:
        report = reproduce_identity(seed=arguments.seed, progress=progress, **sizes)
    return _print_report(report, arguments)


def run_paths(arguments: options.Arguments) -> int:
    """Measure the share of the gradient that the paths of each length carry.

    With --fast: 2 random paths of each length in place of 8.
    """
    import torch

    from resnet_hub.analysis.path_claims import reproduce_paths
    from resnet_hub.images.load import load_image
    from resnet_hub.images.transforms import eval_transform
    from resnet_hub.model import ResNet

    source = arguments.model or _find_models(_MODELS[:1])[0]
    model = ResNet.from_pretrained(source)
    if arguments.image:
        images = eval_transform(model.config)(load_image(arguments.image)).unsqueeze(0)
    else:
        shape = (1, model.config.in_channels, model.config.image_size, model.config.image_size)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(arguments.seed))
    data = arguments.image.name if arguments.image else "random numbers"
    sizes = _FAST_PATHS if arguments.fast else {}
    report = reproduce_paths(Path(source).name, model, images, data=data, seed=arguments.seed, **sizes)
    return _print_report(report, arguments)


def run_tables(arguments: options.Arguments) -> int:
    """Put tables 1 and 6 of the paper beside our networks and recorded trainings. Nothing is computed."""
    from resnet_hub.analysis.cifar import list_records
    from resnet_hub.analysis.cifar_claims import reproduce_tables

    return _print_report(reproduce_tables(list_records(_get_folder(arguments))), arguments)


def _reproduce_training(
    reproduce: "Callable[..., Report]", arguments: options.Arguments, fast_sizes: dict[str, Any]
) -> int:
    from resnet_hub.analysis.cifar import list_records

    if arguments.recorded:
        _check_recorded(arguments)
        return _print_report(reproduce(records=list_records(_get_folder(arguments))), arguments)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    if arguments.fast:
        sizes = fast_sizes | _FAST_TRAINING
    else:
        sizes = options.select(arguments, "data", "work") | {"command": _format_command(arguments)}
    with output.show_progress("steps" if arguments.fast else "networks") as progress:
        report = reproduce(seeds=seeds, progress=progress, **sizes)
    return _print_report(report, arguments)


def _format_command(arguments: options.Arguments) -> str:
    """The command of a training, for its record."""
    values = {name: str(getattr(arguments, name)) for name in ("data", "work", "seeds", "seed")}
    words = [word for name, value in values.items() for word in (f"--{name}", value)]
    return shlex.join(["resnet-hub", "reproduce", arguments.run_command.__name__.removeprefix("run_"), *words])


def _check_recorded(arguments: options.Arguments) -> None:
    """Raise `AnalysisError` for options of a computation beside --recorded, which computes nothing."""
    for name, default in _COMPUTED.items():
        if getattr(arguments, name, default) != default:
            option = name.replace("_", "-")
            raise AnalysisError(f"--{option} has no effect with --recorded. Leave out one of them.")


def _get_folder(arguments: options.Arguments) -> Path | None:
    """The folder of --recorded; None: the records that ship with the package."""
    folder: Path | Literal[True] = arguments.recorded
    if folder is True:
        return None
    if not folder.is_dir():
        raise AnalysisError(f"There is no folder {folder}. Name the folder histories of a training's work folder.")
    return folder


def _find_models(names: Sequence[str] = _MODELS) -> list[Path]:
    from resnet_hub.included_models import INCLUDED_FOLDER

    folders = [INCLUDED_FOLDER / name for name in names]
    missing = [folder.name for folder in folders if not folder.is_dir()]
    if len(missing) == len(folders):
        raise AnalysisError(f"This installation has no {' and no '.join(missing)}. Name models with --model.")
    if missing:
        print(f"This installation has no {missing[0]}. Name another network with --model.", file=sys.stderr)
    return [folder for folder in folders if folder.is_dir()]


def _print_report(report: "Report", arguments: options.Arguments) -> int:
    if plots := getattr(arguments, "plots", None):
        from resnet_hub.analysis.experiment_report import plot_chart

        plots.mkdir(parents=True, exist_ok=True)
        for name, chart in report.charts.items():
            plot_chart(chart).save(plots / f"{report.claim}-{name}.png")
    print(report.to_json() if arguments.json else report.to_text(), end="")
    return 0


def _parse_seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed, a number from 0 to 2147483647")
    return int(text)
