"""How long the paths through the chosen model are, and how much gradient each length carries for the photo."""

from typing import TYPE_CHECKING

import gradio as gr

from resnet_hub.analysis.plots import Chart
from resnet_hub.demo.charts import render_chart
from resnet_hub.demo.i18n import translate

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.model import ResNet

MAX_WORK = 40e9  # multiply-adds: some seconds on two cores
_MAX_SAMPLES = 4  # paths of each length


def choose_samples(multiply_adds: int, blocks: int) -> int:
    """How many paths of each length can be computed, forward and backward; 0 if not even one."""
    return min(_MAX_SAMPLES, int(MAX_WORK / (3 * multiply_adds * (blocks + 1))))


def render_paths(model: "ResNet", images: "Tensor", request: gr.Request) -> str:
    """Render the distribution of path lengths and, for the photo's top label, the gradient by length."""
    import torch

    from resnet_hub.analysis.blocks import to_inputs
    from resnet_hub.analysis.paths import path_gradients, path_lengths

    shares, blocks = path_lengths(model).tolist(), sum(model.config.depths)
    lengths, lines = list(range(blocks + 1)), {}
    lines[translate(request, "inside_share_of_paths")] = (lengths, shares)
    note = translate(request, "inside_paths_plain_note")
    if model.config.shortcut != "none":
        note = translate(request, "inside_paths_slow_note")
        if samples := choose_samples(model.config.multiply_adds, blocks):
            images = to_inputs(model, images)
            with torch.inference_mode():
                target = model(images).argmax(1)
            gradients = path_gradients(model, images, target.clone(), samples=samples)
            lines[translate(request, "inside_share_of_gradient")] = (lengths, gradients.gradient_shares.tolist())
            mean = {"gradient": f"{gradients.mean_length:.1f}", "paths": f"{blocks / 2:g}", "blocks": blocks}
            note = translate(request, "inside_paths_note", **mean)
    chart = Chart(
        title=translate(request, "inside_paths_chart"),
        x_label=translate(request, "inside_path_length"),
        y_label=translate(request, "inside_share"),
        lines=lines,
        note=note,
    )
    return f'<div class="chart-row">{render_chart(chart, request)}</div>'
