"""The decoded images of a run, all in memory."""

import math
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from resnet_hub.atomic import write_atomic
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import TrainingError
from resnet_hub.training.events import Preparing

_CHUNK = 256  # images between two events


class ImageStore:
    """Training and validation images as uint8 tensors (N, H, W, C)."""

    def __init__(self, train: Tensor, validation: Tensor):
        self._train, self._validation = train, validation

    def read_train(self, indices: Tensor | slice) -> Tensor:
        """Returns training images, with the margin that augmentation uses and evaluation cuts off."""
        return self._train[indices]

    def read_validation(self, indices: Tensor | slice) -> Tensor:
        """Returns validation images at the size of the network."""
        return self._validation[indices]

    def save(self, path: Path) -> None:
        from safetensors.torch import save

        write_atomic(path, save({"training": self._train, "validation": self._validation}))

    @classmethod
    def load(cls, path: Path) -> "ImageStore":
        from safetensors.torch import load_file

        tensors = load_file(path)
        return cls(tensors["training"], tensors["validation"])


def decode_images(
    train: ImageDataset,
    validation: ImageDataset,
    train_config: ResNetConfig,
    validation_config: ResNetConfig,
    should_stop: Callable[[], bool],
) -> Generator[Preparing, None, ImageStore | None]:
    """Decodes all images, resized and cropped as the configs say; returns None if it was asked to stop before.

    Raises:
        TrainingError: If the images do not fit into memory.
    """
    from resnet_hub.images.transforms import resize_and_crop

    total, done, decoded = len(train) + len(validation), 0, []
    for images, config in ((train, train_config), (validation, validation_config)):
        pixels = _allocate(len(images), config.image_size)
        for start in range(0, len(images), _CHUNK):
            yield Preparing("images", done, total)
            if should_stop():
                return None
            chunk = images.subset(range(start, min(start + _CHUNK, len(images))))
            pixels[start : start + len(chunk)] = torch.from_numpy(chunk.decode(partial(resize_and_crop, config)))
            done += len(chunk)
        decoded.append(pixels)
    return ImageStore(*decoded)


def _allocate(count: int, size: int) -> Tensor:
    shape = (count, size, size, 3)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except (RuntimeError, MemoryError):
        raise TrainingError(
            f"{count:,} images of {size} x {size} pixels take {math.prod(shape) / 1e9:.1f} GB, more memory than there "
            "is; choose a smaller image_size, or fewer images."
        ) from None
