"""Lesions: what replaces a block, and that the model is as it was, for every architecture and form of checkpoint."""

import copy
import json
from pathlib import Path

import pytest
import torch
from helpers.networks import network
from torch.nn import functional as F

from resnet_hub.analysis import feature_maps, lesion, remove_blocks, reorder_blocks, residual_ratios
from resnet_hub.analysis.blocks import forward_head, list_blocks
from resnet_hub.config import VARIANTS
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet

CIFAR = {"stem": "3x3", "width": 8, "depths": (2, 2, 2), "image_size": 16}


def images(model: ResNet, count: int = 2) -> torch.Tensor:
    size = model.config.image_size
    return torch.randn(count, model.config.in_channels, size, size, generator=torch.Generator().manual_seed(1))


def is_unchanged(model: ResNet, weights: dict[str, torch.Tensor], logits: torch.Tensor) -> bool:
    same = all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        return same and torch.equal(model(images(model).to(model.dtype)), logits)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_architecture_is_analysed_and_left_as_it_was(name: str) -> None:
    small = {"width": 16, "image_size": 32 if VARIANTS[name].get("stem") != "3x3" else 8, "stem_channels": ()}
    if VARIANTS[name].get("stem_channels"):
        small["stem_channels"] = (4, 8, 16)
    model = network(**VARIANTS[name] | small)
    if name == "resnet1202":  # whose random weights double the activations 600 times
        model = model.double()
    batch = images(model).to(model.dtype)
    with torch.inference_mode():
        before = model(batch)
        weights = copy.deepcopy(model.state_dict())
        names = list(list_blocks(model))
        with lesion(model, names[-1]) as same:
            assert same is model
            assert not torch.allclose(model(batch), before)
        assert torch.equal(remove_blocks(model, [0, 1])(batch), _with_lesion(model, [0, 1], batch))
    assert list(feature_maps(model, batch, names[:2])) == names[:2]
    assert list(residual_ratios(model, batch)) == names
    assert is_unchanged(model, weights, before)


def _with_lesion(model: ResNet, blocks: list[int], batch: torch.Tensor) -> torch.Tensor:
    with lesion(model, blocks):
        return model(batch)


@pytest.mark.parametrize("form", ["timm", "half precision", "grey"])
def test_models_in_other_forms_are_left_as_they_were(form: str, tmp_path: Path) -> None:
    if form == "timm":
        model = network(**VARIANTS["resnet10t"])
    else:
        channels = 1 if form == "grey" else 3
        normalization = {"mean": (0.5,) * channels, "std": (0.2,) * channels}
        model = network(depths=(1, 1, 1, 1), width=16, in_channels=channels, **normalization)
    model.save_pretrained(tmp_path, dtype="float16" if form == "half precision" else None)
    if form == "timm":
        config = json.loads((tmp_path / "config.json").read_text())
        del config["resnet_hub"]
        (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = ResNet.from_pretrained(tmp_path, dtype="auto")
    if form == "grey":
        loaded.reset_head()
        loaded.layer2.train()
    weights, modes = copy.deepcopy(loaded.state_dict()), [module.training for module in loaded.modules()]
    assert len(feature_maps(loaded, images(loaded))) == len(residual_ratios(loaded, images(loaded))) == 4
    with lesion(loaded, "layer2.0"):
        assert feature_maps(loaded, images(loaded), "layer2.0")
    assert [module.training for module in loaded.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    assert loaded.dtype == (torch.float16 if form == "half precision" else torch.float32)


def test_a_removed_block_is_its_shortcut() -> None:
    model = network(**CIFAR, shortcut="B")
    with torch.inference_mode():
        x = model.forward_stem(images(model))
        same, projecting = model.layer1[0], model.layer2[0]
        with lesion(model, ["layer1.0", "layer2.0"]):
            assert torch.equal(same(x), x)
            assert torch.equal(projecting(x), projecting.downsample(x).relu())


def test_a_removed_plain_block_is_the_identity_or_subsampling() -> None:
    model = network(**CIFAR, shortcut="none")
    with torch.inference_mode():
        x = model.forward_stem(images(model))
        with lesion(model, ["layer1.1", "layer2.0"]):
            assert torch.equal(model.layer1[1](x), x)
            assert torch.equal(model.layer2[0](x), F.pad(x[:, :, ::2, ::2], [0, 0, 0, 0, 4, 4]))


def test_lesions_nest_and_end_with_an_error() -> None:
    model = network(**CIFAR)
    batch = images(model)
    with torch.inference_mode():
        whole = model(batch)
        with lesion(model, 1):
            outer = model(batch)
            with lesion(model, [1, 3]):
                assert not torch.equal(model(batch), outer)
            assert torch.equal(model(batch), outer)
        with pytest.raises(KeyError), lesion(model, range(6)):
            raise KeyError
        assert torch.equal(model(batch), whole)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_without_all_blocks_is_stem_and_shortcuts() -> None:
    model = network(**CIFAR, shortcut="A")
    with torch.inference_mode():
        x = model.forward_stem(images(model))
        for channels in (4, 8):
            x = F.pad(x[:, :, ::2, ::2], [0, 0, 0, 0, channels, channels])
        without = remove_blocks(model, range(6))
        assert torch.allclose(without(images(model)), forward_head(model, x))
    assert without.fc is model.fc and without.layer1[0].conv1 is model.layer1[0].conv1


def test_blocks_swap_places() -> None:
    model = network(**CIFAR | {"depths": (3, 2, 2)})
    batch = images(model)
    with torch.inference_mode():
        before = model(batch)
        swapped = reorder_blocks(model, {"layer1.1": "layer1.2", "layer1.2": "layer1.1"})
        assert swapped.layer1[1] is model.layer1[2] and swapped.layer1[2] is model.layer1[1]
        assert not torch.equal(swapped(batch), before)
        assert torch.equal(model(batch), before)
        assert torch.equal(reorder_blocks(model, {"layer1.1": "layer1.1"})(batch), before)


@pytest.mark.parametrize("block", ["layer9.0", "layer1", 6, -1])
def test_a_block_that_does_not_exist_is_named(block: str | int) -> None:
    model = network(**CIFAR)
    for analyse in (remove_blocks, lambda m, b: lesion(m, b).__enter__(), lambda m, b: feature_maps(m, images(m), b)):
        with pytest.raises(AnalysisError, match=rf"no block {block!r}\. Its 6 blocks are layer1\.0"):
            analyse(model, block)


def test_wrong_orders_and_images_are_refused() -> None:
    model = network(**CIFAR)
    for order in ({"layer1.1": "layer2.1", "layer2.1": "layer1.1"}, {"layer2.0": "layer2.1", "layer2.1": "layer2.0"}):
        with pytest.raises(AnalysisError, match="cannot stand in place"):
            reorder_blocks(model, order)
    with pytest.raises(AnalysisError, match="twice or not at all"):
        reorder_blocks(model, {"layer1.0": "layer1.1"})
    for shape in ((3, 16, 16), (1, 1, 16, 16), (0, 3, 16, 16)):
        with pytest.raises(AnalysisError, match=r"the model takes \(N, 3, H, W\)"):
            residual_ratios(model, torch.zeros(shape))
