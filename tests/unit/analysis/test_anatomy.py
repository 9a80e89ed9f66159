"""The anatomy against the network that it describes."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from helpers.networks import network
from torch import nn

from resnet_hub.analysis import describe_anatomy, feature_maps, residual_ratios
from resnet_hub.config import VARIANTS, ResNetConfig
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet


@pytest.mark.parametrize("name", VARIANTS)
def test_the_parts_add_up(name: str) -> None:
    config = ResNetConfig.from_name(name, num_classes=7)
    parts = describe_anatomy(config)
    assert sum(part.num_parameters for part in parts) == config.num_parameters
    assert sum(part.multiply_adds for part in parts) == config.multiply_adds
    assert [part.name for part in parts[1:3]] == ["layer1.0", "layer1.1" if config.depths[0] > 1 else "layer2.0"]
    assert len(parts) == sum(config.depths) + 2
    for before, after in pairwise(parts):
        assert before.output_shape == after.input_shape
    json.dumps([part.to_dict() for part in parts])


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "D", "none"])
@pytest.mark.parametrize("name", ["resnet20", "resnet26t"])
def test_shapes_and_parameters_are_those_of_the_modules(name: str, shortcut: str) -> None:
    config = ResNetConfig.from_name(name, num_classes=3, shortcut=shortcut, image_size=50)
    model = ResNet(config).eval()
    parts = {part.name: part for part in describe_anatomy(config)}
    with torch.inference_mode():
        x = model.forward_stem(torch.zeros(1, 3, 50, 50))
        assert parts["stem"].output_shape == tuple(x.shape[1:])
        for stage in range(1, len(config.depths) + 1):
            for index, block in enumerate(model.get_submodule(f"layer{stage}")):
                part = parts[f"layer{stage}.{index}"]
                assert part.input_shape == tuple(x.shape[1:])
                x = block(x)
                assert part.output_shape == tuple(x.shape[1:])
                assert part.num_parameters == sum(weight.numel() for weight in block.parameters())
                is_identity = type(block.downsample) is torch.nn.Identity and shortcut != "none"
                assert (part.shortcut == "identity") == is_identity


def test_each_block_has_its_equation() -> None:
    parts = {part.name: part for part in describe_anatomy(ResNetConfig.from_name("resnet50"))}
    assert parts["layer2.0"].equation.startswith("y = relu(F(x) + W_s x), F(x) = BN(W_3")
    assert parts["layer2.0"].source == "section 3.3, option B; equation 2; figure 5, right"
    assert parts["layer2.1"].equation.startswith("y = relu(F(x) + x)") and parts["layer2.1"].stride == 1
    assert parts["layer2.1"].convolutions == ("1x1, 128", "3x3, 128", "1x1, 512")
    assert parts["head"].output_shape == (2048,) and parts["head"].num_parameters == 0


def test_it_needs_no_torch() -> None:
    program = (
        "import sys; from resnet_hub.analysis import describe_anatomy; from resnet_hub import ResNetConfig\n"
        "describe_anatomy(ResNetConfig()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


CIFAR = {"stem": "3x3", "width": 8, "depths": (1, 2, 1), "image_size": 16}


def test_the_strongest_channels_come_first() -> None:
    model = network(**CIFAR)
    batch = torch.randn(3, 3, 16, 16)
    maps = feature_maps(model, batch, strongest=5)
    assert list(maps) == ["layer1.0", "layer2.0", "layer2.1", "layer3.0"]
    with torch.inference_mode():
        stages = model.forward_stages(batch)
    result, output = maps["layer2.1"], stages[1]
    assert result.maps.shape == (3, 5, 8, 8)
    expected = output.mean((2, 3)).sort(dim=1, descending=True)
    assert torch.equal(result.channels, expected.indices[:, :5])
    assert torch.allclose(result.strengths, expected.values[:, :5])
    assert torch.equal(result.maps[2, 0], output[2, expected.indices[2, 0]])
    assert feature_maps(model, batch, 0, strongest=100)["layer1.0"].maps.shape == (3, 8, 16, 16)
    with pytest.raises(AnalysisError, match="strongest is 0"):
        feature_maps(model, batch, strongest=0)


def test_the_ratio_is_the_norm_of_the_residual_over_that_of_the_shortcut() -> None:
    model = network(**CIFAR, shortcut="B")
    batch = torch.randn(2, 3, 16, 16)
    ratios = residual_ratios(model, batch)
    with torch.inference_mode():
        x = model.forward_stem(batch)
        first = model.layer1[0].forward_residual(x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
        x = model.layer1(x)
        second = model.layer2[0].forward_residual(x).flatten(1).norm(dim=1)
        second = second / model.layer2[0].downsample(x).flatten(1).norm(dim=1)
    assert ratios["layer1.0"] == pytest.approx(float(first.mean()), rel=1e-5)
    assert ratios["layer2.0"] == pytest.approx(float(second.mean()), rel=1e-5)
    nn.init.zeros_(model.layer3[0].bn2.weight)
    nn.init.zeros_(model.layer3[0].bn2.bias)
    assert residual_ratios(model, batch)["layer3.0"] == 0


def test_a_plain_block_is_compared_with_its_input() -> None:
    model = network(**CIFAR, shortcut="none")
    batch = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        x = model.forward_stem(batch)
        expected = (model.layer1[0](x) - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert residual_ratios(model, batch)["layer1.0"] == pytest.approx(float(expected.mean()), rel=1e-5)
