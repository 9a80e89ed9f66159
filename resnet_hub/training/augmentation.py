"""Augmentation: random changes to a batch of training images, on tensors.

All random numbers of a batch are drawn on the CPU, from the generator that is passed in: a resumed or a distributed
run repeats them. torchvision's transforms draw from the global generator, one image at a time.
"""

import math
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.images.transforms import resize_and_crop
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.initial_model import read_model_config


class BatchTransform:
    """Augments and normalizes batches of training images according to the settings of a run.

    Attributes:
        size: Height and width of the network's input, in pixels.
        model_config: Its preprocessing is that of evaluation.
        decode_config: The preprocessing of training images, which keeps the margin that `center_crop` removes.
    """

    def __init__(self, config: TrainConfig, model_config: ResNetConfig):
        self.config, self.model_config, self.size = config, model_config, model_config.image_size
        self.decode_config = replace(model_config, image_size=model_config.resize_size, crop_pct=1.0)
        self.mean, self.std = torch.tensor(model_config.mean), torch.tensor(model_config.std)
        self.augmentation = config.augmentation or ("shift" if self.size <= 64 else "crop")

    def __call__(self, images: Tensor, targets: Tensor, generator: Generator, size: int) -> tuple[Tensor, Tensor]:
        """Transforms a batch.

        Args:
            images: uint8 (N, H, W, 3), decoded with `decode_config`.
            targets: float (N, num_classes), one-hot.
            generator: All random numbers are drawn from it.
            size: Height and width of the result; at most `self.size`.

        Returns:
            Images, float (N, 3, size, size), and targets (N, num_classes), which mixup and CutMix blend.
        """
        config = self.config
        if self.augmentation == "shift":
            images = shift_and_flip(images, generator, size=self.size, margin=self.size // 8)
        elif self.augmentation == "none":
            images = self.center_crop(images)
        batch = self.normalize(images)
        if self.augmentation == "crop":
            batch = random_resized_crop(batch, generator, size=size)
        elif size < self.size:
            batch = F.interpolate(batch, size=(size, size), mode="bilinear", antialias=True)
        if config.erasing:
            batch = random_erasing(batch, generator, probability=config.erasing)
        return mixup_or_cutmix(batch, targets, generator, mixup=config.mixup, cutmix=config.cutmix)

    def center_crop(self, images: Tensor) -> Tensor:
        """Returns the center (N, size, size, 3) of decoded images (N, H, W, 3), which evaluation uses."""
        margin = (images.shape[1] - self.size) // 2
        return images[:, margin : margin + self.size, margin : margin + self.size]

    def normalize(self, images: Tensor) -> Tensor:
        """Converts uint8 (N, H, W, 3) to float (N, 3, H, W), channels last in memory."""
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)

    def denormalize(self, batch: Tensor) -> Tensor:
        """Converts float (N, 3, H, W) back to uint8 (N, H, W, 3)."""
        return (batch.permute(0, 2, 3, 1) * self.std + self.mean).mul(255).round().clamp(0, 255).byte()


def preview_augmentation(
    config: TrainConfig, images: ImageDataset, *, token: str | bool | None = None
) -> list[Image.Image]:
    """Returns `images` as a batch of the training of `config`; raises `ImageError` if one cannot be read."""
    config = config.resolved()
    transform = BatchTransform(config, read_model_config(config, token=token))
    pixels = torch.from_numpy(images.decode(partial(resize_and_crop, transform.decode_config)))
    targets = F.one_hot(torch.from_numpy(images.targets), len(images.labels)).float()
    batch, _ = transform(pixels, targets, Generator().manual_seed(config.seed), transform.size)
    return [Image.fromarray(image.numpy()) for image in transform.denormalize(batch)]


def shift_and_flip(images: Tensor, generator: Generator, *, size: int, margin: int, flip: bool = True) -> Tensor:
    """Section 4.2's crops: a `size` x `size` window of each image (N, H, W, C), half of them mirrored.

    The window may reach `margin` pixels over the border, where the image is reflected (as in
    https://arxiv.org/abs/2404.00498; the paper pads with zeros).
    """
    count, height, width, _ = images.shape
    top = torch.randint(-margin, height - size + margin + 1, (count, 1), generator=generator)
    left = torch.randint(-margin, width - size + margin + 1, (count, 1), generator=generator)
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5) & flip
    rows = _reflect(torch.arange(size) + top, height)
    columns = torch.arange(size).expand(count, -1)
    columns = _reflect(torch.where(mirrored, size - 1 - columns, columns) + left, width)
    return images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(indices: Tensor, size: int) -> Tensor:
    indices = indices.abs()
    return torch.where(indices >= size, 2 * (size - 1) - indices, indices)


def random_resized_crop(
    images: Tensor, generator: Generator, *, size: int, scale: tuple[float, float] = (0.35, 1.0), flip: bool = True
) -> Tensor:
    """Inception's crops (https://arxiv.org/abs/1409.4842, section 6): a random window of each image, resized.

    Floats (N, C, H, W) to (N, C, size, size). The window covers `scale` of the area, at an aspect ratio of 3/4 to 4/3.
    """
    count = len(images)
    area = torch.empty(count).uniform_(*scale, generator=generator)
    ratio = torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3), generator=generator).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    across, down = torch.rand(2, count, generator=generator) * 2 - 1
    mirrored = torch.where((torch.rand(count, generator=generator) < 0.5) & flip, -1.0, 1.0)
    zero = torch.zeros(count)
    # rows of the affine map from the output's square [-1, 1] to the input's
    sideways = torch.stack([width * mirrored, zero, across * (1 - width)], 1)
    upright = torch.stack([zero, height, down * (1 - height)], 1)
    grid = F.affine_grid(torch.stack([sideways, upright], 1), [count, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid.to(images), padding_mode="reflection", align_corners=False)


def random_erasing(images: Tensor, generator: Generator, *, probability: float) -> Tensor:
    """Sets a rectangle of 2% to 20% of the area to the mean, 0 after normalizing; https://arxiv.org/abs/1708.04896."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(0.02, 0.2, generator=generator)
    ratio = torch.empty(count).uniform_(math.log(0.3), math.log(1 / 0.3), generator=generator).exp()
    tall, wide = ((area * ratio).sqrt() * height).clamp(max=height), ((area / ratio).sqrt() * width).clamp(max=width)
    top, left = torch.rand(2, count, generator=generator) * torch.stack([height - tall, width - wide])
    chosen = torch.rand(count, generator=generator) < probability
    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top[:, None]) & (row < (top + tall)[:, None]) & chosen[:, None]
    columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None].to(images.device), 0.0)


def mixup_or_cutmix(
    images: Tensor, targets: Tensor, generator: Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Blends each image, and its target (N, num_classes), with another of the batch; if both are on, one per batch.

    `mixup` (https://arxiv.org/abs/1710.09412) and `cutmix` (https://arxiv.org/abs/1905.04899) are the alphas of their
    Beta distributions; 0: off.
    """
    methods = [method for method, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha > 0]
    if not methods:
        return images, targets
    method = methods[int(torch.randint(len(methods), (), generator=generator))]
    alpha = mixup if method == "mixup" else cutmix
    draws = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    share = float(draws[0] / draws.sum())
    other = torch.randperm(len(images), generator=generator)
    if method == "mixup":
        images = torch.lerp(images[other], images, share)
    else:
        height, width = images.shape[-2:]
        tall, wide = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
        top = int(torch.randint(height - tall + 1, (), generator=generator))
        left = int(torch.randint(width - wide + 1, (), generator=generator))
        images = images.clone()
        images[:, :, top : top + tall, left : left + wide] = images[other, :, top : top + tall, left : left + wide]
        share = 1 - tall * wide / (height * width)
    return images, torch.lerp(targets[other], targets, share)
