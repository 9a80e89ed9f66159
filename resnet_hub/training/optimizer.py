"""The optimizer, the average of the weights, and the layers that are not trained."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn

from resnet_hub.errors import TrainingError
from resnet_hub.model import ResNet
from resnet_hub.training.config import ResolvedTrainConfig


def create_optimizer(model: ResNet, config: ResolvedTrainConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of a run; each parameter group has a `factor` for the learning rate of the schedule."""
    head = list(model.fc.parameters())
    backbone = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    body_rate = config.body_rate if config.base else 1.0
    groups = [{"params": backbone, "factor": body_rate}, {"params": head, "factor": 1.0}]
    common: dict[str, Any] = {"params": groups, "lr": 0.0, "weight_decay": config.weight_decay}
    if config.optimizer == "lamb":
        return _create_lamb(groups, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(**common, betas=(config.momentum, 0.999), fused=True)
    return torch.optim.SGD(**common, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def _create_lamb(groups: list[dict[str, Any]], config: ResolvedTrainConfig) -> torch.optim.Optimizer:
    """Returns timm's LAMB, as arXiv 2110.00476 uses it: biases and BatchNorm do not decay."""
    try:
        from timm.optim.lamb import Lamb
    except ImportError:
        raise TrainingError("lamb needs timm: pip install timm.") from None
    split = []
    for group in groups:
        for is_vector in (False, True):
            chosen = [parameter for parameter in group["params"] if (parameter.ndim == 1) == is_vector]
            decay = 0.0 if is_vector else config.weight_decay
            split.append(group | {"params": chosen, "weight_decay": decay})
    optimizer: torch.optim.Optimizer = Lamb(split, lr=0.0, betas=(config.momentum, 0.999))
    return optimizer


@torch.no_grad()
def update_average(average: ResNet, model: ResNet, decay: float, count: int) -> None:
    """Updates an exponential moving average of the weights, after `count` updates before.

    Its decay rises from 0.1 to `decay` over the first steps, so that the average of a short run does not contain the
    initial weights. PyTorch's `AveragedModel` counts on the device, and each step would wait for the count.
    """
    weight = 1 - min(decay, (1 + count) / (10 + count)) if count else 1.0
    pairs = list(zip(*(chain(one.parameters(), one.buffers()) for one in (average, model)), strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([pair[0] for pair in floats], [pair[1] for pair in floats], weight)
    for old, new in pairs:
        if not old.is_floating_point():  # BatchNorm's counters
            old.copy_(new)


def frozen_modules(model: ResNet, stages: int) -> list[nn.Module]:
    """Returns the stem and the first `stages` stages; the last stage is always trained."""
    stages = min(stages, len(model.config.depths) - 1)
    return [model.conv1, model.bn1, *(model.layer1, model.layer2, model.layer3)[:stages]] if stages else []


def set_train_mode(model: nn.Module, frozen: Sequence[nn.Module], *, frozen_norm: bool) -> None:
    """Sets `model` to training mode, except the `frozen` modules and, with `frozen_norm`, all BatchNorm layers."""
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)] if frozen_norm else []
    for module in (*frozen, *norms):
        module.eval()
