"""Metrics and sample predictions on the validation images."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.model import ResNet
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.events import Sample

_BATCH, _SAMPLES = 256, 6


@dataclass
class ValidationSet:
    """Images uint8 (N, H, W, 3) at the size of the network, and targets int64 (N,); models are evaluated in float32."""

    images: Tensor
    targets: Tensor
    labels: tuple[str, ...]
    transform: BatchTransform

    def evaluate(self, model: ResNet) -> tuple[float, float]:
        """Returns the mean cross-entropy and the accuracy (0 to 1)."""
        loss, correct = 0.0, 0
        for indices in torch.arange(len(self.targets)).split(_BATCH):
            logits, targets = self._compute_logits(model, indices), self.targets[indices]
            loss += float(F.cross_entropy(logits, targets, reduction="sum"))
            correct += int((logits.argmax(1) == targets).sum())
        return loss / len(self.targets), correct / len(self.targets)

    def predict_samples(self, model: ResNet) -> list[Sample]:
        """Returns the predictions for a few images, always the same ones."""
        indices = torch.linspace(0, len(self.targets) - 1, min(_SAMPLES, len(self.targets))).round().long()
        scores, predicted = self._compute_logits(model, indices).softmax(1).max(1)
        rows = zip(indices.tolist(), self.targets[indices].tolist(), predicted.tolist(), scores.tolist(), strict=True)
        return [Sample(index, self.labels[target], self.labels[best], score) for index, target, best, score in rows]

    def _compute_logits(self, model: ResNet, indices: Tensor) -> Tensor:
        with torch.inference_mode():
            batch = self.transform.normalize(self.images[indices].to(next(model.parameters()).device))
            logits: Tensor = model.eval()(batch)
        return logits.float().cpu()
