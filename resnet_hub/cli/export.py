"""`resnet-hub export`: ONNX files of a checkpoint folder."""

from pathlib import Path

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.cli.output import escape


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "export", run, "write the ONNX files of a checkpoint folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder")


def run(arguments: Arguments) -> int:
    """Write onnx/model.onnx into a checkpoint folder, checked against PyTorch.

    Writes onnx/model_quantized.onnx too, if `resnet-hub quantize` has calibrated the model.
    """
    from resnet_hub.inference.onnx_export import export_onnx

    for path in export_onnx(arguments.folder):
        print(f"{escape(path)}  {path.stat().st_size / 1e6:.1f} MB")
    return 0
