"""Whether BatchNorm can be trained: each batch must have more than one value a channel."""

import math
from dataclasses import replace

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import TrainingError
from resnet_hub.training import schedule
from resnet_hub.training.config import ResolvedTrainConfig


def check_batch_norm(config: ResolvedTrainConfig, model: ResNetConfig, batch_size: int) -> None:
    """Checks that no forward pass computes the statistics of a single value.

    Args:
        config: The settings of the run.
        model: The network.
        batch_size: Images of a step in one process. `config.accumulate` splits them into parts.

    Raises:
        TrainingError: If a part has one image, and the last feature map of the network one pixel.
    """
    if config.frozen_norm or config.epochs == 0:
        return
    part = math.ceil(batch_size / config.accumulate)
    smallest = batch_size % part or part  # as `Tensor.chunk` splits
    size = schedule.image_size(config.first_size, config.crop_size or model.image_size, 0, config.epochs or 1)
    if smallest > 1 or min(layer.size for layer in replace(model, image_size=size).convolutions()) > 1:
        return
    cause = "the batch has" if batch_size == 1 else f"of the batch of {batch_size}, a part has"
    raise TrainingError(
        f"BatchNorm cannot be trained on one value a channel: {cause} one image, and at {size} pixels the last feature "
        "map has one pixel. Choose a batch_size that leaves at least two images, a larger image_size, or frozen_norm."
    )
