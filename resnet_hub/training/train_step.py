"""One step of a training: forward, backward, optimizer, average. It waits for nothing that a GPU computes."""

from collections.abc import Generator
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.errors import TrainingError, gpu_memory_is_full
from resnet_hub.training import schedule
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.config import ResolvedTrainConfig
from resnet_hub.training.events import OutOfMemory
from resnet_hub.training.gpu_memory import free_gpu_memory
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
        if accelerator.num_processes == 1:  # else the share of a process may be smaller than these chunks were
            self.num_chunks = max(self.num_chunks, state.position.chunks)
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
        images, targets = self._augment(batch, pixels)
        while True:
            is_alone = self.accelerator.num_processes == 1  # else no step is repeated
            buffers = [buffer.clone() for buffer in self.state.model.buffers()] if is_alone else []
            try:
                loss = self._add_gradients(images, targets)
                break
            except RuntimeError as error:
                if not gpu_memory_is_full(error) or not self._can_halve_chunks(len(pixels)):
                    raise
            self.num_chunks *= 2  # here the error no longer holds the tensors of the step
            self.state.position.chunks = self.num_chunks
            self.state.optimizer.zero_grad()
            for buffer, before in zip(self.state.model.buffers(), buffers, strict=True):
                buffer.copy_(before)  # chunks before the error have moved BatchNorm's statistics
            free_gpu_memory()
            yield OutOfMemory(self.num_chunks, keeps_numbers=self.config.frozen_norm)
        self._update_weights(rate, count)
        return loss

    def _can_halve_chunks(self, batch_size: int) -> bool:
        """Whether a smaller chunk can be trained on. Several processes fail, since the others would not repeat."""
        with suppress(TrainingError):
            check_batch_norm(replace(self.config, accumulate=2 * self.num_chunks), self.state.model.config, batch_size)
            return self.accelerator.num_processes == 1 and batch_size > self.num_chunks
        return False

    def _augment(self, batch: Batch, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the images (N, 3, H, W) and the targets (N, num_classes) of the step."""
        position = self.state.position
        pixels = pixels.to(self.device, non_blocking=True)  # as bytes
        indices = torch.from_numpy(batch.targets).to(self.device, non_blocking=True)[:, None]
        targets = torch.zeros(len(pixels), len(self.class_weights), device=self.device).scatter_(1, indices, 1.0)
        generator = schedule.create_generator(self.config.seed, position.epoch, position.step)
        return self.transform(pixels, targets, batch, generator)

    def _add_gradients(self, images: Tensor, targets: Tensor) -> Tensor:
        """Computes the gradients, chunk after chunk; returns the loss."""
        config = self.config
        if config.stochastic_depth:
            position = self.state.position.epoch, self.state.position.step, self.accelerator.process_index
            torch.manual_seed(schedule.create_generator(config.seed, *position).initial_seed())
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
        return total

    def _update_weights(self, rate: float, count: int) -> None:
        config, state = self.config, self.state
        if config.clip:
            self.accelerator.clip_grad_norm_(self.prepared.parameters(), config.clip)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.average:
            update_average(state.average, state.model, config.ema, count)


def compute_loss(logits: Tensor, targets: Tensor, class_weights: Tensor | None, config: ResolvedTrainConfig) -> Tensor:
    """Returns the mean loss of logits and targets, both (N, num_classes)."""
    if config.loss == "cross-entropy":
        return F.cross_entropy(logits, targets, class_weights, label_smoothing=config.label_smoothing)
    targets = (targets > _PRESENT).float()
    targets = targets + config.label_smoothing * (1 / logits.shape[1] - targets)
    return F.binary_cross_entropy_with_logits(logits, targets, class_weights)
