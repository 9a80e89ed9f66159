"""From an upright RGB image to the tensor that a network was trained on."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import ConfigError

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_REDUCING_GAP = 3.0  # Pillow first averages whole blocks, down to so many times the size; invisible from 3 on
_MAX_RESIZED_PIXELS = 2**26  # a 20000x1 picture with a short side of 256 would have 1.3 billion


def crop_box(config: ResNetConfig, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of a picture of `size` (width, height) that the network sees: left, top, right, bottom in its pixels."""
    (width, height), side = size, config.image_size
    new_width, new_height = _resized(config, size)
    left, top = _margin(new_width, side), _margin(new_height, side)
    x, y = width / new_width, height / new_height
    return left * x, top * y, min((left + side) * x, width), min((top + side) * y, height)


def eval_transform(config: ResNetConfig, *, exact: bool = True) -> Callable[[Image.Image], Tensor]:
    """A function from an RGB image to the network's input (in_channels, image_size, image_size), float32.

    To the bit torchvision's `Resize(resize_size, interpolation)`, `CenterCrop(image_size)`, `ToTensor`,
    `Normalize(mean, std)` on a PIL image. Without `exact`, pictures of twice the size and more are resized in two
    faster steps, and only where the crop will be, which changes a value by 1/255 here and there. Raises `ConfigError`
    for other than one or three channels.
    """
    if config.in_channels not in (1, 3):
        raise ConfigError(f"The model wants {config.in_channels} channels; a picture has 3, or 1 as grey.")
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (config.mean, config.std))
    return partial(_transform, config, mean, std, exact)


def resize_and_crop(config: ResNetConfig, image: Image.Image, *, exact: bool = True) -> Image.Image:
    """The picture resized and cropped as `config` says, still 8 bits: what `eval_transform` then normalises."""
    mode = "L" if config.in_channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    side, resampling = config.image_size, _RESAMPLING[config.interpolation]
    width, height = _resized(config, image.size)
    hurried = not exact and min(image.size) >= 2 * min(width, height)  # of smaller ones little time would be saved
    if hurried or width * height > _MAX_RESIZED_PIXELS:  # cut first, at fractions of a pixel: the same up to rounding
        gap = _REDUCING_GAP if hurried else None
        return image.resize((side, side), resampling, box=crop_box(config, image.size), reducing_gap=gap)
    left, top = _margin(width, side), _margin(height, side)
    return image.resize((width, height), resampling).crop((left, top, left + side, top + side))


def _transform(config: ResNetConfig, mean: np.ndarray, std: np.ndarray, exact: bool, image: Image.Image) -> Tensor:
    side, image = config.image_size, resize_and_crop(config, image, exact=exact)
    pixels = np.asarray(image).reshape(side, side, -1).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)  # NumPy: PyTorch would start threads of its own in each thread that decodes
    pixels -= mean
    pixels /= std
    return torch.from_numpy(pixels)


def _resized(config: ResNetConfig, size: tuple[int, int]) -> tuple[int, int]:
    short = config.resize_size
    if config.crop_mode == "squash":
        return short, short
    long = int(short * max(size) / min(size))
    return (short, long) if size[0] <= size[1] else (long, short)


def _margin(length: int, side: int) -> int:
    return round((length - side) / 2)
