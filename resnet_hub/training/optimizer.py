"""The optimizer, the average of the weights, and the part of a base that is not trained."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resnet_hub.model import ResNet
from resnet_hub.training.config import ResolvedTrainConfig


def create_optimizer(model: ResNet, config: ResolvedTrainConfig) -> torch.optim.Optimizer:
    """Returns the optimizer of a run; each parameter group has a `factor` for the learning rate of the schedule."""
    backbone = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
    groups = [
        {"params": backbone, "factor": config.body_rate if config.base else 1.0},
        {"params": list(model.fc.parameters()), "factor": 1.0},
    ]
    if config.optimizer == "adamw":
        betas = (config.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(
        groups, lr=0.0, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.nesterov
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Returns an exponential average of the weights; it forgets faster early on, so a short run drops its start."""

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        if average[0].is_floating_point():
            torch._foreach_lerp_(list(average), list(current), weight)
        else:  # BatchNorm's counters
            torch._foreach_copy_(list(average), list(current))

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def frozen_modules(model: ResNet, stages: int) -> list[nn.Module]:
    """Returns the stem and the first `stages` stages; the last stage is always trained."""
    stages = min(stages, len(model.config.depths) - 1)
    return [model.conv1, model.bn1, *(model.layer1, model.layer2, model.layer3)[:stages]] if stages else []


def set_train_mode(model: nn.Module, frozen: Sequence[nn.Module], *, frozen_norm: bool) -> None:
    """Sets `model` to training, all but the `frozen` modules and, with `frozen_norm`, the BatchNorm statistics."""
    model.train()
    for module in frozen:
        module.eval()
    if frozen_norm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
