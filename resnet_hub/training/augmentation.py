"""Augmentation: random changes to training images.

Crops are cut from decoded images in the threads that load them, one image after the other. The others change whole
batches, on the device of the training. The random numbers of an image are a row of `schedule.draw_numbers`, in any
thread or process. torchvision's transforms take theirs from the global generator, so that a resumed run, or another
number of threads, would change the crops.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import mirror_pixels, resize_pixels, resize_whole
from resnet_hub.training.config import ResolvedTrainConfig, TrainConfig
from resnet_hub.training.initial_model import read_model_config
from resnet_hub.training.loader import Batch
from resnet_hub.training.schedule import NUMBERS, create_generator, draw_numbers

# The random numbers of an image that each of them uses.
_CROP, _ERASING, _COLOR, _RAND_AUGMENT = slice(0, 5), slice(5, 10), slice(10, 13), slice(13, NUMBERS)
# Principal components of the colors of ImageNet, in columns, and their deviations (AlexNet, section 4.1)
_COMPONENTS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_MAX_SCALE = 480 / 256  # of section 3.4's short sides


class BatchTransform:
    """Augments and normalizes training images according to the settings of a run.

    Attributes:
        size: Height and width of the network's input, in pixels.
        crop_size: Those of the training crops.
        model_config: Its preprocessing is that of evaluation.
    """

    def __init__(self, config: ResolvedTrainConfig, model_config: ResNetConfig):
        self.config, self.model_config, self.size = config, model_config, model_config.image_size
        self.crop_size = config.crop_size or self.size
        self.mean, self.std = torch.tensor(model_config.mean), torch.tensor(model_config.std)
        self._memory = torch.empty(0)
        self.min_area = config.min_area
        self.augmentation = config.augmentation or ("shift" if self.size <= 64 else "crop")

    def crop(self, images: Sequence[np.ndarray], batch: Batch) -> np.ndarray:
        """Crops the images (H, W, 3) of a batch, from `images.transforms.resize_whole`, as `augmentation` says.

        Returns:
            uint8 (N, size, size, 3) of the batch's size if `augmentation` is "crop" or "scale". Others have the size of
            the network, and `__call__` resizes them.
        """
        pixels = self._cut(images, batch)
        if self.config.rand_augment:
            from resnet_hub.training.rand_augment import rand_augment

            pairs = zip(pixels, batch.numbers[:, _RAND_AUGMENT], strict=True)
            pixels = np.stack([rand_augment(image, row, self.config.rand_augment) for image, row in pairs])
        return pixels

    def _cut(self, images: Sequence[np.ndarray], batch: Batch) -> np.ndarray:
        numbers = batch.numbers[:, _CROP]
        pairs = zip(images, numbers, strict=True)
        if self.augmentation == "crop":
            return np.stack(
                [random_resized_crop(image, row, size=batch.size, min_area=self.min_area) for image, row in pairs]
            )
        if self.augmentation == "scale":
            share = self.size / self.model_config.resize_size
            return np.stack([random_scale_crop(image, row, size=batch.size, share=share) for image, row in pairs])
        if self.augmentation == "shift":
            squares = _crop_centers(images, self.model_config.resize_size)
            return shift_and_flip(squares, numbers, size=self.size, margin=self.size // 8)
        return self.center_crop(images)

    def center_crop(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the centers (N, size, size, 3) of images (H, W, 3): what evaluation sees of them."""
        return _crop_centers(images, self.size)

    def __call__(self, pixels: Tensor, targets: Tensor, batch: Batch, generator: Generator) -> tuple[Tensor, Tensor]:
        """Normalizes and augments a batch.

        Args:
            pixels: uint8 (N, H, W, 3), from `crop`.
            targets: float (N, num_classes), one-hot.
            batch: Has the random numbers of each image, and the size of the result.
            generator: The random numbers of the whole batch are drawn from it.

        Returns:
            Images, float (N, 3, size, size), and targets (N, num_classes), which mixup and CutMix blend. The next call
            overwrites the images.
        """
        config, images = self.config, self.normalize(pixels, self._reuse_memory(pixels))
        images = resize_batch(images, batch.size)
        if config.color:
            images += self._compute_color_shifts(batch.numbers[:, _COLOR]).to(images.device, non_blocking=True)
        if config.erasing:
            images = random_erasing(images, batch.numbers[:, _ERASING], probability=config.erasing)
        return mixup_or_cutmix(images, targets, generator, mixup=config.mixup, cutmix=config.cutmix)

    def _compute_color_shifts(self, numbers: np.ndarray) -> Tensor:
        """Returns what AlexNet's augmentation adds to the channels of normalized images, float (N, 3, 1, 1)."""
        normal = torch.special.ndtri(torch.from_numpy(numbers).clamp(1e-6, 1 - 1e-6)).float() * self.config.color
        added: Tensor = normal * torch.tensor(_DEVIATIONS) @ torch.tensor(_COMPONENTS).T / self.std
        return added[:, :, None, None]

    def _reuse_memory(self, pixels: Tensor) -> Tensor | None:
        """Returns the memory of the last batch: on a CPU, new memory takes longer than the normalizing itself."""
        if pixels.device.type != "cpu":
            return None
        if self._memory.numel() != pixels.numel():
            self._memory = torch.empty(pixels.numel())
        return self._memory

    def normalize(self, pixels: Tensor, out: Tensor | None = None) -> Tensor:
        """Converts uint8 (N, H, W, 3) to float (N, 3, H, W), channels last in memory: that of `out`, or new memory."""
        count, height, width, channels = pixels.shape
        # Whole rows of pixels at a time: three values at a time are five times slower.
        mean, std = (values.repeat(width).to(pixels.device, non_blocking=True) for values in (self.mean, self.std))
        rows = pixels.reshape(count * height, width * channels)
        rows = rows.float() if out is None else out.view(rows.shape).copy_(rows)
        return rows.div_(255).sub_(mean).div_(std).view(count, height, width, channels).permute(0, 3, 1, 2)

    def denormalize(self, batch: Tensor) -> Tensor:
        """Converts float (N, 3, H, W) back to uint8 (N, H, W, 3)."""
        return (batch.permute(0, 2, 3, 1) * self.std + self.mean).mul(255).round().clamp(0, 255).byte()


def preview_augmentation(
    config: TrainConfig, images: ImageDataset, *, token: str | bool | None = None
) -> list[Image.Image]:
    """Returns `images` as a batch of the training of `config`; raises `ImageError` if one cannot be read."""
    resolved = config.resolved()
    transform = BatchTransform(resolved, read_model_config(config, token=token))
    loaded = (load_image(images.sources[index], name=images.name(index)) for index in range(len(images)))
    batch = Batch(np.arange(len(images)), draw_numbers(config.seed, 0, 0, len(images)), transform.crop_size)
    pixels = transform.crop([resize_whole(transform.model_config, image) for image in loaded], batch)
    targets = F.one_hot(torch.from_numpy(images.targets), len(images.labels)).float()
    augmented, _ = transform(torch.from_numpy(pixels), targets, batch, create_generator(config.seed, 0, 0))
    return [Image.fromarray(image.numpy()) for image in transform.denormalize(augmented)]


def resize_batch(images: Tensor, size: int) -> Tensor:
    """Resizes a batch (N, C, H, W) to (N, C, size, size)."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _crop_centers(images: Sequence[np.ndarray], side: int) -> np.ndarray:
    def crop_center(image: np.ndarray) -> np.ndarray:
        top, left = (round((length - side) / 2) for length in image.shape[:2])  # as `resize_and_crop` rounds
        return image[top : top + side, left : left + side]

    return np.stack([crop_center(image) for image in images])


def shift_and_flip(images: np.ndarray, numbers: np.ndarray, *, size: int, margin: int) -> np.ndarray:
    """Section 4.2's crops: a `size` x `size` window of each image (N, H, W, C), half of them mirrored.

    The window may reach `margin` pixels over the border, where the image is reflected (as in
    https://arxiv.org/abs/2404.00498; the paper pads with zeros). `numbers` (N, 5) are random, from 0 to 1.
    """
    count, height, width, _ = images.shape
    mirrored = numbers[:, :1] < 0.5
    top, left = (
        np.floor(number * (length - size + 2 * margin + 1)).astype(np.int64) - margin
        for number, length in ((numbers[:, 3:4], height), (numbers[:, 4:5], width))
    )
    rows = _reflect(np.arange(size) + top, height)
    columns = _reflect(np.where(mirrored, np.arange(size)[::-1], np.arange(size)) + left, width)
    return np.asarray(images[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]])


def _reflect(indices: np.ndarray, size: int) -> np.ndarray:
    indices = np.abs(indices)
    return np.where(indices >= size, 2 * (size - 1) - indices, indices)


def random_resized_crop(image: np.ndarray, numbers: np.ndarray, *, size: int, min_area: float) -> np.ndarray:
    """Inception's crops (https://arxiv.org/abs/1409.4842, section 6): a random window of an image, resized.

    uint8 (H, W, 3) to (size, size, 3). The window covers `min_area` to 1 of the area, at an aspect ratio of 3/4 to 4/3;
    it is smaller where such a window would be longer than the image. `numbers` (5,) are random, from 0 to 1.
    """
    mirrored, area, ratio, down, across = numbers
    height, width = image.shape[:2]
    area = height * width * (min_area + (1 - min_area) * area)
    ratio = math.exp((2 * ratio - 1) * math.log(4 / 3))
    wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
    fit = min(1.0, width / wide, height / tall)
    wide, tall = max(1, round(fit * wide)), max(1, round(fit * tall))
    top, left = int(down * (height - tall + 1)), int(across * (width - wide + 1))
    crop = resize_pixels(image[top : top + tall, left : left + wide], (size, size))
    return mirror_pixels(crop) if mirrored < 0.5 else crop


def random_scale_crop(image: np.ndarray, numbers: np.ndarray, *, size: int, share: float) -> np.ndarray:
    """Section 3.4's crops: a window of an image whose short side has a random length, half of them mirrored.

    uint8 (H, W, 3) to (size, size, 3). Without a change of scale the window has the fraction `share` of the short side.
    `numbers` (5,) are random, from 0 to 1.
    """
    mirrored, scale, _, down, across = numbers
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * share / (1 + (_MAX_SCALE - 1) * scale)))
    top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
    crop = resize_pixels(image[top : top + side, left : left + side], (size, size))
    return mirror_pixels(crop) if mirrored < 0.5 else crop


def random_erasing(images: Tensor, numbers: np.ndarray, *, probability: float) -> Tensor:
    """Sets a rectangle of 2% to 20% of the area to the mean, 0 after normalizing; https://arxiv.org/abs/1708.04896.

    `images` are (N, C, H, W), `numbers` (N, 5) are random, from 0 to 1.
    """
    height, width = images.shape[-2:]
    chosen, area, ratio, down, across = torch.from_numpy(numbers).float().T[..., None]
    area, ratio = 0.02 + 0.18 * area, ((2 * ratio - 1) * math.log(1 / 0.3)).exp()
    tall, wide = ((area * ratio).sqrt() * height).clamp(max=height), ((area / ratio).sqrt() * width).clamp(max=width)
    top, left = down * (height - tall), across * (width - wide)
    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top) & (row < top + tall) & (chosen < probability)
    columns = (column >= left) & (column < left + wide)
    mask = (rows[:, :, None] & columns[:, None, :])[:, None]
    return images.masked_fill(mask.to(images.device, non_blocking=True), 0.0)


def mixup_or_cutmix(
    images: Tensor, targets: Tensor, generator: Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Blends each image, and its target (N, num_classes), with its neighbor's; if both are on, one per batch.

    `mixup` (https://arxiv.org/abs/1710.09412) and `cutmix` (https://arxiv.org/abs/1905.04899) are the alphas of their
    Beta distributions; 0: off. Images are blended in pairs, so that a process needs no images of another. A batch is
    shuffled, so neighbors are random.
    """
    methods = [method for method, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha > 0]
    if not methods:
        return images, targets
    method = methods[int(torch.randint(len(methods), (), generator=generator))]
    alpha = mixup if method == "mixup" else cutmix
    draws = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=generator)
    share = float(draws[0] / draws.sum())
    other = (torch.arange(len(images), device=images.device) ^ 1).clamp(max=len(images) - 1)
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
