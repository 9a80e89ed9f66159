"""The decoded images of a run, all in memory."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from resnet_hub.atomic import write_atomic
from resnet_hub.errors import TrainingError
from resnet_hub.images.transforms import resize_and_crop
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.events import Preparing
from resnet_hub.training.split import RunImages

_CHUNK = 256  # images between two events


@dataclass
class ImageStore:
    """Decoded images, uint8 (N, H, W, 3)."""

    train: Tensor  # with the margin that augmentation uses and evaluation cuts off
    validation: Tensor  # at the size of the network

    def save(self, path: Path) -> None:
        write_atomic(path, save({"training": self.train, "validation": self.validation}))

    @classmethod
    def load(cls, path: Path) -> "ImageStore":
        tensors = load_file(path)
        return cls(tensors["training"], tensors["validation"])


def decode_images(images: RunImages, transform: BatchTransform) -> Generator[Preparing, None, ImageStore]:
    """Decodes the training and validation images.

    Raises:
        TrainingError: If the images do not fit into memory.
    """
    total, done, decoded = len(images.train) + len(images.validation), 0, []
    for dataset, config in ((images.train, transform.decode_config), (images.validation, transform.model_config)):
        shape = (len(dataset), config.image_size, config.image_size, 3)
        try:
            pixels = torch.empty(shape, dtype=torch.uint8)
        except (RuntimeError, MemoryError):
            raise TrainingError(
                f"{shape[0]:,} images of {shape[1]} x {shape[2]} pixels need {math.prod(shape) / 1e9:.1f} GB of "
                "memory, which is more than is free; choose a smaller image_size, or fewer images."
            ) from None
        for indices in torch.arange(len(dataset)).split(_CHUNK):
            yield Preparing("images", done, total)
            chunk = dataset.subset(indices.numpy()).decode(partial(resize_and_crop, config))
            pixels[indices] = torch.from_numpy(chunk)
            done += len(indices)
        decoded.append(pixels)
    return ImageStore(*decoded)
