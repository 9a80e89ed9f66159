"""The model that a run starts from."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_hub.checkpoints.folder import CONFIG_FILE
from resnet_hub.checkpoints.load import read_config
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import TrainingError
from resnet_hub.model import ResNet
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.run_dir import RunDir


def create_model(config: TrainConfig, run: RunDir, labels: tuple[str, ...]) -> tuple[ResNet, bool]:
    """Returns a new model, or the base with a head for `labels`, and whether that head is the base's own."""
    id2label = dict(enumerate(labels))
    changes = _preprocessing_changes(config)
    if not config.base:
        return ResNet(ResNetConfig.from_name(config.architecture, id2label=id2label, **changes)), False
    model = ResNet.from_pretrained(_find_base(config.base, run))
    model.card = None  # its metrics are those of the base
    keeps_head = config.recipe != "head" and model.config.id2label == id2label
    if not keeps_head:
        model.reset_head(list(labels))
    model.config = replace(model.config, **changes)
    return model, keeps_head


def read_model_config(
    config: TrainConfig, run: RunDir | None = None, *, token: str | bool | None = None
) -> ResNetConfig:
    """Returns the config of the model of a run, with the labels of its base.

    Raises:
        TrainingError: If the base does not take RGB images.
    """
    if not config.base:
        return ResNetConfig.from_name(config.architecture, **_preprocessing_changes(config))
    base = read_config(_find_base(config.base, run) if run else config.base, token=token)
    if base.in_channels != 3:
        raise TrainingError(
            f"The base {config.base} takes {base.in_channels} channels, images have 3; choose another base."
        )
    return replace(base, **_preprocessing_changes(config))


def _find_base(base: str, run: RunDir) -> str | Path:
    """Returns the run's own model if it has one, since the base may have moved, or the Hub be out of reach."""
    has_model = run.state.is_file() and (run.model / CONFIG_FILE).is_file()
    return run.model if has_model else base


def _preprocessing_changes(config: TrainConfig) -> dict[str, Any]:
    changes = {"image_size": config.image_size, "crop_pct": config.crop_pct}
    return {key: value for key, value in changes.items() if value is not None}
