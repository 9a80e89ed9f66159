"""Blocks that can be switched off, and the labels of the photo with and without them."""

from itertools import groupby
from typing import TYPE_CHECKING

import gradio as gr

from resnet_hub.analysis.anatomy import describe_anatomy
from resnet_hub.config import ResNetConfig
from resnet_hub.demo import markup
from resnet_hub.demo.i18n import translate

if TYPE_CHECKING:
    from torch import Tensor

    from resnet_hub.model import ResNet

TOP = 5  # labels


def render_switches(config: ResNetConfig, request: gr.Request) -> str:
    """Render a switch for each block, by stage."""
    blocks = [part for part in describe_anatomy(config) if part.shortcut]
    stages = [
        (stage, [(part.name, part.input_shape == part.output_shape) for part in group])
        for stage, group in groupby(blocks, key=lambda part: part.stage)
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
