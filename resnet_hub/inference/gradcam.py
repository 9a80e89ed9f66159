"""Where in a picture a class was seen: Grad-CAM, drawn over the upright picture.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights each channel A_k of the last map by the
mean gradient of the class's logit, sums, and keeps what is positive. Behind a global average pool and a linear head
that gradient is the head's own row, so the map is relu(sum_k fc.weight[c, k] * A_k), the class activation map of
Zhou et al. 2016 (https://arxiv.org/abs/1512.04150). It needs no autograd and no hooks, and touches nothing of the
model, so threads can share one."""

import torch
from PIL import Image, ImageOps
from torch import Tensor

from resnet_hub.images.transforms import crop_box
from resnet_hub.inference.classifier import Classifier

_COLD, _WARM, _HOT = "#3b1c8c", "#e0457b", "#ffe14d"  # told apart without colour vision: dark to light
_STRONGEST = 0.75  # share of colour in the hottest spot; the rest is the picture


def compute_grad_cam(maps: Tensor, head: Tensor) -> Tensor:
    """What speaks for a class in each of the last maps (N, K, h, w), by the head's row for it (K,): (N, h, w), 0 to 1.

    The strongest spot of a map is 1; a map without any evidence is all 0.
    """
    with torch.inference_mode():
        heat = torch.einsum("nkhw,k->nhw", maps, head.to(maps)).relu()
        return heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def overlay_heat_map(
    classify: Classifier, image: Image.Image, index: int, *, maps: Tensor | None = None, longest: int = 768
) -> Image.Image:
    """The upright RGB picture, at most `longest` pixels on a side, with the heat of class `index` over it.

    Only the centre crop that the model was shown is coloured; what it never saw is faded. `maps` are those that
    `Classifier.look` found in the picture, if it was asked already.
    """
    if maps is None:
        maps = classify.look(image)[1]
    heat = compute_grad_cam(maps[None], classify.model.get_parameter("fc.weight")[index])[0].mul(255).byte().numpy()

    scale = min(1.0, longest / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top, right, bottom = (round(edge * scale) for edge in crop_box(classify.config, image.size))
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    picture = image.resize(size, Image.Resampling.BICUBIC)

    level = Image.fromarray(heat).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
    colour = ImageOps.colorize(level, black=_COLD, mid=_WARM, white=_HOT)
    seen = Image.composite(colour, picture.crop(box), level.point(lambda value: round(value * _STRONGEST)))
    faded = Image.blend(ImageOps.grayscale(picture).convert("RGB"), Image.new("RGB", size, "white"), 0.5)
    faded.paste(seen, box)
    return faded
