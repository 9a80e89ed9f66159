"""Accuracies without blocks, against the lesion of a model."""

import numpy as np
import pytest
import torch
from helpers.data import encode_image
from helpers.networks import network

from resnet_hub.analysis import (
    compute_accuracy,
    lesion,
    load_labelled_images,
    removal_curve,
    remove_each_block,
    reorder_curve,
)
from resnet_hub.analysis.labelled_images import LabelledImages
from resnet_hub.analysis.lesion_study import kendall_tau
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import AnalysisError, DataError, ImageError

CIFAR = {"stem": "3x3", "width": 8, "depths": (3, 2, 2), "image_size": 16}


@pytest.fixture(scope="module")
def labelled() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)
    return LabelledImages(
        torch.randn(300, 3, 16, 16, generator=generator), torch.randint(5, (300,), generator=generator)
    )


@pytest.mark.parametrize("shortcut", ["B", "none"])
def test_each_block_is_removed_once(labelled: LabelledImages, shortcut: str) -> None:
    model = network(**CIFAR, shortcut=shortcut)
    calls: list[tuple[int, int]] = []
    study = remove_each_block(model, labelled, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    assert study.accuracy == compute_accuracy(model, labelled) and study.num_images == 300
    assert [row.block for row in study.lesions if row.changes_shape] == ["layer2.0", "layer3.0"]
    for row in study.lesions:
        with lesion(model, row.block):
            assert row.accuracy == compute_accuracy(model, labelled)
    assert study.mean_drop == pytest.approx(study.accuracy - study.mean_accuracy)


def test_curves_start_at_the_whole_model(labelled: LabelledImages) -> None:
    model = network(**CIFAR)
    whole = compute_accuracy(model, labelled)
    removed = removal_curve(model, labelled, (0, 2, 5), draws=2, seed=3)
    assert [(point.removed, len(point.accuracies)) for point in removed] == [(0, 2), (2, 2), (5, 2)]
    assert removed[0].accuracies == (whole, whole)
    assert len(set(removed[2].accuracies)) == 1  # there is one way to remove all five
    assert removed == removal_curve(model, labelled, (0, 2, 5), draws=2, seed=3)
    reordered = reorder_curve(model, labelled, (0, 1), draws=2)
    assert reordered[0].accuracies == (whole, whole) and reordered[0].rank_correlations == (1.0, 1.0)
    assert all(correlation < 1 for correlation in reordered[1].rank_correlations)
    with pytest.raises(AnalysisError, match="6 blocks cannot be removed: 5 blocks of the model keep the shape"):
        removal_curve(model, labelled, [6])
    with pytest.raises(AnalysisError, match="nothing to swap"):
        reorder_curve(network(**CIFAR | {"depths": (1, 1, 1)}), labelled, [1])


def test_kendall_tau() -> None:
    assert kendall_tau(range(5)) == 1 and kendall_tau([4, 3, 2, 1, 0]) == -1
    assert kendall_tau([1, 0, 2]) == pytest.approx(1 / 3)


def test_models_without_head_and_wrong_targets_are_refused(labelled: LabelledImages) -> None:
    model = network(**CIFAR)
    with pytest.raises(AnalysisError, match="300 images and 299 targets"):
        remove_each_block(model, LabelledImages(labelled.images, labelled.targets[1:]))
    model.reset_head()
    with pytest.raises(AnalysisError, match="no head"):
        compute_accuracy(model, labelled)


def test_labelled_images_are_drawn_and_preprocessed() -> None:
    config = network(**CIFAR | {"id2label": {0: "green", 1: "red"}}).config
    data = ImageDataset(("red", "green"), [encode_image(i % 2, i) for i in range(10)], np.arange(10) % 2)
    every, some = load_labelled_images(config, data), load_labelled_images(config, data, count=4, seed=1)
    assert every.images.shape == (10, 3, 16, 16) and every.targets.tolist() == [1, 0] * 5  # in the model's order
    assert len(some.targets) == 4 and all((every.images == image).flatten(1).all(1).any() for image in some.images)
    with pytest.raises(ImageError):
        load_labelled_images(config, ImageDataset(("red",), [b"none"], np.zeros(1, np.int64)))
    with pytest.raises(DataError, match="has no label 'blue'"):
        load_labelled_images(config, ImageDataset(("blue",), [encode_image(2, 0)], np.zeros(1, np.int64)))
