"""The drawing of a model, and the facts of its blocks, in both languages."""

import re

import pytest
import torch
from helpers.page import from_browser

from resnet_hub.analysis.anatomy import describe_anatomy
from resnet_hub.analysis.block_effects import feature_maps, residual_ratios
from resnet_hub.config import ResNetConfig
from resnet_hub.demo.inside_tab import model_markup
from resnet_hub.model import ResNet

TINY = ResNetConfig(depths=(1, 2), width=8, stem="3x3", image_size=32, id2label={0: "cat", 1: "dog", 2: "ship"})


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101", "resnet56"])
def test_every_part_is_a_box_inside_its_room(name: str) -> None:
    config = ResNetConfig.from_name(name)
    svg = model_markup.render_anatomy(config, from_browser())
    assert re.findall(r'data-value="([^"]+)"', svg) == [part.name for part in describe_anatomy(config)]
    boxes = re.findall(r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)" rx="6"', svg)
    rooms = [
        (float(y), float(height))
        for y, height in re.findall(r'class="stage" x="0.5" y="([\d.]+)".*?height="(\d+)"', svg)
    ]
    width = int(re.findall(r'viewBox="0 0 (\d+) ', svg)[0])
    for x, y, box_width, height in (map(int, box) for box in boxes):
        assert x + box_width <= width
        assert any(top <= y and y + height <= top + room for top, room in rooms)
    assert len({box[:2] for box in boxes}) == len(boxes)


def test_a_box_is_a_button_for_keyboards_and_screen_readers() -> None:
    svg = model_markup.render_anatomy(TINY, from_browser())
    assert svg.count('role="button" tabindex="0"') == 5 == svg.count('aria-pressed="false"')
    assert re.search(r'aria-label="2\.1 [\d.]+k layer2\.1, 16 × 16 × 16"', svg)  # begins with what is seen


def test_facts_are_in_the_visitors_language() -> None:
    part = describe_anatomy(TINY)[2]
    english, chinese = (model_markup.render_module(part, "tiny", from_browser(language)) for language in ("en", "zh"))
    assert "8 × 32 × 32 → 16 × 16 × 16" in english and "3x3, 16 → 3x3, 16" in english and "section 3.3" in english
    assert "Multiply-adds" in english and "乘加次数" in chinese
    assert "projection (B)" in english and "投影（B）" in chinese and "第 3.3 节，选项 B；公式 2" in chinese
    assert "resnet-hub info tiny --image PHOTO" in english and "resnet-hub info tiny --image PHOTO" in chinese
    for config in (
        ResNetConfig.from_name("resnext50_32x4d"),
        ResNetConfig.from_name("resnet20", shortcut="none"),
        ResNetConfig.from_name("wide_resnet50_2"),
    ):
        for part in describe_anatomy(config):
            assert not re.search(
                r"section|figure|table|option|group|wide", model_markup.render_module(part, "tiny", from_browser("zh"))
            )


def test_maps_and_ratios_of_a_photo_are_shown() -> None:
    torch.manual_seed(0)
    model, images = ResNet(TINY).eval(), torch.randn(1, 3, 32, 32)
    maps = model_markup.render_feature_maps(
        feature_maps(model, images, "layer2.0", strongest=4)["layer2.0"], "layer2.0", from_browser()
    )
    assert maps.count('<img src="data:image/jpeg') == 4 and maps.count("Channel") == 8 and "&lt;" not in maps
    assert "feature_maps(model, images, &#34;layer2.0&#34;, strongest=8)" in maps
    ratios = residual_ratios(model, images)
    chart = model_markup.render_ratios(ratios, "layer2.0", False, from_browser())
    assert f"layer2.0: {ratios['layer2.0']:.2f}" in chart and chart.count("<circle") == 4
    assert "norm of y − x" in model_markup.render_ratios(ratios, "layer2.0", True, from_browser())


def test_a_map_without_a_response_is_black() -> None:
    torch.manual_seed(0)
    model = ResNet(TINY).eval()
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    found = feature_maps(model, torch.zeros(1, 3, 32, 32), "layer1.0", strongest=1)["layer1.0"]
    assert "<img" in model_markup.render_feature_maps(found, "layer1.0", from_browser())
