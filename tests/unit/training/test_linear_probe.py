"""The fitted head against scikit-learn, and the features."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.model import ResNet
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.image_cache import ImageCache
from resnet_hub.training.linear_probe import create_engine, extract_features, fit_head, fit_linear_probe
from resnet_hub.training.loader import DecodedImages, Loader


@pytest.fixture
def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Three overlapping clouds of points on axes of very different scales."""
    random = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], [60, 40, 20])
    points = random.normal(size=(120, 6)) + 1.5 * random.normal(size=(3, 6))[targets]
    return torch.tensor(points * 10.0 ** np.arange(-2, 4), dtype=torch.float32), torch.tensor(targets)


def tiny() -> ResNet:
    torch.manual_seed(0)
    config = ResNetConfig(depths=(1,), width=8, stem="3x3", image_size=8, crop_pct=1.0, id2label={0: "a", 1: "b"})
    return ResNet(config).eval()


@pytest.mark.parametrize("balanced", [False, True])
def test_the_head_equals_that_of_scikit_learn(clouds: tuple[torch.Tensor, torch.Tensor], balanced: bool) -> None:
    inputs, targets = clouds
    counts = torch.bincount(targets)
    weights = len(targets) / (3 * counts) if balanced else torch.ones(3)
    fitted = fit_head(inputs, targets, 3, weights=weights, l2=0.01)

    standardized = (inputs - inputs.mean(0)) / inputs.std(0, correction=0)
    # scikit-learn minimizes C * sum(losses) + penalty, `fit_head` mean(losses) + l2 * penalty
    reference = LogisticRegression(
        C=1 / (0.01 * len(targets)), class_weight="balanced" if balanced else None, tol=1e-8, max_iter=10_000
    ).fit(standardized.double(), targets)
    scores = fitted(inputs).softmax(1).detach().numpy()
    np.testing.assert_allclose(scores, reference.predict_proba(standardized.double()), atol=2e-3)


def test_a_constant_feature_has_no_effect() -> None:
    inputs = torch.tensor([[0.0, 5.0], [1.0, 5.0], [0.1, 5.0], [0.9, 5.0]])
    fitted = fit_head(inputs, torch.tensor([0, 1, 0, 1]), 2, weights=torch.ones(2), l2=1e-3)
    assert fitted(inputs).argmax(1).tolist() == [0, 1, 0, 1]


def test_features_are_the_pooled_outputs_of_the_backbone() -> None:
    model = tiny()
    batch = torch.rand(5, 3, 8, 8)
    features = extract_features(create_engine(model, 8, in_bf16=False), batch)
    rounded = extract_features(create_engine(model, 8, in_bf16=True), batch)
    model.reset_head()
    torch.testing.assert_close(features, model(batch))
    torch.testing.assert_close(rounded, features, rtol=0.02, atol=0.02)
    assert not torch.equal(rounded, features)


@pytest.mark.parametrize("in_bf16", [False, True])
def test_features_of_another_size_than_the_model_has(in_bf16: bool) -> None:
    model, batch = tiny(), torch.rand(2, 3, 12, 12)
    features = extract_features(create_engine(model, 12, in_bf16=in_bf16), batch)
    assert model.config.image_size == 8
    model.reset_head()
    torch.testing.assert_close(features, model(batch), **({"rtol": 0.02, "atol": 0.02} if in_bf16 else {}))


def test_a_replaced_image_has_its_own_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an image cannot be read, the next one is used, here of the other class; also after an interruption."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (8, 8, 8, 3), np.uint8)
    sources = [*pixels[:3], b"no image", *pixels[4:]]
    dataset = ImageDataset(("a", "b"), sources, np.repeat([0, 1], 4), [f"{index}.png" for index in range(8)])
    images = DecodedImages(dataset, np.asarray, ImageCache(tmp_path, count=8, slot=0, memory=0, disk=False))
    config = TrainConfig(data="", run="", base="base", recipe="head").resolved()

    def fit(indices: list[int], partial: Path | None = None, batches: int = 100) -> torch.Tensor:
        model = tiny()
        transform = BatchTransform(config, model.config)
        fitting = fit_linear_probe(model, images, np.array(indices), torch.ones(2), transform, Loader(1), partial)
        with closing(fitting):
            for _ in zip(range(batches), fitting, strict=False):
                pass
        return model.fc.weight

    monkeypatch.setattr("resnet_hub.training.linear_probe._BATCH", 4)  # two batches
    expected = fit([0, 1, 2, 4, 4, 5, 6, 7])
    assert torch.equal(fit([*range(8)]), expected)
    partial = tmp_path / "partial"
    fit([*range(8)], partial, batches=1)
    assert partial.is_file()
    assert torch.equal(fit([*range(8)], partial), expected)
    monkeypatch.setattr(DecodedImages, "read", None)  # all features are known, should fitting the head be interrupted
    assert torch.equal(fit([*range(8)], partial), expected)
