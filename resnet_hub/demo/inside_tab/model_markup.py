"""The chosen model of the Inside tab, as HTML: its drawing, feature maps, switches and lesions."""

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.analysis.anatomy import ModuleSummary, describe_anatomy
from resnet_hub.config import ResNetConfig
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate, translate_text
from resnet_hub.demo.svg_charts import make_chart, render_chart

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.analysis.block_effects import FeatureMaps
    from resnet_hub.model import ResNet


STRONGEST = 8  # feature maps of a block
_WIDTH, _PADDING, _TITLE = 284, 10, 24  # of the drawing, inside a stage, and of a stage's title
_BOX_WIDTH, _BOX_HEIGHT, _GAP, _PER_ROW = 48, 44, 6, 5  # a box is as large as a finger
_FEATURE_MAP_SIDE = 112  # pixels


def render_anatomy(config: ResNetConfig, request: gr.Request) -> str:
    """Render the model as SVG: a frame for each stage, and in it the blocks as buttons."""
    stages: list[dict[str, Any]] = []
    top = 0
    for _, group in groupby(describe_anatomy(config), key=lambda module: module.stage):
        modules = list(group)
        rows = -(-len(modules) // _PER_ROW)
        height = _TITLE + rows * (_BOX_HEIGHT + _GAP) - _GAP + _PADDING
        boxes = [_locate_box(module, index, top, request) for index, module in enumerate(modules)]
        stages.append({"top": top, "height": height, "title": _name_stage(modules, request), "boxes": boxes})
        top += height + _GAP
    sizes = {"width": _WIDTH, "height": top - _GAP, "box_width": _BOX_WIDTH, "box_height": _BOX_HEIGHT}
    sizes |= {"padding": _PADDING}
    return markup.render("anatomy.html", request, stages=stages, config=config, **sizes)


def _locate_box(module: ModuleSummary, index: int, top: int, request: gr.Request) -> dict[str, Any]:
    row, column = divmod(index, _PER_ROW)
    return {
        "name": module.name,
        "label": module.name.removeprefix("layer") if module.shortcut else _format_count(module.num_parameters),
        "amount": _format_count(module.num_parameters) if module.shortcut else "",
        "x": _PADDING + column * (_BOX_WIDTH + _GAP),
        "y": top + _TITLE + row * (_BOX_HEIGHT + _GAP),
        "keeps_shape": module.input_shape == module.output_shape,
        "description": f"{_name_module(module, request)}, {format_shape(module.output_shape)}",
    }


def _name_stage(modules: list[ModuleSummary], request: gr.Request) -> str:
    shape = format_shape(modules[-1].output_shape)
    if not modules[0].shortcut:
        return f"{_name_module(modules[0], request)} → {shape}"
    return translate(request, "inside_stage", stage=modules[0].stage, blocks=len(modules), shape=shape)


def _name_module(module: ModuleSummary, request: gr.Request) -> str:
    names = {"stem": "inside_stem", "head": "inside_head"}
    return translate(request, names[module.kind]) if module.kind in names else module.name


def format_shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _format_count(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def render_module(module: ModuleSummary, model: str, request: gr.Request) -> str:
    """Render the facts of a block, of the stem or of the head, and the command that prints them for the `model`."""
    texts = {
        "title": _name_module(module, request),
        "shapes": f"{format_shape(module.input_shape)} → {format_shape(module.output_shape)}",
        "multiply_adds": _format_count(module.multiply_adds),
        "convolutions": [translate_text(request, convolution) for convolution in module.convolutions],
        "shortcut": translate_text(request, module.shortcut),
        "source": translate(request, "semicolon").join(
            translate_text(request, part) for part in module.source.split("; ")
        ),
        "command": f"resnet-hub info {model} --image PHOTO",
    }
    return markup.render("block.html", request, module=module, **texts)


def render_feature_maps(feature_maps: "FeatureMaps", block: str, request: gr.Request) -> str:
    """Render the strongest feature maps of one image in a block, each from black (0) to white (its highest value)."""
    from PIL import Image

    images = []
    for channel, strength, values in zip(*(rows[0] for rows in feature_maps), strict=True):
        pixels = (values / values.max().clamp_min(1e-12) * 255).byte().numpy()
        image = Image.fromarray(pixels).resize((_FEATURE_MAP_SIDE, _FEATURE_MAP_SIDE), Image.Resampling.NEAREST)
        caption = translate(request, "inside_channel", channel=int(channel), strength=f"{float(strength):.2f}")
        images.append((image, caption))
    note = markup.render_text(translate(request, "inside_maps_note"))
    call = f'feature_maps(model, images, "{block}", strongest={STRONGEST})'
    hint = markup.render_hint(translate(request, "inside_python", call=call))
    return f"{markup.render_images(images, request, 'inside_maps')}{note}{hint}"


def render_ratios(ratios: Mapping[str, float], block: str, is_plain: bool, request: gr.Request) -> str:
    """Render how much each block changes its input, as a chart with one block marked."""
    values, index = list(ratios.values()), list(ratios).index(block)
    every, chosen = translate(request, "inside_all_blocks"), f"{block}: {ratios[block]:.2f}"
    lines = {every: (list(range(1, len(values) + 1)), values), chosen: ([index + 1], [values[index]])}
    axis, note = ("inside_ratio_axis", "inside_ratios_note")
    if is_plain:
        axis, note = ("inside_ratio_plain_axis", "inside_ratios_plain_note")
    return render_chart(make_chart(request, "inside_ratios", "inside_block_axis", axis, lines, note), request)


TOP = 5  # labels


def render_switches(config: ResNetConfig, request: gr.Request) -> str:
    """Render a switch for each block, by stage."""
    blocks = [module for module in describe_anatomy(config) if module.shortcut]
    stages = [
        (stage, [(module.name, module.input_shape == module.output_shape) for module in group])
        for stage, group in groupby(blocks, key=lambda module: module.stage)
    ]
    note = "inside_lesion_plain_note" if config.shortcut == "none" else "inside_lesion_note"
    return markup.render("switches.html", request, stages=stages, note=note)


def render_lesion(model: "ResNet", images: "Tensor", off: list[str], request: gr.Request) -> str:
    """Render the top labels without the blocks `off`, with their scores in the whole network and without."""
    import torch

    from resnet_hub.analysis.blocks import to_inputs
    from resnet_hub.analysis.lesions import remove_blocks

    with torch.inference_mode():
        images = to_inputs(model, images)
        whole, without = (
            network(images)[0].float().softmax(0) for network in (model, remove_blocks(model, off) if off else model)
        )
    labels = model.config.labels
    rows = [
        [markup.shorten_label(labels[index]), f"{whole[index]:.1%}", f"{without[index]:.1%}"]
        for index in without.topk(min(TOP, len(labels))).indices.tolist()
    ]
    best, still = (labels[int(scores.argmax())] for scores in (whole, without))
    key = "inside_lesion_same" if best == still else "inside_lesion_other"
    count = {"off": len(off), "blocks": sum(model.config.depths)}
    sentence = translate(request, key, **count, label=markup.shorten_label(best), other=markup.shorten_label(still))
    columns = [translate(request, name) for name in ("inside_label", "inside_whole", "inside_without")]
    return markup.render("lesion.html", request, columns=columns, rows=rows, sentence=sentence)
