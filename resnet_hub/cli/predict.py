"""`resnet-hub predict`: label images."""

import json
import sys
from pathlib import Path

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.cli.output import escape
from resnet_hub.errors import ImageError


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "predict", run, "label images")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    options.add_optional_model(parser, "--model")
    parser.add_argument(
        "--top-k", type=options.parse_positive_int, default=5, metavar="N", help="labels per image (default: 5)"
    )
    parser.add_argument("--device", help=options.DEVICE_HELP)
    help_text = "default: auto, which is int8 if the model is calibrated for it and int8 is faster"
    parser.add_argument("--precision", choices=("auto", "fp32", "int8"), default="auto", help=help_text)
    parser.add_argument("--exact", action="store_true", help="decode large images at full size, which is slower")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def run(arguments: Arguments) -> int:
    """Print the most likely labels of each image, one line per image.

    Unreadable images are reported on stderr; the others are labelled.
    """
    from tqdm import tqdm

    from resnet_hub.inference.classifier import Classifier

    settings = {key: getattr(arguments, key) for key in ("revision", "device", "precision", "exact")}
    classify = Classifier.from_pretrained(options.choose_model(arguments), **settings)
    paths = [path for item in arguments.images for path in _list_images(item)]
    results = zip(paths, classify(iter(paths), top_k=arguments.top_k, errors="return"), strict=True)
    failures = 0
    for path, result in tqdm(results, total=len(paths), unit=" images", leave=False, disable=None):
        if isinstance(result, ImageError):
            failures += 1
            tqdm.write(f"skipped {escape(path)}: {result}", file=sys.stderr)
        elif arguments.json:
            tqdm.write(json.dumps({"file": str(path), "labels": result}))
        else:
            tqdm.write("  ".join([escape(path), *(f"{row['label']} {row['score']:.1%}" for row in result)]))
    return 1 if failures else 0


def _list_images(item: Path) -> list[Path]:
    """Return the images of a folder. Anything else is returned unchanged: the classifier reports what is wrong."""
    from resnet_hub.images.load import list_images

    try:
        return (list_images(item) if item.is_dir() else []) or [item]
    except OSError:
        return [item]
