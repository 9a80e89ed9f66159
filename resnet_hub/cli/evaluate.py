"""`resnet-hub evaluate`: evaluate a model on labeled images."""

import argparse

from resnet_hub.cli import options, output


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "evaluate", run, "evaluate a model on labeled images", skips_images=True)
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    options.add_revision(parser)
    parser.add_argument("--data", required=True, help=options.DATA_HELP)
    slices = "of parquet files and Hub datasets also a slice: test[:500]"
    parser.add_argument("--split", help=f"{options.SPLIT_HELP}; {slices}")
    options.add_dataset_options(parser, "--data-revision")
    parser.add_argument("--tta", action="store_true", help="average the scores of each image and its mirror image")
    help_text = "average the scores of corners and center of each image and its mirror image (10), as papers do"
    parser.add_argument("--crops", type=int, choices=(1, 10), default=1, help=help_text)
    help_text = "average the scores at these lengths of the short side, such as 224,256,384,480,640"
    parser.add_argument("--scales", type=_parse_scales, default=(), metavar="PIXELS", help=help_text)
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    options.add_device(parser)
    options.add_json(parser, "one JSON object, with the confusion matrix")


def _parse_scales(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of lengths such as 224,256") from None


def run(arguments: options.Arguments) -> int:
    """Print accuracy, calibration error, metrics per class, and the most confident mistakes of a model."""
    from resnet_hub.evaluation.evaluate import evaluate
    from resnet_hub.inference.classifier import Classifier

    classify = Classifier.from_pretrained(arguments.model, **options.select(arguments, "revision", "device"))
    settings = options.select(arguments, "split", "tta", "crops", "scales", "skip_unreadable")
    names = options.get_dataset_options(arguments)
    with output.show_progress() as progress:
        evaluation = evaluate(classify, arguments.data, names=names, progress=progress, **settings)
    print(evaluation.to_json() if arguments.json else evaluation.to_text(), end="")
    return 1 if evaluation.skipped else 0
