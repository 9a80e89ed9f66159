"""`resnet-hub info`: describe a model without loading its weights. Imports no torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_hub.cli import options, output
from resnet_hub.errors import CheckpointError, HubError, format_bytes, list_some

if TYPE_CHECKING:
    from resnet_hub.analysis.anatomy import ModuleSummary
    from resnet_hub.config import ResNetConfig

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}  # by safetensors' names
_BYTES_PER_NUMBER = {"F16": 2, "BF16": 2, "F64": 8, "I64": 8}  # 4 for all others
_LABELS_SHOWN = 8


def add_parsers(commands: options.Commands) -> None:
    parser = options.add_command(commands, "info", run, "describe a model")
    options.add_optional_model(parser, "model", nargs="?")
    parser.add_argument("--subfolder", default="", help="folder of the model in a repository with several")
    help_text = "also describe each block, and how much it changes its input for this image (downloads the weights)"
    parser.add_argument("--image", type=Path, metavar="IMAGE", help=help_text)
    options.add_json(parser)


def run(arguments: options.Arguments) -> int:
    """Print the architecture, preprocessing, labels and metrics of a model. Only --image downloads its weights."""
    from resnet_hub.checkpoints.load import count_parameters_by_dtype, read_card, read_config
    from resnet_hub.checkpoints.model_card import read_heading, read_metrics

    model = options.choose_model(arguments)
    source = options.select(arguments, "revision", "subfolder")
    config = read_config(model, **source)
    card = read_card(model, **source) or ""
    metrics, heading = read_metrics(card), read_heading(card)
    try:
        counts = count_parameters_by_dtype(model, **source)
    except (CheckpointError, HubError):  # a config without weights, or its cached copy while the Hub is unreachable
        counts = {}
    size = sum(count * _BYTES_PER_NUMBER.get(dtype, 4) for dtype, count in counts.items())
    dtypes = ", ".join(sorted(_DTYPES[dtype] for dtype in counts.keys() & _DTYPES.keys()))
    anatomy = _analyze_image(model, arguments.image, source) if arguments.image else []
    if arguments.json:
        facts = {
            "model": str(model),
            "title": heading.title or None,
            "purpose": heading.purpose or None,
            "architecture": config.architecture,
            "num_parameters": config.num_parameters,
            "multiply_adds": config.multiply_adds,
            "resize_size": config.resize_size,
            "stored_as": dtypes or None,
            "bytes": size or None,
            "metrics": [metric._asdict() for metric in metrics],
            "config": config.to_dict(),
        }
        if anatomy:
            facts["anatomy"] = [module.to_dict() | {"residual_ratio": ratio} for module, ratio in anatomy]
        print(json.dumps(facts, indent=2))
        return 0
    rows = [("weights", f"{format_bytes(size)} of {dtypes or 'other types'}")] if counts else []
    rows += _describe_config(config)
    rows += [(metric.name, f"{metric.value:g} on {', '.join(filter(None, metric[2:]))}") for metric in metrics]
    described = [(key, text) for key, text in heading._asdict().items() if text]
    output.print_table([("model", str(model)), *described, *rows])
    if anatomy:
        _print_anatomy(anatomy)
    return 0


def _analyze_image(
    model: str | Path, image: Path, source: dict[str, Any]
) -> "list[tuple[ModuleSummary, float | None]]":
    """Return the modules of a model, each block with the norm of its residual over that of its shortcut."""
    from resnet_hub.analysis import describe_anatomy, residual_ratios
    from resnet_hub.images.load import load_image
    from resnet_hub.images.transforms import eval_transform
    from resnet_hub.model import ResNet

    network = ResNet.from_pretrained(model, **source)
    inputs = eval_transform(network.config)(load_image(image)).unsqueeze(0)
    ratios = residual_ratios(network, inputs)
    return [(module, ratios.get(module.name)) for module in describe_anatomy(network.config)]


def _print_anatomy(anatomy: "list[tuple[ModuleSummary, float | None]]") -> None:
    # A plain block has no residual: the ratio is that of the change of its input; see `residual_ratios`.
    ratio_head = "|y - x| / |x|" if any(module.shortcut == "none" for module, _ in anatomy) else "residual / shortcut"
    rows = [("module", "output", "parameters", "multiply-adds", "shortcut", ratio_head)]
    modules: dict[tuple[str, str], list[str]] = {}
    for module, ratio in anatomy:
        shape = " x ".join(map(str, module.output_shape))
        numbers = (f"{module.num_parameters:,}", f"{module.multiply_adds:,}")
        rows.append((module.name, shape, *numbers, module.shortcut, "" if ratio is None else f"{ratio:.2f}"))
        modules.setdefault((module.equation, module.source), []).append(module.name)
    print()
    output.print_table(rows, right=(2, 3))
    print()
    equations = [(list_some(names), *texts) for texts, names in modules.items()]
    output.print_table([("modules", "equation", "section"), *equations])


def _describe_config(config: "ResNetConfig") -> list[tuple[str, str]]:
    labels = ", ".join(config.labels[:_LABELS_SHOWN]) + (", ..." if config.num_classes > _LABELS_SHOWN else "")
    sides = "short side" if config.crop_mode == "center" else "both sides"
    return [
        ("architecture", config.architecture),
        ("blocks", f"{' + '.join(map(str, config.depths))} {config.block}, shortcut {config.shortcut}"),
        ("parameters", f"{config.num_parameters:,}"),
        ("multiply-adds", f"{config.multiply_adds:,} per image"),
        ("labels", f"{config.num_classes}{': ' if config.labels else ''}{labels}"),
        ("resize", f"{sides} to {config.resize_size} pixels, {config.interpolation}"),
        ("crop", f"{config.image_size} x {config.image_size} pixels from the center"),
        ("mean", ", ".join(f"{value:g}" for value in config.mean)),
        ("std", ", ".join(f"{value:g}" for value in config.std)),
    ]
