"""The anatomy against the network that it describes."""

import json
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from resnet_hub.analysis import describe_anatomy
from resnet_hub.config import VARIANTS, ResNetConfig
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


def list_sources(name: str, **settings: str) -> set[str]:
    config = ResNetConfig.from_name(name, **settings)
    return {part.source for part in describe_anatomy(config) if part.name.startswith("layer")}


def test_each_block_has_its_source() -> None:
    """A plain block is not in figure 5, which draws shortcuts; groups and wider blocks are of other papers."""
    assert list_sources("resnet20", shortcut="none") == {"section 3.3, plain network; figure 3, middle"}
    assert all(source.endswith("figure 5, right") for source in list_sources("resnet50"))
    assert all(
        "figure 5, right; grouped as in https://arxiv.org/abs/1611.05431" in s for s in list_sources("resnext50_32x4d")
    )
    assert all("https://arxiv.org/abs/1605.07146" in source for source in list_sources("wide_resnet50_2"))


def test_it_needs_no_torch() -> None:
    program = (
        "import sys; from resnet_hub.analysis import describe_anatomy; from resnet_hub import ResNetConfig\n"
        "describe_anatomy(ResNetConfig()); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
