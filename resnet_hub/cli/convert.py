"""`resnet-hub convert`: create a checkpoint folder from the weights of another library."""

from contextlib import suppress
from pathlib import Path

from resnet_hub.cli import options, output
from resnet_hub.config import VARIANTS, parse_json_object
from resnet_hub.convert.config_json import LABEL_SETS, read_label_file, read_label_set
from resnet_hub.errors import ConfigError


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "convert", run, "create a checkpoint folder from weights of another library")
    parser.add_argument("file", type=Path, metavar="FILE", help="weights: safetensors, or a pickle (.pth, .pt, .bin)")
    options.add_folder(parser, "checkpoint folder to write")
    libraries = ("auto", "torchvision", "timm", "cifar")
    parser.add_argument("--library", choices=libraries, default="auto", help="default: auto")
    help_text = "the expected architecture, such as resnet50; any other is an error"
    parser.add_argument("--architecture", choices=VARIANTS, metavar="NAME", help=help_text)
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--labels", metavar="LABELS", help="a text file with one label per line, or a,b,c")
    labels.add_argument("--labels-from", choices=LABEL_SETS, help="the labels of a well-known dataset")
    parser.add_argument("--image-size", type=options.parse_positive_int, metavar="N", help="pixels per side")
    for option in ("--mean", "--std"):
        parser.add_argument(option, type=options.parse_floats, metavar="A,B,C", help="per channel, for pixels in 0..1")
    help_text = "of several networks in the file: ema, raw, or a name such as teacher (default: averaged weights)"
    parser.add_argument("--weights", dest="choice", metavar="NAME", help=help_text)
    help_text = "leave out tensors that do not belong to the network, such as those of another head"
    parser.add_argument("--ignore", action="store_true", help=help_text)
    help_text = "shortcut of a network that has no weights in its shortcuts"
    parser.add_argument("--shortcut", choices=("A", "none"), help=help_text)
    help_text = "bottlenecks have their stride in the 1x1 convolution (V1)"
    parser.add_argument("--stride-in-1x1", action="store_true", help=help_text)


def run(arguments: options.Arguments) -> int:
    """Create a checkpoint folder from weights of torchvision, timm or the CIFAR repositories.

    Prints the detected and the assumed settings with their reasons. Only tensors and plain values are read from a
    pickle.
    """
    from resnet_hub.checkpoints.load import read_card
    from resnet_hub.checkpoints.model_card import is_generated
    from resnet_hub.checkpoints.save import CONFIG_FILE, save_checkpoint
    from resnet_hub.convert.state_dict import convert_state_dict
    from resnet_hub.convert.weights_file import check_settings, read_state_dict
    from resnet_hub.model import ResNet

    labels = read_label_file(arguments.labels) if arguments.labels is not None else None
    labels = read_label_set(arguments.labels_from) if arguments.labels_from else labels
    settings = options.select(arguments, "architecture", "shortcut", "stride_in_1x1", "image_size", "mean", "std")
    settings |= options.select(arguments, "choice", "ignore")
    settings |= {"library": None if arguments.library == "auto" else arguments.library, "labels": labels}
    settings_file = arguments.file.expanduser().with_name(CONFIG_FILE)
    with suppress(OSError, ConfigError):  # not of timm or transformers, whose configs say what the weights cannot
        check_settings(parse_json_object(settings_file.read_bytes(), str(settings_file)), settings_file)
    config, weights, notes = convert_state_dict(read_state_dict(arguments.file), arguments.file, **settings)
    output.print_table(notes)
    folder = arguments.folder.expanduser()
    old_card = read_card(folder) if folder.is_dir() else None
    if old_card and is_generated(old_card):  # it describes the old weights; a card that a person edited is kept
        old_card = None
    ResNet.from_pretrained(save_checkpoint(folder, config, weights, old_card=old_card))
    output.print_table([("saved", f"{folder} (and loaded again as a check)")])
    return 0
