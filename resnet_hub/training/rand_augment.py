"""RandAugment (https://arxiv.org/abs/1909.13719), by torchvision's operations and the random numbers of a run.

`torchvision.transforms.v2.RandAugment` draws from the generator that all threads share, so an image would depend on the
others. Its operations and their strengths are repeated here.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

_COUNT, _NOISE = 2, 0.5  # operations of an image; standard deviation of their strength, as in arXiv 2110.00476
_LEVELS = 31  # of strengths from 0 to 10


def _shift(image: Any, x: float, y: float) -> Any:
    """Shift an image by pixels of one with a side of 331."""
    pixels = [int(x * image.width / 331), int(y * image.height / 331)]
    return F.affine(image, angle=0.0, translate=pixels, scale=1.0, shear=[0.0, 0.0])


def _shear(image: Any, x: float, y: float) -> Any:
    degrees = [math.degrees(math.atan(amount)) for amount in (x, y)]
    return F.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=degrees, center=[0, 0])


# Name -> amount at the strengths 0 and 10, whether half of the images get its negative, and the operation.
_OPERATIONS: dict[str, tuple[tuple[float, float], bool, Callable[[Any, float], Any]]] = {
    "identity": ((0.0, 0.0), False, lambda image, amount: image),
    "shear x": ((0.0, 0.3), True, lambda image, amount: _shear(image, amount, 0.0)),
    "shear y": ((0.0, 0.3), True, lambda image, amount: _shear(image, 0.0, amount)),
    "shift x": ((0.0, 150.0), True, lambda image, amount: _shift(image, amount, 0.0)),
    "shift y": ((0.0, 150.0), True, lambda image, amount: _shift(image, 0.0, amount)),
    "rotate": ((0.0, 30.0), True, lambda image, amount: F.rotate(image, amount)),
    "brightness": ((0.0, 0.9), True, lambda image, amount: F.adjust_brightness(image, 1 + amount)),
    "color": ((0.0, 0.9), True, lambda image, amount: F.adjust_saturation(image, 1 + amount)),
    "contrast": ((0.0, 0.9), True, lambda image, amount: F.adjust_contrast(image, 1 + amount)),
    "sharpness": ((0.0, 0.9), True, lambda image, amount: F.adjust_sharpness(image, 1 + amount)),
    "posterize": ((8.0, 4.0), False, lambda image, amount: F.posterize(image, round(amount))),
    "solarize": ((1.0, 0.0), False, lambda image, amount: F.solarize(image, 255 * amount)),
    "autocontrast": ((0.0, 0.0), False, lambda image, amount: F.autocontrast(image)),
    "equalize": ((0.0, 0.0), False, lambda image, amount: F.equalize(image)),
}


def rand_augment(image: np.ndarray, numbers: np.ndarray, strength: float) -> np.ndarray:
    """Changes an image, uint8 (H, W, 3), by two random operations; `numbers` (6,) are random, from 0 to 1."""
    changed, operations = Image.fromarray(image), list(_OPERATIONS.values())
    for chosen, noise, sign in numbers.reshape(_COUNT, 3):
        (first, last), is_signed, change = operations[int(chosen * len(operations))]
        noisy = strength + NormalDist(0, _NOISE).inv_cdf(min(max(noise, 1e-6), 1 - 1e-6))
        level = round(min(max(noisy, 0), 10) / 10 * (_LEVELS - 1))
        amount = float(torch.linspace(first, last, _LEVELS)[level])
        changed = change(changed, -amount if is_signed and sign < 0.5 else amount)
    return np.asarray(changed)
