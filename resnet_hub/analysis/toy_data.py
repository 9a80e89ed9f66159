"""A small dataset that needs no download: gratings in noise, told apart by direction and by fineness."""

import numpy as np
import torch

from resnet_hub.analysis.labelled_images import LabelledImages

DIRECTIONS, PERIODS = 4, (8.0, 4.0)  # pixels
CLASSES = tuple(f"{180 * i // DIRECTIONS} degrees, period {period:g}" for period in PERIODS for i in range(DIRECTIONS))


def create_gratings(count: int, *, size: int = 16, noise: float = 1.0, seed: int = 0) -> LabelledImages:
    """Create images of gratings, normalised, with random phase, colour and noise.

    Args:
        count: Number of images.
        size: Height and width in pixels.
        noise: Standard deviation of the noise; the grating's is 1/2.
        seed: Of all random numbers.

    Returns:
        Images float32 (count, 3, size, size) and the index in `CLASSES` of each.
    """
    generator = np.random.default_rng(seed)
    targets = generator.integers(len(CLASSES), size=count)
    angles = np.pi * (targets % DIRECTIONS) / DIRECTIONS
    frequencies = 2 * np.pi / np.array(PERIODS)[targets // DIRECTIONS]
    rows, columns = np.mgrid[:size, :size]
    along = np.cos(angles)[:, None, None] * columns + np.sin(angles)[:, None, None] * rows
    waves = np.sin(frequencies[:, None, None] * along + generator.uniform(0, 2 * np.pi, (count, 1, 1)))
    colours = generator.uniform(0.4, 1, (count, 3, 1, 1))
    images = waves[:, None] * colours + noise * generator.standard_normal((count, 3, size, size))
    return LabelledImages(torch.from_numpy(images.astype(np.float32)), torch.from_numpy(targets.astype(np.int64)))
