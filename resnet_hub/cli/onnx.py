"""`resnet-hub export` and `resnet-hub quantize`: a model as ONNX files, in float32 and int8, or as a web page."""

from pathlib import Path

from resnet_hub.cli import options, output
from resnet_hub.errors import ResNetHubError, format_bytes


def add_parsers(commands: options.Commands) -> None:
    export = options.add_command(commands, "export", run_export, "write a model as ONNX files or as a web page")
    export.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", help="checkpoint folder")
    web = "write a web page to PATH, a folder or a ZIP (default: `web` in the checkpoint folder)"
    export.add_argument("--web", type=Path, metavar="PATH", nargs="?", const=Path(), help=web)
    runtime = "copy ONNX Runtime Web from this folder of its npm package (default: the page loads it from a CDN)"
    export.add_argument("--runtime", type=Path, metavar="DIR", help=runtime)
    quantize = options.add_command(commands, "quantize", run_quantize, "calibrate a model for int8")
    options.add_folder(quantize)
    quantize.add_argument("--calibrate", required=True, metavar="DATA", help=options.DATA_HELP)
    quantize.add_argument("--split", help=f"{options.SPLIT_HELP}; ranges come from the training split")
    options.add_dataset_options(quantize, "--data-revision")
    quantize.add_argument("--force", action="store_true", help="save the calibration even if int8 loses more accuracy")


def run_export(arguments: options.Arguments) -> int:
    """Write onnx/model.onnx into a checkpoint folder and compare its outputs with those of PyTorch.

    Writes onnx/model_quantized.onnx too, if `resnet-hub quantize` has calibrated the model.

    With --web, write a web page instead, which classifies photos in the browser; any static server can serve it.
    `--web FOLDER` alone names the checkpoint folder.
    """
    folder, web = arguments.folder, arguments.web
    if folder is None and web != Path():
        folder, web = web, Path()
    if folder is None:
        raise ResNetHubError("There is no checkpoint folder to export; name one, such as runs/flowers/model.")
    if arguments.web is None and arguments.runtime is not None:
        raise ResNetHubError("--runtime is for the web page; add --web.")
    if arguments.web is not None:
        from resnet_hub.inference.web_export import export_web

        print(output.escape(export_web(folder, None if web == Path() else web, runtime=arguments.runtime)))
        return 0
    from resnet_hub.inference.onnx_export import export_onnx

    for path in export_onnx(folder):
        print(f"{output.escape(path)}  {format_bytes(path.stat().st_size)}")
    return 0


def run_quantize(arguments: options.Arguments) -> int:
    """Calibrate a model for int8 on images and compare its accuracy with float32.

    The calibration is saved in the checkpoint folder unless int8 loses more than half a percentage point.
    """
    from resnet_hub.checkpoints.save import QUANTIZED_FILE
    from resnet_hub.inference.quantize import quantize

    settings = {"split": arguments.split, "names": options.get_dataset_options(arguments), "force": arguments.force}
    with output.show_progress() as progress:
        record = quantize(arguments.folder, arguments.calibrate, progress=progress, **settings)
    accuracies = f"{record.accuracy:.2%} in float32, {record.accuracy_int8:.2%} in int8, on the {record.data}"
    output.print_table([("accuracy", accuracies), ("saved", arguments.folder / QUANTIZED_FILE)])
    return 0
