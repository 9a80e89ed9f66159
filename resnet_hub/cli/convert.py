"""`resnet-hub convert`: a checkpoint folder from the weights of another library."""

from pathlib import Path

from resnet_hub.cli import options
from resnet_hub.cli.options import Arguments, Commands
from resnet_hub.cli.output import print_table
from resnet_hub.config import VARIANTS
from resnet_hub.convert.state_dict import LABEL_SETS


def add_parser(commands: Commands) -> None:
    parser = options.add_command(commands, "convert", run, "create a checkpoint folder from weights of another library")
    parser.add_argument("file", type=Path, metavar="FILE", help="weights: .safetensors, or a pickle (.pth, .pt, .bin)")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="checkpoint folder to write")
    parser.add_argument(
        "--layout", choices=("auto", "torchvision", "timm", "cifar"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--architecture", choices=VARIANTS, metavar="NAME", help="raise an error for any other, such as resnet50"
    )
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--labels", metavar="LABELS", help="a text file with one label per line, or a,b,c")
    labels.add_argument("--labels-from", choices=LABEL_SETS, help="the labels of a well-known dataset")
    parser.add_argument("--image-size", type=options.parse_positive_int, metavar="N", help="pixels per side")
    parser.add_argument("--mean", type=options.parse_floats, metavar="A,B,C", help="per channel, for pixels in 0..1")
    parser.add_argument("--std", type=options.parse_floats, metavar="A,B,C", help="per channel, for pixels in 0..1")
    parser.add_argument(
        "--shortcut", choices=("A", "none"), help="shortcut of a network that has no weights in its shortcuts"
    )
    parser.add_argument(
        "--stride-in-1x1", action="store_true", help="bottlenecks have their stride in the 1x1 convolution (V1)"
    )


def run(arguments: Arguments) -> int:
    """Create a checkpoint folder from weights of torchvision, timm or the CIFAR repositories.

    Prints what was recognised or assumed, and why. Only tensors and plain values are read from a pickle.
    """
    from resnet_hub.checkpoints.folder import save_checkpoint
    from resnet_hub.checkpoints.load import read_card
    from resnet_hub.checkpoints.model_card import is_generated
    from resnet_hub.convert.state_dict import convert_state_dict, known_label_set, read_label_file, read_state_dict
    from resnet_hub.model import ResNet

    labels = read_label_file(arguments.labels) if arguments.labels is not None else None
    labels = known_label_set(arguments.labels_from) if arguments.labels_from else labels
    keys = ("architecture", "shortcut", "stride_in_1x1", "image_size", "mean", "std")
    settings = {key: getattr(arguments, key) for key in keys}
    settings["layout"] = None if arguments.layout == "auto" else arguments.layout
    config, weights, notes = convert_state_dict(
        read_state_dict(arguments.file), arguments.file, labels=labels, **settings
    )
    print_table(notes)
    folder = arguments.folder.expanduser()
    old_card = read_card(folder) if folder.is_dir() else None
    if old_card and is_generated(old_card):  # it describes the old weights; a card that a person edited is kept
        old_card = None
    ResNet.from_pretrained(save_checkpoint(folder, config, weights, old_card=old_card))
    print_table([("saved", f"{folder} (and loaded again as a check)")])
    return 0
