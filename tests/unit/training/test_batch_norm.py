"""Which batches BatchNorm cannot be trained on, and that training refuses them before it starts."""

from pathlib import Path

import pytest
from helpers.data import write_zip

from resnet_hub.config import ResNetConfig
from resnet_hub.errors import TrainingError
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.initial_model import check_batch_norm
from resnet_hub.training.loop import train

CASES = {  # settings, images of a batch -> whether one value a channel is left
    "one image, one pixel": ({"image_size": 32}, 1, True),
    "a part of one image": ({"image_size": 32, "accumulate": 2}, 3, True),
    "more parts than images": ({"image_size": 32, "accumulate": 8}, 4, True),
    "small images at first": ({"image_size": 64, "first_size": 32}, 1, True),
    "two images": ({"image_size": 32}, 2, False),
    "even parts": ({"image_size": 32, "accumulate": 2}, 4, False),
    "four pixels": ({"image_size": 64}, 1, False),
}


@pytest.mark.parametrize(("settings", "batch_size", "is_refused"), CASES.values(), ids=CASES)
def test_one_value_a_channel(settings: dict[str, int], batch_size: int, is_refused: bool) -> None:
    config = TrainConfig(data="d", run="r", **settings).resolved()  # type: ignore[arg-type]
    model = ResNetConfig.from_name("resnet18", num_classes=2, image_size=settings["image_size"])
    if is_refused:
        with pytest.raises(TrainingError, match="BatchNorm needs at least two values per channel"):
            check_batch_norm(config, model, batch_size)
    else:
        check_batch_norm(config, model, batch_size)


def test_training_refuses_it_before_it_starts(tmp_path: Path) -> None:
    config = TrainConfig(
        data=str(write_zip(tmp_path / "d.zip", count=4)), run=str(tmp_path / "run"), image_size=32, batch_size=1
    )
    with pytest.raises(TrainingError, match="at 32 pixels the last feature map has one pixel"):
        list(train(config))
    assert not (tmp_path / "run" / "run.json").exists()
