"""One step of a training: forward, backward, optimizer, average. It waits for nothing that a GPU computes."""

from collections.abc import Generator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.errors import TrainingError
from resnet_hub.training import schedule
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.config import ResolvedTrainConfig
from resnet_hub.training.events import OutOfMemory
from resnet_hub.training.initial_model import check_batch_norm
from resnet_hub.training.loader import Batch
from resnet_hub.training.optimizer import update_average
from resnet_hub.training.state import TrainingState

_PRESENT = 0.2  # share of a mixed image from which on its class counts as present (arXiv 2110.00476, section 3.1)


class TrainStep:
    """Trains on one batch after the other.

    Args:
        config: The settings of the run.
        accelerator: That of the run.
        prepared: The model as the accelerator has prepared it.
        state: What the step changes, except its position.
        transform: Augments the batch.
        class_weights: float (num_classes,).
    """

    def __init__(
        self,
        config: ResolvedTrainConfig,
        accelerator: Any,
        prepared: nn.Module,
        state: TrainingState,
        transform: BatchTransform,
        class_weights: Tensor,
    ):
        self.config, self.accelerator, self.prepared, self.state = config, accelerator, prepared, state
        self.transform, self.class_weights = transform, class_weights
        self.device, self.num_chunks = accelerator.device, config.accumulate  # of a batch
        self.forward = torch.compile(prepared, dynamic=False) if config.compile else prepared

    def run(self, batch: Batch, pixels: Tensor, rate: float, count: int) -> Generator[OutOfMemory, None, Tensor]:
        """Trains on a batch, in twice as many chunks each time it does not fit into the memory of the GPU.

        Args:
            batch: The share of this process.
            pixels: Its images, uint8 (N, H, W, 3).
            rate: The learning rate.
            count: The steps of the run before this one.

        Returns:
            The loss, a scalar on the device.
        """
        while True:
            try:
                return self._train(batch, pixels, rate, count)
            except torch.OutOfMemoryError:
                if not self._can_halve_chunks(len(pixels)):
                    raise
            self.num_chunks *= 2  # here the error no longer holds the tensors of the step
            self.state.optimizer.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            yield OutOfMemory(self.num_chunks, keeps_numbers=self.config.frozen_norm)

    def _can_halve_chunks(self, batch_size: int) -> bool:
        """Whether a smaller chunk can be trained on. Several processes fail, since the others would not repeat."""
        with suppress(TrainingError):
            check_batch_norm(replace(self.config, accumulate=2 * self.num_chunks), self.state.model.config, batch_size)
            return self.accelerator.num_processes == 1 and batch_size > self.num_chunks
        return False

    def _train(self, batch: Batch, pixels: Tensor, rate: float, count: int) -> Tensor:
        config, state = self.config, self.state
        if config.stochastic_depth:
            position = state.position.epoch, state.position.step, self.accelerator.process_index
            torch.manual_seed(schedule.create_generator(config.seed, *position).initial_seed())
        pixels = pixels.to(self.device, non_blocking=True)  # as bytes
        indices = torch.from_numpy(batch.targets).to(self.device, non_blocking=True)[:, None]
        targets = torch.zeros(len(pixels), len(self.class_weights), device=self.device).scatter_(1, indices, 1.0)
        generator = schedule.create_generator(config.seed, state.position.epoch, state.position.step)
        images, targets = self.transform(pixels, targets, batch, generator)
        class_weights = self.class_weights.to(self.device, non_blocking=True) if config.balance == "loss" else None
        chunks = list(zip(images.chunk(self.num_chunks), targets.chunk(self.num_chunks), strict=True))
        total = torch.zeros((), dtype=torch.float32 if self.device.type == "mps" else torch.float64, device=self.device)
        for number, (chunk, chunk_targets) in enumerate(chunks, 1):
            # Processes exchange their gradients once per step, with the last chunk.
            with self.accelerator.no_sync(self.prepared) if number < len(chunks) else nullcontext():
                with self.accelerator.autocast():
                    logits = self.forward(chunk).float()
                loss = compute_loss(logits, chunk_targets, class_weights, config)
                loss = loss * (len(chunk) / len(images))
                self.accelerator.backward(loss)
            total += loss.detach()
        if config.clip:
            self.accelerator.clip_grad_norm_(self.prepared.parameters(), config.clip)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.average:
            update_average(state.average, state.model, config.ema, count)
        return total


def compute_loss(logits: Tensor, targets: Tensor, class_weights: Tensor | None, config: ResolvedTrainConfig) -> Tensor:
    """Returns the mean loss of logits and targets, both (N, num_classes)."""
    if config.loss == "cross-entropy":
        return F.cross_entropy(logits, targets, class_weights, label_smoothing=config.label_smoothing)
    targets = (targets > _PRESENT).float()
    targets = targets + config.label_smoothing * (1 / logits.shape[1] - targets)
    return F.binary_cross_entropy_with_logits(logits, targets, class_weights)
