"""`resnet-hub predict`: label images."""

import json
import sys
from pathlib import Path

from resnet_hub.bundled_models import DEFAULT_MODEL
from resnet_hub.checkpoints.default_model import PREDICT_MODEL, choose_default_model
from resnet_hub.cli import options, output
from resnet_hub.errors import CheckpointError, ImageError

_VERDICTS = {"sure": [], "not sure": ["Not sure:"], "none": ["None of these, most likely:"]}


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "predict", run, "label images")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    default = f"RESNET_HUB_MODEL, or {PREDICT_MODEL} if it is cached or the Hub answers, or {DEFAULT_MODEL}"
    help_text = f"{options.MODEL_HELP} (default: {default})"
    parser.add_argument("--model", type=options.parse_model, metavar="MODEL", help=help_text)
    options.add_revision(parser)
    options.add_count(parser, "--top-k", 5, "labels per image")
    options.add_device(parser)
    help_text = "default: auto, which is int8 if the model is calibrated for it and int8 is faster"
    parser.add_argument("--precision", choices=("auto", "fp32", "int8"), default="auto", help=help_text)
    parser.add_argument("--exact", action="store_true", help="decode large images at full size, which is slower")
    options.add_json(parser, "one JSON object per line")


def run(arguments: options.Arguments) -> int:
    """Print the most likely labels of each image, one line per image.

    Unreadable images are reported on stderr; the others are labelled.
    """
    from tqdm import tqdm

    from resnet_hub.inference.classifier import Classifier

    settings = options.select(arguments, "device", "precision", "exact")
    if arguments.model:
        classify = Classifier.from_pretrained(arguments.model, revision=arguments.revision, **settings)
    else:
        classify = Classifier.from_pretrained(_choose_default_model(arguments), local_files_only=True, **settings)
    paths = [path for item in arguments.images for path in _list_images(item)]
    results = zip(paths, classify(iter(paths), top_k=arguments.top_k, errors="return"), strict=True)
    failures = 0
    for path, result in tqdm(results, total=len(paths), unit=" images", leave=False, disable=None):
        if isinstance(result, ImageError):
            failures += 1
            tqdm.write(f"skipped {output.escape(path)}: {result}", file=sys.stderr)
        elif arguments.json:
            tqdm.write(json.dumps({"file": str(path), "verdict": result.verdict, "labels": result}))
        else:
            labels = [f"{row['label']} {row['score']:.1%}" for row in result]
            tqdm.write("  ".join([output.escape(path), *_VERDICTS[result.verdict], *labels]))
    return 1 if failures else 0


def _list_images(item: Path) -> list[Path]:
    """Return the images of a folder. Any other path is returned unchanged: the classifier explains what is wrong."""
    from resnet_hub.images.load import list_images

    try:
        return (list_images(item) if item.is_dir() else []) or [item]
    except OSError:
        return [item]


def _choose_default_model(arguments: options.Arguments) -> str | Path:
    """Return the model to use if the command names none, which is on this disk, and print its name to stderr."""
    if arguments.revision:
        raise CheckpointError("--revision is a version of the Hub model that --model names. Add that, or leave it out.")
    source, reason = choose_default_model("predict")
    text = f"model: {source}" if reason is None else f"using the included model {Path(source).name}: {reason}"
    print(text, file=sys.stderr)
    return source
