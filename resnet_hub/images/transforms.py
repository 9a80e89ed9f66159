"""Transforms an RGB image to the input of a network, by the config of its checkpoint."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import ConfigError, ImageError

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_MIN_FAST_SIZE = 512  # pixels of the short side; a smaller image is resized exactly in about a millisecond
_MODE = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}  # the same, of PyTorch
MAX_ASPECT = 3  # ratio of the sides up to which `resize_whole` keeps the whole image
_REDUCING_GAP = 3.0  # Pillow first averages blocks down to this multiple of the size; from 3 on it is invisible
_MAX_RESIZED_PIXELS = 2**26  # a 20000 x 1 image with a short side of 256 would have 1.3 billion
_MAX_SCALE = 2**12  # of the short side: an image up to four times as long as wide has as many pixels at most


def crop_box(config: ResNetConfig, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Compute the region of an image that the network sees.

    Args:
        config: The config of the checkpoint.
        size: Width and height of the image, in pixels.

    Returns:
        Left, top, right and bottom, in pixels of the image.
    """
    (width, height), side = size, config.image_size
    new_width, new_height = _compute_resized_size(config, size)
    left, top = _compute_margin(new_width, side), _compute_margin(new_height, side)
    x, y = width / new_width, height / new_height
    return left * x, top * y, min((left + side) * x, width), min((top + side) * y, height)


def eval_transform(config: ResNetConfig, *, exact: bool = True) -> Callable[[Image.Image], Tensor]:
    """Create the transform of a checkpoint for prediction and evaluation.

    Args:
        config: The config of the checkpoint.
        exact: Equal, to the bit, torchvision's `Resize(resize_size, interpolation)`, `CenterCrop(image_size)`,
            `ToTensor`, `Normalize(mean, std)` on a PIL image. Otherwise large images of at least twice the size are
            resized in two faster steps and only inside the crop, which changes some pixels by 1/255.

    Returns:
        A function from an RGB image to a float32 tensor of shape (in_channels, image_size, image_size).

    Raises:
        ConfigError: The network has neither one nor three input channels.
    """
    if config.in_channels not in (1, 3):
        raise ConfigError(f"The model takes {config.in_channels} channels. Use a model that takes 3, or 1 (gray).")
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (config.mean, config.std))
    return partial(_transform, config, mean, std, exact)


def crops_transform(config: ResNetConfig, *, crops: int = 10, scales: Sequence[int] = ()) -> Callable[..., Tensor]:
    """Create the transform of an evaluation on several crops of each image, as in the tables of the papers.

    Args:
        config: The config of the checkpoint.
        crops: 10 are the corners and the center, and those of the mirror image: torchvision's `TenCrop`. 1 is the
            center.
        scales: Lengths to which the short side is resized before; by default that of the checkpoint.

    Returns:
        A function from an RGB image to a float32 tensor (len(scales) * crops, in_channels, image_size, image_size).

    Raises:
        ConfigError: A scale is smaller than a crop or too large, or there is no such number of crops.
    """
    side = config.image_size
    if crops not in (1, 10):
        raise ConfigError(f"crops is {crops}. Choose 1 or 10.")
    if large := [scale for scale in scales if scale > _MAX_SCALE]:
        raise ConfigError(f"The scale {large[0]} is too large. Choose scales up to {_MAX_SCALE} pixels.")
    if small := [scale for scale in scales if scale < side]:
        raise ConfigError(f"The scale {small[0]} is smaller than the crop. Choose scales from {side} pixels on.")
    normalize = eval_transform(replace(config, crop_pct=1.0, crop_mode="center"))  # of a crop: it only normalizes

    def transform(image: Image.Image) -> Tensor:
        results = []
        for scale in scales or (config.resize_size,):
            width, height = _compute_resized_size(config, image.size, scale)
            if width * height > _MAX_RESIZED_PIXELS:
                raise ImageError(f"An image of {image.width} x {image.height} is too long for a scale of {scale}.")
            resized = image.resize((width, height), _RESAMPLING[config.interpolation])
            right, bottom = width - side, height - side
            corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)] if crops == 10 else []
            for one in (resized, resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[: 2 if crops == 10 else 1]:
                for left, top in (*corners, (_compute_margin(width, side), _compute_margin(height, side))):
                    results.append(normalize(one.crop((left, top, left + side, top + side))))
        return torch.stack(results)

    return transform


def resize_and_crop(config: ResNetConfig, image: Image.Image, *, exact: bool = True) -> Image.Image:
    """Resize and crop an image by `config`, to 8-bit pixels. `eval_transform` also normalizes them."""
    mode = "L" if config.in_channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    side, resampling = config.image_size, _RESAMPLING[config.interpolation]
    width, height = _compute_resized_size(config, image.size)
    is_fast = not exact and min(image.size) >= max(2 * min(width, height), _MIN_FAST_SIZE)
    if is_fast or width * height > _MAX_RESIZED_PIXELS:  # crop first, at fractions of a pixel: equal up to rounding
        gap = _REDUCING_GAP if is_fast else None
        return image.resize((side, side), resampling, box=crop_box(config, image.size), reducing_gap=gap)
    left, top = _compute_margin(width, side), _compute_margin(height, side)
    return image.resize((width, height), resampling).crop((left, top, left + side, top + side))


def resize_whole(config: ResNetConfig, image: Image.Image) -> np.ndarray:
    """Resize an RGB image as `resize_and_crop` does, without its crop; up to rounding, and twice as fast.

    Returns:
        The pixels, uint8 (H, W, 3). Of an image whose sides differ more than `MAX_ASPECT` times, the middle.
    """
    pixels = np.array(image)
    height, width = pixels.shape[:2]
    tall, wide = min(height, MAX_ASPECT * width), min(width, MAX_ASPECT * height)
    top, left = (height - tall) // 2, (width - wide) // 2
    new_width, new_height = _compute_resized_size(config, (wide, tall))
    return resize_pixels(pixels[top : top + tall, left : left + wide], (new_height, new_width), config.interpolation)


def resize_pixels(pixels: np.ndarray, size: tuple[int, int], interpolation: str = "bilinear") -> np.ndarray:
    """Resize uint8 (H, W, C) to the height and width `size`, with antialiasing."""
    if pixels.shape[:2] == size:
        return np.ascontiguousarray(pixels)
    # A contiguous copy by NumPy: PyTorch would start more threads in each decoding thread.
    # With the strides of "channels last", also of the batch of one, the result has them too and needs no transposing.
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(image, size, mode=_MODE[interpolation], antialias=interpolation != "nearest")
    return np.ascontiguousarray(resized[0].numpy().transpose(1, 2, 0))


def mirror_pixels(pixels: np.ndarray) -> np.ndarray:
    """Mirror uint8 (H, W, C). NumPy's copy of a view with a negative stride takes seven times as long."""
    return np.asarray(torch.from_numpy(pixels).flip(1).numpy())


def _transform(config: ResNetConfig, mean: np.ndarray, std: np.ndarray, exact: bool, image: Image.Image) -> Tensor:
    side, image = config.image_size, resize_and_crop(config, image, exact=exact)
    pixels = np.asarray(image).reshape(side, side, -1).transpose(2, 0, 1).astype(np.float32, order="C")
    pixels /= np.float32(255)  # in NumPy: PyTorch would start more threads in each decoding thread
    pixels -= mean
    pixels /= std
    return torch.from_numpy(pixels)


def _compute_resized_size(config: ResNetConfig, size: tuple[int, int], short: int | None = None) -> tuple[int, int]:
    short = short or config.resize_size
    if config.crop_mode == "squash":
        return short, short
    long = int(short * max(size) / min(size))
    return (short, long) if size[0] <= size[1] else (long, short)


def _compute_margin(length: int, side: int) -> int:
    return round((length - side) / 2)
