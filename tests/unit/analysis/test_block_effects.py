"""Feature maps and residual ratios by hand."""

import pytest
import torch
from helpers.networks import network
from torch import nn

from resnet_hub.analysis import feature_maps, residual_ratios
from resnet_hub.errors import AnalysisError

CIFAR = {"stem": "3x3", "width": 8, "depths": (1, 2, 1), "image_size": 16}


def test_the_strongest_channels_come_first() -> None:
    model = network(**CIFAR)
    batch = torch.randn(3, 3, 16, 16)
    maps = feature_maps(model, batch, strongest=5)
    assert list(maps) == ["layer1.0", "layer2.0", "layer2.1", "layer3.0"]
    with torch.inference_mode():
        stages = model.forward_stages(batch)
    result, output = maps["layer2.1"], stages[1]
    assert result.values.shape == (3, 5, 8, 8)
    expected = output.mean((2, 3)).sort(dim=1, descending=True)
    assert torch.equal(result.channels, expected.indices[:, :5])
    assert torch.allclose(result.strengths, expected.values[:, :5])
    assert torch.equal(result.values[2, 0], output[2, expected.indices[2, 0]])
    assert feature_maps(model, batch, 0, strongest=100)["layer1.0"].values.shape == (3, 8, 16, 16)
    result.values.div_(2).requires_grad_()  # an ordinary tensor
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
