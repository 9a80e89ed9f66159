"""The fitted head against scikit-learn, and the cache of features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from resnet_hub.config import ResNetConfig
from resnet_hub.model import ResNet
from resnet_hub.training.linear_probe import FeatureCache, create_engine, extract_features, fit_head


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
    features = extract_features(create_engine(model, in_bf16=False), batch)
    rounded = extract_features(create_engine(model, in_bf16=True), batch)
    model.reset_head()
    torch.testing.assert_close(features, model(batch))
    torch.testing.assert_close(rounded, features, rtol=0.02, atol=0.02)
    assert not torch.equal(rounded, features)


def test_the_cache_returns_features_of_the_same_backbone_and_images(tmp_path: Path) -> None:
    cache, model = FeatureCache(tmp_path), tiny()
    images = [b"one", b"two"]
    path = cache.path(model, images)
    assert cache.read(path) is None
    cache.write(path, torch.ones(2, 2, 8))
    features = cache.read(path)
    assert features is not None and torch.equal(features, torch.ones(2, 2, 8))

    assert cache.path(model, [b"one", b"three"]) != path
    assert cache.path(model, images[:1]) != path
    assert cache.path(model, [b"onet", b"wo"]) != path
    model.reset_head(num_classes=7)
    assert cache.path(model, images) == path
    with torch.no_grad():
        model.conv1.weight.add_(1)
    assert cache.path(model, images) != path


def test_a_cache_that_cannot_be_written_is_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "below")
    path = cache.path(tiny(), [b"one"])
    cache.write(path, torch.ones(1, 2, 8))
    assert cache.read(path) is None


def test_the_cache_ignores_damaged_files_and_deletes_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    assert cache.read(tmp_path / "torn.safetensors") is None
    monkeypatch.setattr("resnet_hub.training.linear_probe.CACHE_BYTES", 3000)
    for name in ("one", "two", "three"):
        cache.write(tmp_path / f"{name}.safetensors", torch.zeros(1, 300))
    assert cache.read(tmp_path / "three.safetensors") is not None
    assert not (tmp_path / "torn.safetensors").exists()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3000
