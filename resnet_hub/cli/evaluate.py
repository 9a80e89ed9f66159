"""`resnet-hub evaluate`: measure a model on labelled images."""

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.cli.output import image_progress


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "evaluate", run, "evaluate a model on labelled images")
    parser.add_argument("model", metavar="MODEL", help=options.MODEL_HELP)
    options.add_revision(parser)
    parser.add_argument("--data", required=True, help=options.DATA_HELP)
    parser.add_argument(
        "--split", help=f"{options.SPLIT_HELP}; of parquet files and Hub datasets also a slice: test[:500]"
    )
    options.add_dataset_options(parser, "--data-revision")
    parser.add_argument("--tta", action="store_true", help="average the scores of each image and its mirror image")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--device", help=options.DEVICE_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object, with the confusion matrix")


def run(arguments: Arguments) -> int:
    """Print accuracy, calibration error, metrics per class, and the most confident mistakes of a model."""
    from resnet_hub.evaluation.evaluate import evaluate
    from resnet_hub.inference.classifier import Classifier

    classify = Classifier.from_pretrained(arguments.model, revision=arguments.revision, device=arguments.device)
    with image_progress() as progress:
        evaluation = evaluate(
            classify,
            arguments.data,
            split=arguments.split,
            names=options.dataset_options(arguments),
            tta=arguments.tta,
            skip_unreadable=arguments.skip_unreadable,
            progress=progress,
        )
    print(evaluation.to_json() if arguments.json else evaluation.to_text(), end="")
    return 1 if evaluation.skipped else 0
