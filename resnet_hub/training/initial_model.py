"""The model that a run starts from. The run directory keeps a copy of the base, which may be moved or deleted."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnet_hub.checkpoints.default_model import DefaultModel, choose_default_model
from resnet_hub.checkpoints.load import read_config
from resnet_hub.checkpoints.save import CONFIG_FILE
from resnet_hub.config import Reliability, ResNetConfig
from resnet_hub.convert.state_dict import describe_bad_values
from resnet_hub.errors import CheckpointError, TrainingError
from resnet_hub.model import ResNet
from resnet_hub.training import schedule
from resnet_hub.training.config import ResolvedTrainConfig, TrainConfig
from resnet_hub.training.run_dir import RunDir


def choose_base() -> DefaultModel:
    """Returns the base that "auto" stands for: larger on a GPU, and the included one if that cannot serve."""
    on_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return choose_default_model("base", on_gpu=on_gpu, check=check_base)


def check_base(source: str) -> None:
    """Checks that a run can start from a model on this disk.

    Raises:
        ResNetHubError: If its files are damaged, or it does not take RGB images.
    """
    hub: dict[str, Any] = {"local_files_only": True}
    _check_channels(read_config(source, **hub), source)
    if problem := describe_bad_values(ResNet.from_pretrained(source, **hub).state_dict()):
        raise CheckpointError(f"The weights of {source} are damaged: the model has {problem}.")


def _check_channels(config: ResNetConfig, base: str) -> None:
    if config.in_channels != 3:
        raise TrainingError(f"The base {base} takes {config.in_channels} channels, images have 3; choose another base.")


def create_model(
    config: TrainConfig, run: RunDir, labels: tuple[str, ...], *, copies_base: bool
) -> tuple[ResNet, bool]:
    """Returns a new model, or the base with a head for `labels`, and whether that head is the head of the base.

    With `copies_base`, the base and its model card are copied into the run directory.
    """
    id2label = dict(enumerate(labels))
    if not config.base:
        return ResNet(replace(read_model_config(config), id2label=id2label)), False
    model = ResNet.from_pretrained(_find_base(config.base, run))
    if copies_base:
        model.save_pretrained(run.base)
    model.card = None  # its metrics are those of the base
    keeps_head = config.recipe != "head" and model.config.id2label == id2label
    if not keeps_head:
        model.reset_head(list(labels))
    model.config = replace(_set_preprocessing(model.config, config), reliability=Reliability())  # of the base's weights
    return model, keeps_head


def read_model_config(
    config: TrainConfig, run: RunDir | None = None, *, token: str | bool | None = None
) -> ResNetConfig:
    """Returns the config of the model of a run, with the labels of its base.

    Raises:
        TrainingError: If the base does not take RGB images.
    """
    if not config.base:
        return _set_preprocessing(ResNetConfig.from_name(config.architecture), config)
    base = read_config(_find_base(config.base, run) if run else config.base, token=token)
    _check_channels(base, config.base)
    return _set_preprocessing(base, config)


def _find_base(base: str, run: RunDir) -> str | Path:
    """Returns the copy of the base in the run directory; in a run of version 0.1, which has none, the run's model."""
    copies = (run.base, run.model) if run.exists() else ()
    return next((folder for folder in copies if (folder / CONFIG_FILE).is_file()), base)


def _set_preprocessing(model_config: ResNetConfig, config: TrainConfig) -> ResNetConfig:
    changes: dict[str, Any] = {"image_size": config.image_size, "crop_pct": config.crop_pct}
    return replace(model_config, **{key: value for key, value in changes.items() if value is not None})


def check_batch_norm(config: ResolvedTrainConfig, model: ResNetConfig, batch_size: int) -> None:
    """Checks that no forward pass computes the statistics of a single value.

    Args:
        config: The settings of the run.
        model: The network.
        batch_size: Images of a step in one process. `config.accumulate` splits them into chunks.

    Raises:
        TrainingError: If a chunk has one image, and the last feature map of the network one pixel.
    """
    if config.frozen_norm or config.epochs == 0:
        return
    chunk = math.ceil(batch_size / config.accumulate)
    smallest = batch_size % chunk or chunk  # as `Tensor.chunk` splits
    size = schedule.image_size(config.first_size, config.crop_size or model.image_size, 0, config.epochs or 1)
    if smallest > 1 or min(layer.size for layer in replace(model, image_size=size).convolutions()) > 1:
        return
    cause = "the batch has" if batch_size == 1 else f"of the batch of {batch_size}, a chunk has"
    raise TrainingError(
        f"BatchNorm needs at least two values per channel: {cause} one image, and at {size} pixels the last feature "
        "map has one pixel. Choose a batch_size that leaves at least two images, a larger image_size, or frozen_norm."
    )
