"""Metrics and sample predictions on the validation images, in float32."""

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.model import ResNet
from resnet_hub.training.events import Sample
from resnet_hub.training.image_store import ImageStore
from resnet_hub.training.transforms import BatchTransform

_BATCH = 256
_SAMPLES = 6


def validate(
    model: ResNet, store: ImageStore, targets: Tensor, transform: BatchTransform, device: torch.device
) -> tuple[float, float]:
    """Returns the mean cross-entropy and the accuracy (0 to 1) of `model` on the validation images."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.inference_mode():
        for indices in torch.arange(len(targets)).split(_BATCH):
            batch_targets = targets[indices].to(device)
            logits = model(transform.normalize(store.read_validation(indices).to(device))).float()
            loss += float(F.cross_entropy(logits, batch_targets, reduction="sum"))
            correct += int((logits.argmax(1) == batch_targets).sum())
    return loss / len(targets), correct / len(targets)


def predict_samples(
    model: ResNet,
    store: ImageStore,
    targets: Tensor,
    labels: tuple[str, ...],
    transform: BatchTransform,
    device: torch.device,
) -> list[Sample]:
    """Returns the predictions for a few validation images, always the same ones."""
    indices = torch.linspace(0, len(targets) - 1, min(_SAMPLES, len(targets))).round().long()
    with torch.inference_mode():
        images = transform.normalize(store.read_validation(indices).to(device))
        best = model.eval()(images).float().softmax(1).max(1)
    rows = zip(indices.tolist(), targets[indices].tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return [Sample(index, labels[target], labels[predicted], score) for index, target, predicted, score in rows]
