"""The heat map against Grad-CAM by autograd, and where it lands on the picture."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_hub.config import ResNetConfig
from resnet_hub.images.transforms import crop_box
from resnet_hub.inference.classifier import Classifier
from resnet_hub.inference.gradcam import compute_grad_cam, overlay_heat_map
from resnet_hub.model import ResNet

TINY = {"depths": (1, 1), "width": 8, "stem": "3x3", "image_size": 32, "crop_pct": 0.8}
LABELS = {0: "cat", 1: "dog", 2: "ship"}


def model_of(**changes: Any) -> ResNet:
    torch.manual_seed(0)
    return ResNet(ResNetConfig(id2label=LABELS, **(TINY | changes))).eval()


def photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def grad_cam(model: ResNet, images: torch.Tensor, index: int) -> torch.Tensor:
    """Equations 1 and 2 of the paper as they are written."""
    maps = model.forward_features(images).detach().requires_grad_()
    model.fc(model.avgpool(maps).flatten(1))[:, index].sum().backward()
    assert maps.grad is not None
    weights = maps.grad.mean(dim=(2, 3), keepdim=True)
    heat = (weights * maps).sum(1).relu().detach()
    return heat / heat.amax(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("changes", [{}, {"block": "bottleneck"}, {"stem": "7x7", "image_size": 64}])
def test_equals_grad_cam_by_autograd(changes: dict[str, Any]) -> None:
    model = model_of(**changes)
    images = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    for index in LABELS:
        heat = compute_grad_cam(model.forward_features(images).detach(), model.fc.weight[index].detach())
        torch.testing.assert_close(heat, grad_cam(model, images, index))


def test_without_evidence_the_map_is_empty_and_the_image_unchanged() -> None:
    classify = Classifier(model_of(crop_pct=1.0))
    with torch.no_grad():
        classify.model.get_parameter("fc.weight")[1] = -1.0  # the features behind a ReLU are never negative
    image = photo(48, 48)
    assert overlay_heat_map(classify, image, 1).tobytes() == image.tobytes()


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (40, 40), (300, 9)])
def test_colors_only_what_the_model_saw(size: tuple[int, int]) -> None:
    classify = Classifier(model_of())
    pixels = np.asarray(overlay_heat_map(classify, photo(*size), 0)).astype(int)
    assert pixels.shape == (size[1], size[0], 3)
    colored = pixels.max(axis=2) != pixels.min(axis=2)
    left, top, right, bottom = (round(edge) for edge in crop_box(classify.config, size))
    outside = colored.copy()
    outside[top:bottom, left:right] = False
    assert colored[top:bottom, left:right].any() and not outside.any()


def test_color_lies_where_the_map_is_hot() -> None:
    classify = Classifier(model_of(crop_pct=1.0))
    dark = photo(64, 64).point(lambda value: value // 10)  # against which every color stands out
    maps, weights = classify.predict_with_feature_maps(dark)[1], classify.model.get_parameter("fc.weight")[0]
    heat = compute_grad_cam(maps[None], weights)[0].numpy()
    change = np.abs(np.asarray(overlay_heat_map(classify, dark, 0)).astype(int) - np.asarray(dark)).sum(axis=2)
    cells = change.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    assert np.corrcoef(cells.ravel(), heat.ravel())[0, 1] > 0.9


def test_shrinks_large_images_and_leaves_small_ones() -> None:
    classify = Classifier(model_of())
    assert overlay_heat_map(classify, photo(2000, 1000), 0).size == (768, 384)
    assert overlay_heat_map(classify, photo(40, 24), 0, max_side=100).size == (40, 24)


def test_threads_share_a_model() -> None:
    classify = Classifier(model_of()).prepare_engine()
    images = [photo(40 + 8 * number, 48) for number in range(8)]
    alone = [overlay_heat_map(classify, image, 0) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: overlay_heat_map(classify, image, 0), images * 3))
    for found, expected in zip(together, alone * 3, strict=True):  # a batch of several rounds otherwise
        assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 3


def test_maps_that_are_there_already_are_not_computed_again() -> None:
    classify = Classifier(model_of())
    maps = classify.predict_with_feature_maps(photo(40, 48))[1]
    expected = overlay_heat_map(classify, photo(40, 48), 0)
    classify.predict_with_feature_maps = None  # type: ignore[method-assign, assignment]
    assert overlay_heat_map(classify, photo(40, 48), 0, feature_maps=maps).tobytes() == expected.tobytes()


@pytest.mark.parametrize("color", ["yellow", "#ffe14d", "orange", "green", "white", "black", "red", "skyblue"])
def test_the_map_is_seen_over_any_color(color: str) -> None:
    classify = Classifier(model_of(crop_pct=1.0))
    image = Image.new("RGB", (64, 64), color)
    with torch.no_grad():
        classify.model.get_parameter("fc.weight")[1] = 1.0
    change = np.abs(np.asarray(overlay_heat_map(classify, image, 1)).astype(int) - np.asarray(image)).max(axis=2)
    assert change.max() > 80
