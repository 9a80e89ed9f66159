"""Grad-CAM: a heat map of where in an image a class was seen, drawn over the image.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights each channel A_k of the last feature maps
by the mean gradient of the class's logit, sums the channels, and keeps positive values. Behind a global average pool
and a linear head that gradient is the head's row, so the map is relu(sum_k fc.weight[c, k] * A_k), the class activation
map of Zhou et al. 2016 (https://arxiv.org/abs/1512.04150). It needs neither autograd nor hooks and leaves the model
unchanged, so threads can share one."""

import torch
from PIL import Image, ImageOps
from torch import Tensor

from resnet_hub.images.transforms import crop_box
from resnet_hub.inference.classifier import Classifier

_COLD, _WARM, _HOT = "#3b1c8c", "#e0457b", "#ffe14d"  # dark to light, for viewers without colour vision
_MAX_OPACITY = 0.75  # of the colour in the hottest spot


def compute_grad_cam(feature_maps: Tensor, class_weights: Tensor) -> Tensor:
    """Computes where each image has evidence for a class.

    Args:
        feature_maps: Outputs of the last stage (N, K, h, w).
        class_weights: The head's weights of the class (K,).

    Returns:
        Heat maps (N, h, w) in 0..1. The maximum of each is 1, or 0 if there is no evidence for the class.
    """
    with torch.inference_mode():
        heat = torch.einsum("nkhw,k->nhw", feature_maps, class_weights.to(feature_maps)).relu()
        return heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)


def overlay_heat_map(
    classifier: Classifier, image: Image.Image, index: int, *, feature_maps: Tensor | None = None, max_side: int = 768
) -> Image.Image:
    """Draws the heat map of a class over an image: its centre crop, which the model sees, in colour, the rest faded.

    Args:
        classifier: The model.
        image: An upright RGB image.
        index: The class.
        feature_maps: The maps (K, h, w) that `Classifier.predict_with_maps` returned for the image, to save computing
            them again.
        max_side: A larger image is reduced to this many pixels on its longer side.
    """
    if feature_maps is None:
        feature_maps = classifier.predict_with_maps(image)[1]
    class_weights = classifier.model.get_parameter("fc.weight")[index]
    heat = compute_grad_cam(feature_maps[None], class_weights)[0].mul(255).byte().numpy()

    scale = min(1.0, max_side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top, right, bottom = (round(edge * scale) for edge in crop_box(classifier.config, image.size))
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    resized = image.resize(size, Image.Resampling.BICUBIC)

    level = Image.fromarray(heat).resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
    colour = ImageOps.colorize(level, black=_COLD, mid=_WARM, white=_HOT)
    overlay = Image.composite(colour, resized.crop(box), level.point(lambda value: round(value * _MAX_OPACITY)))
    faded = Image.blend(ImageOps.grayscale(resized).convert("RGB"), Image.new("RGB", size, "white"), 0.5)
    faded.paste(overlay, box)
    return faded
