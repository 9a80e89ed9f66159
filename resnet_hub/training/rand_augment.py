"""RandAugment (https://arxiv.org/abs/1909.13719), by torchvision's operations and the random numbers of a run."""

from statistics import NormalDist

import numpy as np
from PIL import Image
from torchvision.transforms import v2

_OPERATIONS, _NOISE = 2, 0.5  # of an image; standard deviation of their strength, as in arXiv 2110.00476
_LEVELS = 31  # torchvision's, of strengths from 0 to 10
_TRANSFORM = v2.RandAugment(num_magnitude_bins=_LEVELS)


def rand_augment(image: np.ndarray, numbers: np.ndarray, strength: float) -> np.ndarray:
    """Changes an image, uint8 (H, W, 3), by two random operations; `numbers` (6,) are random, from 0 to 1.

    torchvision's own draws come from the generator that all threads share, so an image would depend on the others.
    """
    changed, space = Image.fromarray(image), list(_TRANSFORM._AUGMENTATION_SPACE.items())
    for chosen, noise, sign in numbers.reshape(_OPERATIONS, 3):
        name, (get_levels, is_signed) = space[int(chosen * len(space))]
        levels, amount = get_levels(_LEVELS, *image.shape[:2]), 0.0
        if levels is not None:
            noisy = strength + NormalDist(0, _NOISE).inv_cdf(min(max(noise, 1e-6), 1 - 1e-6))
            amount = float(levels[round(min(max(noisy, 0), 10) / 10 * (_LEVELS - 1))])
            amount *= -1 if is_signed and sign < 0.5 else 1
        changed = _TRANSFORM._apply_image_or_video_transform(
            changed, name, amount, interpolation=_TRANSFORM.interpolation, fill=_TRANSFORM._fill
        )
    return np.asarray(changed)
