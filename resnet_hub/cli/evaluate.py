"""`resnet-hub evaluate`: measure a model on labelled images."""

from resnet_hub.cli import options, output


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "evaluate", run, "evaluate a model on labelled images")
    parser.add_argument("model", type=options.parse_model, metavar="MODEL", help=options.MODEL_HELP)
    options.add_revision(parser)
    parser.add_argument("--data", required=True, help=options.DATA_HELP)
    slices = "of parquet files and Hub datasets also a slice: test[:500]"
    parser.add_argument("--split", help=f"{options.SPLIT_HELP}; {slices}")
    options.add_dataset_options(parser, "--data-revision")
    parser.add_argument("--tta", action="store_true", help="average the scores of each image and its mirror image")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    options.add_device(parser)
    options.add_json(parser, "one JSON object, with the confusion matrix")


def run(arguments: options.Arguments) -> int:
    """Print accuracy, calibration error, metrics per class, and the most confident mistakes of a model."""
    from resnet_hub.evaluation.evaluate import evaluate
    from resnet_hub.inference.classifier import Classifier

    classify = Classifier.from_pretrained(arguments.model, **options.select(arguments, "revision", "device"))
    settings = options.select(arguments, "split", "tta", "skip_unreadable")
    names = options.get_dataset_options(arguments)
    with output.show_progress() as progress:
        evaluation = evaluate(classify, arguments.data, names=names, progress=progress, **settings)
    print(evaluation.to_json() if arguments.json else evaluation.to_text(), end="")
    return 1 if evaluation.skipped else 0
