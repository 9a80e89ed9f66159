"""Random changes to a batch of training pictures, on tensors, each drawn from a generator of its own.

A batch's draws depend on nothing but the generator handed in, so that a resumed or a distributed run repeats them;
they are made on the CPU, also where the pictures are on a GPU."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


def shift_and_flip(images: Tensor, random: Generator, *, size: int, margin: int, flip: bool = True) -> Tensor:
    """Section 4.2's crops: a `size` x `size` part of each picture (N, H, W, C), half of them mirrored.

    The part may reach `margin` pixels over the border, which is reflected there (as in
    https://arxiv.org/abs/2404.00498; the paper pads with zeros).
    """
    count, height, width, _ = images.shape
    top = torch.randint(-margin, height - size + margin + 1, (count, 1), generator=random)
    left = torch.randint(-margin, width - size + margin + 1, (count, 1), generator=random)
    mirrored = (torch.rand(count, 1, generator=random) < 0.5) & flip
    rows = _reflect(torch.arange(size) + top, height)
    columns = torch.arange(size).expand(count, -1)
    columns = _reflect(torch.where(mirrored, size - 1 - columns, columns) + left, width)
    return images[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(places: Tensor, size: int) -> Tensor:
    places = places.abs()
    return torch.where(places >= size, 2 * (size - 1) - places, places)


def random_resized_crop(
    images: Tensor, random: Generator, *, size: int, scale: tuple[float, float] = (0.35, 1.0), flip: bool = True
) -> Tensor:
    """Inception's crops (https://arxiv.org/abs/1409.4842, section 6): a random part of each picture, stretched.

    Floats (N, C, H, W) to (N, C, size, size). The part covers `scale` of the area, its sides in a ratio of 3/4 to 4/3.
    """
    count = len(images)
    area = torch.empty(count).uniform_(*scale, generator=random)
    ratio = torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3), generator=random).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    across, down = torch.rand(2, count, generator=random) * 2 - 1
    mirrored = torch.where((torch.rand(count, generator=random) < 0.5) & flip, -1.0, 1.0)
    zero = torch.zeros(count)
    # rows of the affine map from the output's square [-1, 1] to the picture's
    sideways = torch.stack([width * mirrored, zero, across * (1 - width)], 1)
    upright = torch.stack([zero, height, down * (1 - height)], 1)
    grid = F.affine_grid(torch.stack([sideways, upright], 1), [count, images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid.to(images), padding_mode="reflection", align_corners=False)


def random_erasing(images: Tensor, random: Generator, *, probability: float) -> Tensor:
    """A rectangle of 2% to 20% of the area set to the mean (0 after normalising); https://arxiv.org/abs/1708.04896."""
    count, _, height, width = images.shape
    area = torch.empty(count).uniform_(0.02, 0.2, generator=random)
    ratio = torch.empty(count).uniform_(math.log(0.3), math.log(1 / 0.3), generator=random).exp()
    tall, wide = ((area * ratio).sqrt() * height).clamp(max=height), ((area / ratio).sqrt() * width).clamp(max=width)
    top, left = torch.rand(2, count, generator=random) * torch.stack([height - tall, width - wide])
    chosen = torch.rand(count, generator=random) < probability
    row, column = torch.arange(height), torch.arange(width)
    rows = (row >= top[:, None]) & (row < (top + tall)[:, None]) & chosen[:, None]
    columns = (column >= left[:, None]) & (column < (left + wide)[:, None])
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None].to(images.device), 0.0)


def mixup_or_cutmix(
    images: Tensor, targets: Tensor, random: Generator, *, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Blends each picture, and its target (N, classes), with another of the batch; one kind a batch where both are on.

    `mixup` (https://arxiv.org/abs/1710.09412) and `cutmix` (https://arxiv.org/abs/1905.04899) are the alphas of their
    Beta distributions; 0 is off.
    """
    kinds = [kind for kind, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha > 0]
    if not kinds:
        return images, targets
    kind = kinds[int(torch.randint(len(kinds), (), generator=random))]
    alpha = mixup if kind == "mixup" else cutmix
    draws = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=random)
    share = float(draws[0] / draws.sum())
    other = torch.randperm(len(images), generator=random)
    if kind == "mixup":
        images = torch.lerp(images[other], images, share)
    else:
        height, width = images.shape[-2:]
        tall, wide = round(height * math.sqrt(1 - share)), round(width * math.sqrt(1 - share))
        top = int(torch.randint(height - tall + 1, (), generator=random))
        left = int(torch.randint(width - wide + 1, (), generator=random))
        images = images.clone()
        images[:, :, top : top + tall, left : left + wide] = images[other, :, top : top + tall, left : left + wide]
        share = 1 - tall * wide / (height * width)
    return images, torch.lerp(targets[other], targets, share)
