"""`resnet-hub quantize`: calibrate a checkpoint folder for int8."""

from pathlib import Path

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.cli.output import image_progress, print_table


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "quantize", run, "calibrate a model for int8")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder")
    parser.add_argument("--calibrate", required=True, metavar="DATA", help=options.DATA_HELP)
    parser.add_argument("--split", help=options.SPLIT_HELP)
    options.add_dataset_options(parser, "--data-revision")
    parser.add_argument("--force", action="store_true", help="save the calibration even if int8 loses more")


def run(arguments: Arguments) -> int:
    """Calibrate a model for int8 on images and compare its accuracy with float32.

    The calibration is saved in the checkpoint folder unless int8 loses more than half a percentage point.
    """
    from resnet_hub.inference.onnx_export import QUANTIZED_FILE
    from resnet_hub.inference.quantize import quantize

    with image_progress() as progress:
        record = quantize(
            arguments.folder,
            arguments.calibrate,
            split=arguments.split,
            names=options.dataset_options(arguments),
            force=arguments.force,
            progress=progress,
        )
    accuracies = f"{record.accuracy:.2%} in float32, {record.accuracy_int8:.2%} in int8, on the {record.data}"
    print_table([("accuracy", accuracies), ("saved", arguments.folder / QUANTIZED_FILE)])
    return 0
