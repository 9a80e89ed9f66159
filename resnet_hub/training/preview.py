"""Images as training sees them, for a person to look at."""

from functools import partial

import torch
from PIL import Image
from torch.nn import functional as F

from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.images.transforms import resize_and_crop
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.initial_model import read_model_config
from resnet_hub.training.transforms import BatchTransform


def preview_augmentation(
    config: TrainConfig, images: ImageDataset, *, token: str | bool | None = None
) -> list[Image.Image]:
    """Returns `images` as a batch of the training of `config`; raises `ImageError` if one cannot be read."""
    config = config.resolved()
    transform = BatchTransform(config, read_model_config(config, token=token))
    pixels = torch.from_numpy(images.decode(partial(resize_and_crop, transform.decode_config)))
    targets = F.one_hot(torch.from_numpy(images.targets), len(images.labels)).float()
    generator = torch.Generator().manual_seed(config.seed)
    batch, _ = transform(pixels, targets, generator, transform.size)
    return [Image.fromarray(image.numpy()) for image in transform.denormalize(batch)]
