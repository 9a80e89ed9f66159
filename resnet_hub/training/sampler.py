"""The images of each step of a run: their order, their random numbers, and the share of each process."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_hub.errors import TrainingError
from resnet_hub.training import schedule
from resnet_hub.training.config import ResolvedTrainConfig
from resnet_hub.training.loader import Batch


@dataclass
class BatchSampler:
    """Yields the batches of a run, from any position on.

    Attributes:
        config: The settings of the run, with its epochs.
        targets: int64 (N,).
        num_classes: Number of classes.
        crop_size: Height and width of the training crops.
        process: The index of this process among `num_processes`.
        batch_size: Images of a step, over all processes.
        steps: Steps of an epoch; the remaining images of a shuffled epoch are not used.
    """

    config: ResolvedTrainConfig
    targets: Tensor
    num_classes: int
    crop_size: int
    process: int = 0
    num_processes: int = 1

    def __post_init__(self) -> None:
        count, processes = len(self.targets), self.num_processes
        is_mixed = processes > 1 and (self.config.mixup or self.config.cutmix)  # images are mixed in pairs
        multiple = 2 * processes if is_mixed else processes
        self.batch_size = min(self.config.batch_size, count) // multiple * multiple
        if not self.batch_size:
            raise TrainingError(f"{count} images cannot be shared by {processes} processes.")
        self.steps = count // self.batch_size
        self.class_weights = schedule.compute_class_weights(self.targets, self.num_classes)

    def iterate(self, epoch: int, step: int) -> Iterator[Batch]:
        """Yields the share of this process of each batch from `step` of `epoch` on."""
        config, length = self.config, self.batch_size // self.num_processes
        assert config.epochs is not None
        for number in range(epoch, config.epochs):
            order = self.shuffle(number).numpy()
            size = schedule.image_size(config.first_size, self.crop_size, number, config.epochs)
            for current in range(step if number == epoch else 0, self.steps):
                start = current * self.batch_size + self.process * length
                numbers = schedule.draw_numbers(config.seed, number, start, length)
                yield Batch(order[start : start + length], numbers, size)

    def shuffle(self, epoch: int) -> Tensor:
        """Returns the indices (N,) of an epoch: shuffled, or drawn so that all classes are as frequent."""
        generator = schedule.create_generator(self.config.seed, epoch)
        if self.config.balance == "sampling":
            chances = self.class_weights[self.targets].double()
            return torch.multinomial(chances, len(chances), replacement=True, generator=generator)
        return torch.randperm(len(self.targets), generator=generator)
