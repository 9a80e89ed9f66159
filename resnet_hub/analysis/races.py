"""Plain and residual networks that learn side by side: a race on small images, and stacks that learn the identity.

He et al. 2015 (https://arxiv.org/abs/1512.03385), section 4.2 and figure 6: with shortcuts A both networks have the
same layers and parameters, so that only the shortcuts differ; the deeper they are, the further the plain one
falls behind.

Sections 1 and 3.1: added layers could be identities, so that a deeper network should be no worse; yet a solver finds it
hard to fit the identity by several nonlinear layers. A residual block only has to drive its residual to zero: by its
weights, or behind BatchNorm, which undoes their size, by the scale of the last BatchNorm.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from resnet_hub.analysis.labeled_images import LabeledImages, compute_accuracy, count_correct
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet

DIRECTIONS, PERIODS = 4, (8.0, 4.0)  # pixels
CLASSES = tuple(f"{180 * i // DIRECTIONS} degrees, period {period:g}" for period in PERIODS for i in range(DIRECTIONS))


def create_gratings(count: int, *, size: int = 16, seed: int = 0) -> LabeledImages:
    """Create images of gratings, normalized, with random phase, color and noise.

    The standard deviation of the noise is 1, that of a grating 1/2.

    Args:
        count: Number of images.
        size: Height and width in pixels.
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
    colors = generator.uniform(0.4, 1, (count, 3, 1, 1))
    images = waves[:, None] * colors + generator.standard_normal((count, 3, size, size))
    return LabeledImages(torch.from_numpy(images.astype(np.float32)), torch.from_numpy(targets.astype(np.int64)))


_HELD_OUT, _TRAIN, _SIZE = 512, 4096, 16  # images of the default data, and their side in pixels
_CHANNELS = 3  # of a network that is made from its number of layers
_WEIGHT_DECAY, _MOMENTUM, _WARMUP = 1e-4, 0.9, 20  # section 4.2; the last in steps


class RaceStep(NamedTuple):
    """The state of a race after one step of all networks, by the name of the network."""

    step: int
    seconds: float  # since the start
    losses: dict[str, float]  # of the batch, before the step
    train_accuracies: dict[str, float]  # of the same batch
    accuracies: dict[str, float] | None  # on held-out images; None between evaluations


def create_cifar_config(
    layers: int, *, shortcut: str = "A", num_classes: int = 10, width: int = 16, image_size: int = 32
) -> ResNetConfig:
    """Create the config of a network of the CIFAR family (section 4.2): 6n + 2 layers, three stages of n blocks.

    Raises:
        AnalysisError: The number of layers is not 8, 14, 20, 26, ...
    """
    if layers < 8 or layers % 6 != 2:
        raise AnalysisError(f"A network of the CIFAR family cannot have {layers} layers; it has 6n + 2: 8, 14, 20, ...")
    settings = {"depths": ((layers - 2) // 6,) * 3, "shortcut": shortcut, "width": width, "image_size": image_size}
    return ResNetConfig.from_name("resnet20", num_classes=num_classes, **settings)


def race(
    networks: int | Mapping[str, ResNetConfig] = 20,
    train: LabeledImages | None = None,
    *,
    width: int = 8,
    steps: int | None = None,
    seconds: float | None = 60.0,
    batch_size: int = 64,
    learning_rate: float = 0.05,
    evaluate_every: int = 20,
    seed: int = 0,
) -> Iterator[RaceStep]:
    """Train networks side by side on the same batches, by default a plain and a residual one; yield after each step.

    Args:
        networks: Layers of a network named "plain" and one named "residual": 6n + 2, such as 8, 20 or 56. Or configs
            by name; networks with the same layers start from the same weights.
        train: Normalized images (N, C, H, H), with C = 3 for a number of layers, and targets, the first of which
            evaluate too; by default gratings that are made up here (`create_gratings`), and others to evaluate.
        width: Channels of the first stage where `networks` is a number of layers; the paper has 16.
        steps: How many steps to train; by default until the time is up.
        seconds: After how many seconds to stop; None: never.
        batch_size: Images of a step.
        learning_rate: After a warm-up of 20 steps.
        evaluate_every: Steps between two evaluations; the last step is evaluated too.
        seed: Of weights, batches and gratings.

    Yields:
        Losses and accuracies by the names of the networks.

    Raises:
        AnalysisError: A value is out of its range.
    """
    if steps is None and seconds is None:
        raise AnalysisError("The race has no end. Give it steps or seconds.")
    if batch_size < 2 or evaluate_every < 1 or (steps is not None and steps < 1):
        raise AnalysisError("A race needs at least 1 step, 2 images in a batch, and 1 step between evaluations.")
    if train is None:
        images, targets = create_gratings(_TRAIN + _HELD_OUT, size=_SIZE, seed=seed)
        train = LabeledImages(images[_HELD_OUT:], targets[_HELD_OUT:])
    else:
        images, targets = train
        if images.ndim != 4 or not len(images) or len(images) != len(targets):
            shape = f"shape {tuple(images.shape)}, and there are {len(targets)} targets"
            raise AnalysisError(f"The images have {shape}. A race takes images (N, C, H, H) and N targets.")
    held_out = LabeledImages(images[:_HELD_OUT], targets[:_HELD_OUT])
    if isinstance(networks, int):
        if images.shape[1] != _CHANNELS:
            raise AnalysisError(f"The images have {images.shape[1]} channels. Give the race configs, or color images.")
        size = {"num_classes": int(train.targets.max()) + 1, "width": width, "image_size": train.images.shape[-1]}
        networks = {
            name: create_cifar_config(networks, shortcut=shortcut, **size)
            for name, shortcut in ((PLAIN, "none"), (RESIDUAL, "A"))
        }
    models = {name: _create_racer(config, seed) for name, config in networks.items()}
    optimizers = {name: _create_optimizer(model) for name, model in models.items()}
    generator, start, step, is_last = torch.Generator().manual_seed(seed), time.monotonic(), 0, False
    while not is_last:
        indices = torch.randint(len(train.targets), (batch_size,), generator=generator)
        batch, rate = LabeledImages(train.images[indices], train.targets[indices]), min(1.0, (step + 1) / _WARMUP)
        results = {
            name: _train_step(model, optimizers[name], batch, learning_rate * rate) for name, model in models.items()
        }
        losses, train_accuracies = ({name: result[i] for name, result in results.items()} for i in range(2))
        step, elapsed = step + 1, time.monotonic() - start
        is_last = (steps is not None and step >= steps) or (seconds is not None and elapsed >= seconds)
        is_evaluated = is_last or step % evaluate_every == 0
        scores = {name: compute_accuracy(model, held_out) for name, model in models.items()} if is_evaluated else None
        yield RaceStep(step, time.monotonic() - start, losses, train_accuracies, scores)


def _create_racer(config: ResNetConfig, seed: int) -> ResNet:
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(seed)
        return ResNet(config).train()


def _create_optimizer(model: ResNet) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True)


def _train_step(
    model: ResNet, optimizer: torch.optim.Optimizer, batch: LabeledImages, rate: float
) -> tuple[float, float]:
    for group in optimizer.param_groups:
        group["lr"] = rate
    logits = model(batch.images)
    loss = F.cross_entropy(logits, batch.targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach()), count_correct(logits, batch.targets) / len(batch.targets)


Target = Literal["identity", "near"]
PLAIN, RESIDUAL = "plain", "residual"
_IDENTITY_BATCH, _IDENTITY_RATE = 128, 1e-2
_PERTURBATION = 0.1  # norm of the target's change of its input, relative to the input


class IdentityStep(NamedTuple):
    """The losses after one step of both stacks: mean square error over the variance of the target."""

    step: int
    losses: dict[str, float]  # keys "plain" and "residual"


class _Block(nn.Module):
    """Two layers with BatchNorm, as in figure 2 of the paper, but fully connected."""

    def __init__(self, width: int, *, has_shortcut: bool):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)
        self.fc2, self.bn2 = nn.Linear(width, width, bias=False), nn.BatchNorm1d(width)
        self.has_shortcut = has_shortcut
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.bn2(self.fc2(self.bn1(self.fc1(x)).relu()))
        return (residual + x if self.has_shortcut else residual).relu()


def learn_identity(
    blocks: int = 5,
    *,
    target: Target = "identity",
    width: int = 32,
    steps: int = 500,
    seed: int = 0,
) -> Iterator[IdentityStep]:
    """Train a plain and a residual stack of blocks, with equal initial weights; yield the losses after each step.

    The inputs are absolute values of normal numbers, new ones in each step: not negative, as behind a ReLU, so that a
    plain stack can represent the identity too, up to the statistics of the batch that its BatchNorm divides by.

    Args:
        blocks: Blocks of two layers.
        target: "identity", or "near": the relu of the input plus a fixed random linear map of a tenth of its size.
        width: Dimension of inputs, layers and outputs.
        steps: Steps of Adam.
        seed: Of weights and inputs.

    Yields:
        The losses of both stacks, after each step.

    Raises:
        AnalysisError: A value is out of its range.
    """
    if target not in get_args(Target):
        raise AnalysisError(f"target is {target!r}; choose one of {', '.join(get_args(Target))}.")
    if blocks < 1 or width < 1 or steps < 1:
        raise AnalysisError("blocks, width and steps must be at least 1.")
    generator = Generator().manual_seed(seed)
    change = torch.randn(width, width, generator=generator) * _PERTURBATION / width**0.5
    stacks = {}
    with torch.random.fork_rng(devices=[]):
        for name in (PLAIN, RESIDUAL):
            torch.manual_seed(seed)
            stacks[name] = nn.Sequential(*(_Block(width, has_shortcut=name == RESIDUAL) for _ in range(blocks)))
    optimizers = {name: torch.optim.Adam(stack.parameters(), _IDENTITY_RATE) for name, stack in stacks.items()}
    for step in range(1, steps + 1):
        x = torch.randn(_IDENTITY_BATCH, width, generator=generator).abs()
        wanted = x if target == "identity" else (x + x @ change).relu()
        losses = {}
        for name, stack in stacks.items():
            loss = F.mse_loss(stack(x), wanted) / wanted.var()
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            losses[name] = float(loss.detach())
        yield IdentityStep(step, losses)
