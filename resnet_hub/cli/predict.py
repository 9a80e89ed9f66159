"""`resnet-hub predict`: label images."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_hub.atomic import open_atomic
from resnet_hub.checkpoints.default_model import PREDICT_MODEL, choose_default_model
from resnet_hub.cli import options, output
from resnet_hub.errors import CheckpointError, ImageError
from resnet_hub.included_models import DEFAULT_MODEL_NAME

if TYPE_CHECKING:
    from resnet_hub.inference.classifier import Classifier, Prediction

_VERDICTS = {"sure": [], "not sure": ["Not sure:"], "none": ["None of these, most likely:"]}


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "predict", run, "label images", skips_images=True)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    default = f"RESNET_HUB_MODEL, or {PREDICT_MODEL} if it is cached or the Hub responds, or {DEFAULT_MODEL_NAME}"
    help_text = f"{options.MODEL_HELP} (default: {default})"
    parser.add_argument("--model", metavar="MODEL", help=help_text)
    options.add_revision(parser)
    options.add_count(parser, "--top-k", 5, "labels per image")
    options.add_device(parser)
    help_text = "default: auto, which is int8 if the model is calibrated for it and int8 is faster, else bf16 if that "
    help_text += "is faster and hardly changes labels"
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "int8"), default="auto", help=help_text)
    parser.add_argument("--exact", action="store_true", help="decode large images at full size, which is slower")
    form = parser.add_mutually_exclusive_group()
    options.add_json(form, "one JSON object per line")
    help_text = "write a table: file, label, score, verdict, the other labels of --top-k with their scores, error"
    form.add_argument("--csv", type=Path, metavar="FILE", help=help_text)


def run(arguments: options.Arguments) -> int:
    """Print the most likely labels of each image, one line per image, or write them to a CSV file.

    Unreadable images are reported on stderr, where the model is named too; the others are labeled.
    """
    from resnet_hub.checkpoints.model_card import read_heading
    from resnet_hub.inference.classifier import Classifier

    settings = options.select(arguments, "device", "precision", "exact")
    if arguments.model:
        classify = Classifier.from_pretrained(arguments.model, revision=arguments.revision, **settings)
    else:
        classify = _load_default_model(arguments, settings)
    if title := read_heading(classify.model.card or "").title:
        print(f"title: {output.escape(title)}", file=sys.stderr)
    paths = [path for item in arguments.images for path in _list_images(item)]
    unreadable: list[Path] = []
    results = _classify(classify, paths, arguments.top_k, unreadable)
    if arguments.csv:
        _write_csv(arguments.csv, results, min(arguments.top_k, classify.config.num_classes))
    else:
        _print_lines(results, arguments.json)
    return 1 if unreadable else 0


def _classify(
    classify: "Classifier", paths: list[Path], top_k: int, unreadable: list[Path]
) -> "Iterator[tuple[Path, Prediction | ImageError]]":
    """Yield the result of each image beside a progress bar; add those that cannot be read to `unreadable`."""
    from tqdm import tqdm

    results = zip(paths, classify(iter(paths), top_k=top_k, errors="return"), strict=True)
    for path, result in tqdm(results, total=len(paths), unit=" images", leave=False, disable=None):
        if isinstance(result, ImageError):
            unreadable.append(path)
            tqdm.write(f"skipped {output.escape(path)}: {result}", file=sys.stderr)
        yield path, result


def _print_lines(results: "Iterator[tuple[Path, Prediction | ImageError]]", as_json: bool) -> None:
    from tqdm import tqdm

    for path, result in results:
        if isinstance(result, ImageError):
            continue
        if as_json:
            tqdm.write(json.dumps({"file": str(path), "verdict": result.verdict, "labels": result}))
        else:
            labels = [f"{row['label']} {row['score']:.1%}" for row in result]
            tqdm.write("  ".join([output.escape(path), *_VERDICTS[result.verdict], *labels]))


def _write_csv(path: Path, results: "Iterator[tuple[Path, Prediction | ImageError]]", top_k: int) -> None:
    from resnet_hub.inference.prediction_table import write_csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "backslashreplace", newline="")
        write_csv(text, ((str(image), result) for image, result in results), top_k)
        text.detach()  # the file is still to be flushed


def _list_images(item: Path) -> list[Path]:
    """Return the images of a folder. Any other path is returned unchanged: the classifier explains what is wrong."""
    from resnet_hub.images.load import list_images

    try:
        return (list_images(item) if item.is_dir() else []) or [item]
    except OSError:
        return [item]


def _load_default_model(arguments: options.Arguments, settings: dict[str, Any]) -> "Classifier":
    """Load the model to use if the command names none, and print its name to stderr.

    It is the included one if the preferred one cannot serve, such as one with damaged weights or without a head.
    """
    from resnet_hub.inference.classifier import Classifier

    if arguments.revision:
        raise CheckpointError("--revision is a version of the Hub model that --model names. Add that, or leave it out.")
    loaded: list[Classifier] = []

    def load(source: str | Path) -> None:
        loaded.append(Classifier.from_pretrained(source, local_files_only=True, **settings))

    source, reason = choose_default_model("predict", check=load)
    if not loaded:
        load(source)
    print(f"using the included model {Path(source).name}: {reason}" if reason else f"model: {source}", file=sys.stderr)
    return loaded[0]
