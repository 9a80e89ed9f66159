"""Metrics and sample predictions on the validation images."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.inference.engines import create_bf16_engine
from resnet_hub.inference.onnx_graph import fold_batchnorm
from resnet_hub.model import ResNet
from resnet_hub.training.accelerator import evaluates_in_bf16
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.events import Sample
from resnet_hub.training.gpu_memory import ChunkedFunction
from resnet_hub.training.loader import Inputs, split_batches

_BATCH, _SAMPLES = 256, 6


@dataclass
class ValidationSet:
    """The validation images of a run, evaluated in the precision of the steps. Each process evaluates its share."""

    inputs: Inputs
    transform: BatchTransform
    accelerator: Any

    def evaluate(self, model: ResNet) -> tuple[float, float]:
        """Returns the mean cross-entropy and the accuracy (0 to 1)."""
        images, processes = self.inputs.validation, self.accelerator.num_processes
        if processes > 1:  # on CPUs each has statistics of its own; those of the first are saved
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        totals, all_targets = torch.zeros(2, dtype=torch.float64), torch.from_numpy(images.images.targets)
        share = np.arange(self.accelerator.process_index, len(images), processes)
        loading = self.inputs.loader.load(images, split_batches(share, _BATCH), lambda decoded, _: np.stack(decoded))
        forward = self._prepare_forward(model)
        with closing(loading):
            for batch, pixels in loading:
                logits, targets = forward(pixels), all_targets[batch.indices]
                totals[0] += F.cross_entropy(logits, targets, reduction="sum")
                totals[1] += (logits.argmax(1) == targets).sum()
        if processes > 1:
            totals = self.accelerator.reduce(totals.to(self.accelerator.device), "sum").cpu()
        loss, accuracy = (totals / len(images)).tolist()
        return loss, accuracy

    def predict_samples(self, model: ResNet) -> list[Sample]:
        """Returns the predictions for a few images, always the same ones."""
        images = self.inputs.validation
        count, labels, targets = len(images), images.images.labels, images.images.targets
        indices = torch.linspace(0, count - 1, min(_SAMPLES, count)).round().long().tolist()
        pixels = torch.from_numpy(np.stack([images.read(index)[1] for index in indices]))
        scores, predicted = self._prepare_forward(model)(pixels).softmax(1).max(1)
        rows = zip(indices, predicted.tolist(), scores.tolist(), strict=True)
        return [Sample(index, labels[targets[index]], labels[best], score) for index, best, score in rows]

    def _prepare_forward(self, model: ResNet) -> Callable[[Tensor], Tensor]:
        """Returns a function from pixels to logits on the CPU."""
        model.eval()
        engine = create_bf16_engine(fold_batchnorm(model)) if evaluates_in_bf16(self.accelerator) else None

        def forward(pixels: Tensor) -> Tensor:
            with torch.inference_mode():
                batch = self.transform.normalize(pixels.to(model.device))
                if engine:
                    return engine(batch).logits
                with self.accelerator.autocast():
                    logits: Tensor = model(batch)
                return logits.float().cpu()

        return ChunkedFunction(forward)
