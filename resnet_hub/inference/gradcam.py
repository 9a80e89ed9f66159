"""Grad-CAM: a heat map of where in an image a class was seen, drawn over the image.

Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights each channel A_k of the last feature maps
by the mean gradient of the class's logit, sums the channels, and keeps positive values. Behind a global average pool
and a linear head that gradient is the head's row, so the map is relu(sum_k fc.weight[c, k] * A_k), the class activation
map of Zhou et al. 2016 (https://arxiv.org/abs/1512.04150). It needs neither autograd nor hooks and leaves the model
unchanged, so threads can share one.

Every layer that halves the map is centered on the pixels 0, 2, 4, ... of its input, so cell i is centered on the pixel
`stride * i` of the network's input. The map is drawn there, and not half a cell further right and down."""

from dataclasses import replace

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import memory_errors
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import crop_box, eval_transform
from resnet_hub.inference.classifier import Classifier

MIN_CELLS = 7  # on each side of a heat map; smaller ones locate little
# Dark to light, for viewers without color vision, and without yellow, green and brown: photos have much of those.
_COLD, _WARM, _HOT = "#16168c", "#8a1fd0", "#ff4fb4"
_MAX_OPACITY = 0.75  # of the color in the hottest spot


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


def compute_heat_map(
    classifier: Classifier, image: Image.Image, index: int, *, feature_maps: Tensor | None = None
) -> tuple[Tensor, tuple[float, float, float, float]]:
    """Computes the heat map of a class for the region of an image that the model sees.

    The network is fully convolutional up to its pool, so a model for small images gets a larger input for this, which
    gives a finer map.

    Args:
        classifier: The model.
        image: An upright RGB image.
        index: The class.
        feature_maps: Those of the image (K, h, w) from `Classifier.predict_with_feature_maps`; by default they are
            computed.

    Returns:
        The heat map in 0..1, a value for each pixel of the network's input (side, side), and the region of the image
        that it covers: left, top, right and bottom in pixels.
    """
    config = classifier.config
    if config.feature_map_size < MIN_CELLS:
        config = replace(config, image_size=config.stride * MIN_CELLS + 1)  # the outer cells are centered on the edges
        feature_maps = _compute_feature_maps(classifier, config, image)
    elif feature_maps is None:
        feature_maps = classifier.predict_with_feature_maps(image)[1]
    heat = compute_grad_cam(feature_maps[None], classifier.model.get_parameter("fc.weight")[index])
    return _resize_to_input(heat[0], config), crop_box(config, image.size)


def overlay_heat_map(
    classifier: Classifier, image: Image.Image, index: int, *, feature_maps: Tensor | None = None, max_side: int = 768
) -> Image.Image:
    """Draws the heat map of a class over an image: the region that the model sees in color, the rest faded.

    Args:
        classifier: The model.
        image: An upright RGB image.
        index: The class.
        feature_maps: As in `compute_heat_map`.
        max_side: A larger image is reduced to this many pixels on its longer side.
    """
    heat, region = compute_heat_map(classifier, image, index, feature_maps=feature_maps)
    scale = min(1.0, max_side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    left, top, right, bottom = (round(edge * scale) for edge in region)
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    resized = image.resize(size, Image.Resampling.BICUBIC)

    level = Image.fromarray(heat.mul(255).byte().numpy())
    level = level.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.BICUBIC)
    color = ImageOps.colorize(level, black=_COLD, mid=_WARM, white=_HOT)
    overlay = Image.composite(color, resized.crop(box), level.point(lambda value: round(value * _MAX_OPACITY)))
    faded = Image.blend(ImageOps.grayscale(resized).convert("RGB"), Image.new("RGB", size, "white"), 0.5)
    faded.paste(overlay, box)
    return faded


def _compute_feature_maps(classifier: Classifier, config: ResNetConfig, image: Image.Image) -> Tensor:
    """Computes the last feature maps (K, h, w) by PyTorch: the engine's graph is built for the model's own size."""
    with memory_errors("a heat map of this model"), torch.inference_mode():
        batch = eval_transform(config, exact=False)(load_image(image))[None]
        return classifier.model.forward_features(batch.to(classifier.device, classifier.model.dtype))[0].float().cpu()


def _resize_to_input(heat: Tensor, config: ResNetConfig) -> Tensor:
    """Resizes a map (h, w) to the input of the network (side, side), each cell centered on its pixel."""
    with torch.inference_mode():
        cells = torch.arange(config.image_size) / config.stride
        x, y = (2 * cells / max(1, length - 1) - 1 for length in (heat.shape[1], heat.shape[0]))
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
        smooth = F.grid_sample(heat[None, None], grid, mode="bicubic", padding_mode="border", align_corners=True)
        return smooth[0, 0].clamp(0, 1)
