"""The models of the page: suggestions from the Hub, and networks that are too large for it."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from resnet_hub.config import ResNetConfig
from resnet_hub.demo import models as module
from resnet_hub.demo.i18n import PageError
from resnet_hub.demo.models import Models


def test_a_long_text_is_no_search_and_stops_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Mock(side_effect=lambda text: [text])
    monkeypatch.setattr(module, "_search_hub", hub)
    shelf = Models(tmp_path)
    assert [shelf.search(text) for text in ("x" * 97, "x", "resnet")] == [[], [], ["resnet"]]
    hub.assert_called_once_with("resnet")


@pytest.mark.parametrize(
    "network",
    [
        {"depths": (1,), "width": 64, "stem": "3x3", "image_size": 1024},  # 137 million numbers at once
        {"depths": (40, 40), "width": 128, "stem": "3x3", "image_size": 256},  # a trillion multiplications
    ],
    ids=["memory", "work"],
)
def test_a_network_too_large_for_the_page_is_refused_by_its_config(network: dict[str, Any], tmp_path: Path) -> None:
    """The weights, which are not even there, are not looked for."""
    config = ResNetConfig(id2label={0: "cat", 1: "dog"}, **network)
    assert (config.peak_numbers > module._PEAK) != (config.multiply_adds > module._WORK)
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "config.json").write_text(config.to_json())
    reason = r"^slow needs more time or memory per image than this page allows\. Choose a smaller model\.$"
    with pytest.raises(PageError, match=reason):
        Models(tmp_path).get("slow")
    usual = ResNetConfig.from_name("resnext101_64x4d")
    assert usual.peak_numbers < module._PEAK and usual.multiply_adds < module._WORK
