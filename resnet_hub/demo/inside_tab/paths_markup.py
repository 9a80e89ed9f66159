"""The paths through a residual network, as HTML: their lengths and the gradient that each length carries."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import gradio as gr

from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate
from resnet_hub.demo.svg_charts import Points, make_chart, render_chart

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.model import ResNet

MAX_MULTIPLY_ADDS = 40e9  # multiply-adds: some seconds on two cores
_MAX_SAMPLES = 4  # paths of each length


def choose_samples(multiply_adds: int, blocks: int) -> int:
    """The number of paths of each length that can be computed, forward and backward; 0 if not even one."""
    # once forward, and backward through half of the blocks on average
    return max(0, min(_MAX_SAMPLES, int((MAX_MULTIPLY_ADDS / multiply_adds - 1) / ((blocks + 1) / 2))))


def render_paths(model: "ResNet", images: "Tensor", request: gr.Request) -> Iterator[str]:
    """Render the distribution of path lengths at once, then with the gradient by length for the photo's top label."""
    import torch

    from resnet_hub.analysis.blocks import to_inputs
    from resnet_hub.analysis.residual_paths import path_gradients, path_lengths

    shares, blocks = path_lengths(model).tolist(), sum(model.config.depths)
    lengths = list(range(blocks + 1))
    lines = {translate(request, "inside_share_of_paths"): (lengths, shares)}
    if model.config.shortcut == "none":
        yield _render_paths(lines, "path_lengths(model)", request, "inside_paths_plain_note")
        return
    samples = choose_samples(model.config.multiply_adds, blocks)
    if not samples:
        yield _render_paths(lines, "path_lengths(model)", request, "inside_paths_slow_note")
        return
    waiting = markup.render_text(translate(request, "inside_computing_gradient"), "status")
    yield f"{_render_paths(lines, 'path_lengths(model)', request)}{waiting}"
    images = to_inputs(model, images)
    with torch.inference_mode():
        target = model(images).argmax(1)
    gradients = path_gradients(model, images, target.clone(), samples=samples)
    lines[translate(request, "inside_share_of_gradient")] = (lengths, gradients.gradient_shares.tolist())
    mean = {"gradient": f"{gradients.mean_length:.1f}", "paths": f"{blocks / 2:g}", "blocks": blocks}
    call = f"path_gradients(model, images, targets, samples={samples})"
    yield _render_paths(lines, call, request, "inside_paths_note", mean)


def _render_paths(
    lines: Mapping[str, Points],
    call: str,
    request: gr.Request,
    note: str = "",
    values: Mapping[str, object] = MappingProxyType({}),
) -> str:
    texts = ("inside_paths_chart", "inside_path_length", "inside_share")
    chart = make_chart(request, *texts, lines, note, values=values)
    hint = markup.render_hint(translate(request, "inside_python", call=call))
    return f'<div class="chart-row">{render_chart(chart, request)}</div>{hint}'
