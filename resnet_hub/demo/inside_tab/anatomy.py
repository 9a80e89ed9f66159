"""The chosen model as a drawing, and what one of its blocks does to the visitor's photo."""

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import gradio as gr

from resnet_hub.analysis.anatomy import Part, describe_anatomy
from resnet_hub.analysis.plots import Chart
from resnet_hub.config import ResNetConfig
from resnet_hub.demo import markup
from resnet_hub.demo.charts import render_chart
from resnet_hub.demo.i18n import translate

if TYPE_CHECKING:
    from resnet_hub.analysis.maps import FeatureMaps

STRONGEST = 8  # feature maps of a block
_WIDTH, _PADDING, _TITLE = 284, 10, 24  # of the drawing, inside a room, and of a room's title
_BOX_WIDTH, _BOX_HEIGHT, _GAP, _PER_ROW = 48, 44, 6, 5  # a box is as large as a finger
_MAP_SIDE = 112  # pixels


def render_drawing(config: ResNetConfig, request: gr.Request) -> str:
    """Render the model as SVG: stages as rooms, blocks as boxes that one can press."""
    rooms: list[dict[str, Any]] = []
    top = 0
    for _, group in groupby(describe_anatomy(config), key=lambda part: part.stage):
        parts = list(group)
        rows = -(-len(parts) // _PER_ROW)
        height = _TITLE + rows * (_BOX_HEIGHT + _GAP) - _GAP + _PADDING
        boxes = [_place_box(part, index, top, request) for index, part in enumerate(parts)]
        rooms.append({"top": top, "height": height, "title": _name_room(parts, request), "boxes": boxes})
        top += height + _GAP
    sizes = {"width": _WIDTH, "height": top - _GAP, "box_width": _BOX_WIDTH, "box_height": _BOX_HEIGHT}
    sizes |= {"padding": _PADDING}
    return markup.render("anatomy.html", request, rooms=rooms, config=config, **sizes)


def _place_box(part: Part, index: int, top: int, request: gr.Request) -> dict[str, Any]:
    row, column = divmod(index, _PER_ROW)
    return {
        "name": part.name,
        "label": part.name.removeprefix("layer") if part.shortcut else _format_count(part.num_parameters),
        "amount": _format_count(part.num_parameters) if part.shortcut else "",
        "x": _PADDING + column * (_BOX_WIDTH + _GAP),
        "y": top + _TITLE + row * (_BOX_HEIGHT + _GAP),
        "keeps_shape": part.input_shape == part.output_shape,
        "description": f"{_name_part(part, request)}, {format_shape(part.output_shape)}",
    }


def _name_room(parts: list[Part], request: gr.Request) -> str:
    shape = format_shape(parts[-1].output_shape)
    if not parts[0].shortcut:
        return f"{_name_part(parts[0], request)} → {shape}"
    return translate(request, "inside_stage", stage=parts[0].stage, blocks=len(parts), shape=shape)


def _name_part(part: Part, request: gr.Request) -> str:
    names = {"stem": "inside_stem", "head": "inside_head"}
    return translate(request, names[part.kind]) if part.kind in names else part.name


def format_shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _format_count(count: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def render_part(part: Part, request: gr.Request) -> str:
    """Render the facts of a block, of the stem or of the head."""
    multiply_adds = _format_count(part.multiply_adds)
    shapes = f"{format_shape(part.input_shape)} → {format_shape(part.output_shape)}"
    title = _name_part(part, request)
    return markup.render("block.html", request, part=part, shapes=shapes, multiply_adds=multiply_adds, title=title)


def render_maps(maps: "FeatureMaps", request: gr.Request) -> str:
    """Render the strongest feature maps of one image, each from black (0) to white (its highest value)."""
    from PIL import Image

    images = []
    for channel, strength, values in zip(maps.channels[0], maps.strengths[0], maps.maps[0], strict=True):
        pixels = (values / values.max().clamp_min(1e-12) * 255).byte().numpy()
        image = Image.fromarray(pixels).resize((_MAP_SIDE, _MAP_SIDE), Image.Resampling.NEAREST)
        caption = translate(request, "inside_channel", channel=int(channel), strength=f"{float(strength):.2f}")
        images.append((image, caption))
    note = markup.render_text(translate(request, "inside_maps_note"))
    return f"{markup.render_images(images, request, 'inside_maps')}{note}"


def render_ratios(ratios: Mapping[str, float], block: str, is_plain: bool, request: gr.Request) -> str:
    """Render how much each block changes its input, as a chart with one block marked."""
    values, index = list(ratios.values()), list(ratios).index(block)
    every, chosen = translate(request, "inside_all_blocks"), f"{block}: {ratios[block]:.2f}"
    chart = Chart(
        title=translate(request, "inside_ratios"),
        x_label=translate(request, "inside_block_axis"),
        y_label=translate(request, "inside_ratio_plain_axis" if is_plain else "inside_ratio_axis"),
        lines={every: (list(range(1, len(values) + 1)), values), chosen: ([index + 1], [values[index]])},
        note=translate(request, "inside_ratios_plain_note" if is_plain else "inside_ratios_note"),
    )
    return render_chart(chart, request)
