"""Lesions: what replaces a block, that the model is as it was, and the accuracies that are left."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import transformers
from helpers.data import encode_image
from helpers.networks import network
from torch.nn import functional as F

from resnet_hub.analysis import (
    compute_accuracy,
    feature_maps,
    lesion,
    load_labeled_images,
    removal_curve,
    remove_blocks,
    remove_each_block,
    reorder_blocks,
    reorder_curve,
    residual_ratios,
)
from resnet_hub.analysis.blocks import evaluation_mode, forward_head, list_blocks
from resnet_hub.analysis.labeled_images import LabeledImages
from resnet_hub.analysis.lesion_records import measure_lesions
from resnet_hub.analysis.lesions import kendall_tau, list_swaps
from resnet_hub.config import VARIANTS
from resnet_hub.convert.state_dict import convert_state_dict
from resnet_hub.convert.weights_file import read_state_dict
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import AnalysisError, DataError, ImageError
from resnet_hub.model import ResNet

CIFAR = {"stem": "3x3", "width": 8, "depths": (2, 2, 2), "image_size": 16}
DEEPER = CIFAR | {"depths": (3, 2, 2)}


def images(model: ResNet, count: int = 2) -> torch.Tensor:
    size = model.config.image_size
    return torch.randn(count, model.config.in_channels, size, size, generator=torch.Generator().manual_seed(1))


def is_unchanged(model: ResNet, weights: dict[str, torch.Tensor], logits: torch.Tensor) -> bool:
    same = all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    with torch.inference_mode():
        return same and torch.equal(model(images(model).to(model.dtype)), logits)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_architecture_is_analyzed_and_left_as_it_was(name: str) -> None:
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


@pytest.mark.parametrize("form", ["timm", "transformers", "torchvision", "CIFAR", "half precision", "gray"])
def test_models_in_other_forms_are_left_as_they_were(form: str, tmp_path: Path) -> None:
    loaded = _open(form, tmp_path)
    weights, modes = copy.deepcopy(loaded.state_dict()), [module.training for module in loaded.modules()]
    logits = compute_logits(loaded)
    assert len(feature_maps(loaded, images(loaded))) == len(residual_ratios(loaded, images(loaded))) == 4
    with lesion(loaded, "layer2.0"):
        assert feature_maps(loaded, images(loaded), "layer2.0")
    assert [module.training for module in loaded.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
    assert loaded.dtype == (torch.float16 if form == "half precision" else torch.float32)
    assert torch.equal(compute_logits(loaded), logits)


def _open(form: str, folder: Path) -> ResNet:
    """Save a small network in a form, and open it as a checkpoint or convert it."""
    if form == "transformers":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "layer_type": "basic"}
        transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).save_pretrained(folder)
    elif form in ("torchvision", "CIFAR"):
        theirs = torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1] * 4, num_classes=3)
        state = theirs.state_dict() if form == "torchvision" else network(**CIFAR | {"depths": (1, 2, 1)}).state_dict()
        torch.save(state, folder / "weights.pt")
        converted = convert_state_dict(read_state_dict(folder / "weights.pt"), "weights.pt")
        model = ResNet(converted.config)
        model.load_state_dict(converted.weights)
        model.save_pretrained(folder)
    elif form == "timm":
        network(**VARIANTS["resnet10t"]).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        del config["resnet_hub"]
        (folder / "config.json").write_text(json.dumps(config))
    else:
        channels = 1 if form == "gray" else 3
        normalization = {"mean": (0.5,) * channels, "std": (0.2,) * channels}
        model = network(depths=(1, 1, 1, 1), width=16, in_channels=channels, **normalization)
        model.save_pretrained(folder, dtype="float16" if form == "half precision" else None)
    loaded = ResNet.from_pretrained(folder, dtype="auto")
    if form == "gray":
        loaded.reset_head()
        loaded.layer2.train()
    return loaded


def compute_logits(model: ResNet) -> torch.Tensor:
    """The logits, or the features of a model without a head, in evaluation mode."""
    with torch.inference_mode(), evaluation_mode(model):
        return model(images(model).to(model.dtype))


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


@pytest.mark.parametrize("block", ["layer9.0", "layer1", 6, -1, 1.0])
def test_a_block_that_does_not_exist_is_named(block: Any) -> None:
    model = network(**CIFAR)
    assert list(feature_maps(model, images(model), np.arange(2))) == list(feature_maps(model, images(model), [0, 1]))
    for analyze in (remove_blocks, lambda m, b: lesion(m, b).__enter__(), lambda m, b: feature_maps(m, images(m), b)):
        with pytest.raises(AnalysisError, match=rf"no block {block!r}\. Its 6 blocks are layer1\.0"):
            analyze(model, block)


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


@pytest.fixture(scope="module")
def labeled() -> LabeledImages:
    generator = torch.Generator().manual_seed(0)
    return LabeledImages(
        torch.randn(300, 3, 16, 16, generator=generator), torch.randint(5, (300,), generator=generator)
    )


@pytest.mark.parametrize("shortcut", ["B", "none"])
def test_each_block_is_removed_once(labeled: LabeledImages, shortcut: str) -> None:
    model = network(**DEEPER, shortcut=shortcut)
    study = remove_each_block(model, labeled)
    assert study.accuracy == compute_accuracy(model, labeled) and study.num_images == 300
    assert [row.block for row in study.lesions if row.changes_shape] == ["layer2.0", "layer3.0"]
    for row in study.lesions:
        with lesion(model, row.block):
            assert row.accuracy == compute_accuracy(model, labeled)
    mean = sum(row.accuracy for row in study.lesions) / len(study.lesions)
    assert study.mean_drop == pytest.approx(study.accuracy - mean)


def test_curves_start_at_the_whole_model(labeled: LabeledImages) -> None:
    model = network(**DEEPER)
    whole = compute_accuracy(model, labeled)
    removed = removal_curve(model, labeled, (0, 2, 5), draws=2, seed=3)
    assert [(point.removed, len(point.accuracies)) for point in removed] == [(0, 2), (2, 2), (5, 2)]
    assert removed[0].accuracies == (whole, whole)
    assert len(set(removed[2].accuracies)) == 1  # there is one way to remove all five
    assert removed == removal_curve(model, labeled, (0, 2, 5), draws=2, seed=3)
    reordered = reorder_curve(model, labeled, (0, 1), draws=2)
    assert reordered[0].accuracies == (whole, whole) and reordered[0].rank_correlations == (1.0, 1.0)
    assert all(correlation < 1 for correlation in reordered[1].rank_correlations)
    with pytest.raises(AnalysisError, match="6 blocks cannot be removed: 5 blocks of the model keep the shape"):
        removal_curve(model, labeled, [6])
    for wrong in ({"draws": 0}, {"swaps": [-1]}):
        with pytest.raises(AnalysisError, match="expected at least 1, and none below 0"):
            reorder_curve(model, labeled, **{"swaps": [1]} | wrong)
    with pytest.raises(AnalysisError, match="nothing to swap"):
        reorder_curve(network(**DEEPER | {"depths": (1, 1, 1)}), labeled, [1])


def test_swaps_that_undo_each_other_are_drawn_again(labeled: LabeledImages) -> None:
    one, two, shallow = ({"depths": depths} for depths in ((2, 1, 1), (2, 2, 1), (1, 2, 1)))
    assert [list_swaps(network(**CIFAR | depths)) for depths in (one, two, shallow)] == [
        *([("layer1.0", "layer1.1")], [("layer1.0", "layer1.1")], [])
    ]
    (curve,) = reorder_curve(network(**CIFAR | {"depths": (2, 3, 1)}), labeled, [2], draws=8)
    assert max(curve.rank_correlations) < 1  # of 4 draws one would be the trained order
    (undone,) = reorder_curve(network(**CIFAR | one), labeled, [2], draws=1)
    assert undone.rank_correlations == (1,)
    record = measure_lesions("tiny", network(**CIFAR | one), labeled, draws=1)  # as ResNet-18
    assert [point.swaps for point in record.reorder] == [0, 1] and record.reorder[1].rank_correlations[0] < 1
    assert not measure_lesions("tiny", network(**CIFAR | shallow), labeled, draws=1).reorder


def test_kendall_tau() -> None:
    assert kendall_tau(range(5)) == 1 and kendall_tau([4, 3, 2, 1, 0]) == -1
    assert kendall_tau([1, 0, 2]) == pytest.approx(1 / 3)


def test_models_without_head_and_wrong_targets_are_refused(labeled: LabeledImages) -> None:
    model = network(**DEEPER)
    with pytest.raises(AnalysisError, match="300 images and 299 targets"):
        remove_each_block(model, LabeledImages(labeled.images, labeled.targets[1:]))
    model.reset_head()
    with pytest.raises(AnalysisError, match="no head"):
        compute_accuracy(model, labeled)
    with pytest.raises(AnalysisError, match="no head"):
        load_labeled_images(model.config, "nowhere")


def test_labeled_images_are_drawn_and_preprocessed() -> None:
    config = network(**DEEPER | {"id2label": {0: "green", 1: "red"}}).config
    data = ImageDataset(("red", "green"), [encode_image(i % 2, i) for i in range(10)], np.arange(10) % 2)
    every, some = load_labeled_images(config, data), load_labeled_images(config, data, count=4, seed=1)
    assert every.images.shape == (10, 3, 16, 16) and every.targets.tolist() == [1, 0] * 5  # in the model's order
    assert len(some.targets) == 4 and all((every.images == image).flatten(1).all(1).any() for image in some.images)
    encoded = load_labeled_images(config, data, jpeg_quality=20)
    assert not torch.equal(encoded.images, every.images) and torch.equal(encoded.targets, every.targets)
    with pytest.raises(AnalysisError, match="no quality 96"):
        load_labeled_images(config, data, jpeg_quality=96)
    with pytest.raises(ImageError):
        load_labeled_images(config, ImageDataset(("red",), [b"none"], np.zeros(1, np.int64)))
    with pytest.raises(DataError, match="has no label 'blue'"):
        load_labeled_images(config, ImageDataset(("blue",), [encode_image(2, 0)], np.zeros(1, np.int64)))
