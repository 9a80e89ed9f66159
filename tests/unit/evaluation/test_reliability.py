"""How far scores can be trusted: temperature, threshold and novelty, fitted on images of known classes."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image
from torch.nn import functional as F

from resnet_hub.config import NOT_SURE_BELOW, Reliability, ResNetConfig
from resnet_hub.errors import ConfigError
from resnet_hub.evaluation.reliability import choose_threshold, fit_reliability, fit_temperature
from resnet_hub.inference.classifier import Classifier
from resnet_hub.inference.novelty import FeatureSubspace
from resnet_hub.model import ResNet

CONFIG = ResNetConfig(
    depths=(1, 1), width=8, stem="3x3", image_size=16, crop_pct=1.0, id2label={0: "a", 1: "b", 2: "c"}
)


NOTHING = FeatureSubspace(torch.zeros(16), torch.zeros(0, 16)).encode()


def draw_logits(count: int = 4000, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is the true probability of each class, and classes that are drawn from it."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator)
    return logits, logits.softmax(1).multinomial(1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_the_temperature_makes_scores_honest(factor: float) -> None:
    logits, targets = draw_logits()
    assert fit_temperature(factor * logits, targets) == pytest.approx(factor, rel=0.08)


@pytest.mark.parametrize("count", [24, 200])
def test_a_few_images_without_a_mistake_do_not_make_scores_certain(count: int) -> None:
    targets = torch.arange(count) % 2
    logits = 3 * F.one_hot(targets, 2).float()
    scores = (logits / fit_temperature(logits, targets)).softmax(1).amax(1)
    assert scores.mean() == pytest.approx((count + 1) / (count + 2), abs=0.003)


def test_the_threshold_is_the_lowest_with_that_precision() -> None:
    scores = torch.linspace(1, 0.4, 60_000)
    is_correct = torch.arange(60_000) < 40_000
    assert choose_threshold(scores, is_correct, precision=0.8) == pytest.approx(0.5, abs=1e-3)
    assert choose_threshold(scores, is_correct, precision=0.9) == pytest.approx(0.555, abs=1e-3)
    assert choose_threshold(scores, ~is_correct, precision=0.9) == 1.0
    assert choose_threshold(scores * 0.3, is_correct, precision=0.5) == NOT_SURE_BELOW
    assert choose_threshold(scores * 0.3, is_correct, precision=0.8, least=0.0) == pytest.approx(0.15, abs=1e-3)


def test_few_right_labels_do_not_make_a_low_score_sure() -> None:
    scores, is_correct = torch.tensor([0.99, 0.95, 0.7, 0.6]), torch.ones(4, dtype=torch.bool)
    assert choose_threshold(scores, is_correct) == pytest.approx(0.7)
    assert choose_threshold(scores[2:], is_correct[2:]) == 1.0
    assert choose_threshold(scores[2:].repeat(100), is_correct[2:].repeat(100)) == pytest.approx(0.6)


def test_few_images_hardly_change_the_temperature() -> None:
    logits, targets = draw_logits(4000)
    few = [fit_temperature(3 * logits[start : start + 8], targets[start : start + 8]) for start in range(0, 800, 8)]
    assert 1 < np.mean(few) < 2.5 < fit_temperature(3 * logits, targets)


def test_a_distance_of_few_images_is_not_that_of_the_farthest_one() -> None:
    torch.manual_seed(0)
    model, shares = ResNet(CONFIG).eval(), []
    for _ in range(50):
        features, known, others = torch.rand(8, 16), torch.rand(50, 16), torch.rand(500, 16)
        logits, targets = draw_logits(8)
        fit = fit_reliability(model, logits, targets, features=features, train_features=known)
        assert fit is not None and fit.reliability.subspace is not None and fit.reliability.most_distance is not None
        distances = FeatureSubspace.decode(fit.reliability.subspace, 16).measure_distances(others)
        shares.append(float((distances <= fit.reliability.most_distance).double().mean()))
    assert np.mean(shares) == pytest.approx(0.95, abs=0.02)  # seven eighths up to the farthest


def test_the_model_has_the_temperature_in_its_head_and_the_rest_in_its_config(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ResNet(CONFIG).eval()
    images = torch.randn(2, 3, 16, 16)
    expected = model(images).detach()
    logits, targets = draw_logits()
    features, known = torch.rand(len(logits), 16), torch.rand(50, 16)
    fit = fit_reliability(model, 4 * logits, targets, features=features, train_features=known)
    assert fit is not None and fit.error_after < 0.03 < fit.error_before
    loaded = ResNet.from_pretrained(model.save_pretrained(tmp_path / "model"))
    torch.testing.assert_close(loaded(images), expected / fit.temperature)
    assert loaded.config.reliability == fit.reliability
    scores, predicted = (4 * logits / fit.temperature).softmax(1).max(1)
    is_sure = scores >= fit.reliability.threshold
    assert float((predicted == targets)[is_sure].double().mean()) == pytest.approx(0.9, abs=0.01)
    assert fit.reliability.subspace is not None and fit.reliability.most_distance is not None
    distances = FeatureSubspace.decode(fit.reliability.subspace, 16).measure_distances(features)
    assert float((distances <= fit.reliability.most_distance).double().mean()) == pytest.approx(0.95, abs=0.01)
    loaded.reset_head(["x", "y"])
    assert loaded.config.reliability == Reliability()  # of the old head


def test_few_images_and_many_labels_have_less_to_fit() -> None:
    model = ResNet(CONFIG)
    before = model.fc.weight.clone()
    logits, targets = draw_logits(4)
    assert fit_reliability(model, logits[:0], targets[:0]) is None and torch.equal(model.fc.weight, before)
    fit = fit_reliability(model, logits, targets, features=torch.rand(4, 32), train_features=torch.rand(50, 32))
    assert fit is not None and fit.reliability.most_distance is None
    logits, targets = draw_logits(200, classes=101)
    many = ResNet(
        ResNetConfig(depths=(1,), width=8, stem="3x3", image_size=16, id2label=dict(enumerate(map(str, range(101)))))
    )
    fit = fit_reliability(many, logits, targets, features=torch.rand(200, 8), train_features=torch.rand(50, 8))
    assert fit is not None and fit.reliability.most_distance is None


def test_distilled_weights_are_rarely_wrong_and_sure() -> None:
    distill = runpy.run_path(str(ROOT / "scripts" / "distill.py"))
    model = ResNet(replace(CONFIG, id2label=dict(enumerate(map(str, range(12))))))
    before = model.fc.weight.detach().clone()
    logits, targets = draw_logits(classes=12)
    held = 1000
    teacher = 3 * logits[:held].softmax(1).log_softmax(1)
    validation = SimpleNamespace(images=SimpleNamespace(held_out=range(held)), teacher_scores=teacher.softmax(1))
    fit, caution = distill["calibrate"](model, validation, logits, targets, 0.8)
    divisor = float(before.norm() / model.fc.weight.detach().norm())
    assert divisor == pytest.approx(fit.temperature * caution.factor, rel=1e-3) and caution.factor > 1
    scores, predicted = (logits / divisor).softmax(1).max(1)
    is_wrong = (predicted != targets)[held:]
    assert float((is_wrong & (scores[held:] > distill["HIGH"])).double().mean()) < 2 * distill["MOST_WRONG"]
    assert caution.wrong_after <= distill["MOST_WRONG"] < caution.wrong_before
    is_sure = scores >= model.config.reliability.threshold
    assert float((predicted == targets)[is_sure].double().mean()) == pytest.approx(0.8, abs=0.02)


def test_distilled_weights_with_the_norms_of_their_base_have_the_same_outputs() -> None:
    distill = runpy.run_path(str(ROOT / "scripts" / "distill.py"))
    torch.manual_seed(0)
    base, model = ResNet(CONFIG), ResNet(CONFIG)
    model.train()(torch.randn(64, 3, 16, 16))
    with torch.no_grad():
        for module in model.eval().modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.mul_(3)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.running_var.mul_(1e-4)  # eps counts
        images = torch.randn(2, 3, 16, 16)
        expected = model(images)
        distill["match_norms"](model, base)
        torch.testing.assert_close(model(images), expected, rtol=1e-3, atol=1e-3)
    assert model.conv1.weight.norm().item() == pytest.approx(base.conv1.weight.norm().item(), rel=1e-4)


def test_the_license_of_the_base_is_that_of_a_distilled_model_too() -> None:
    distill = runpy.run_path(str(ROOT / "scripts" / "distill.py"))
    base = ResNet(CONFIG)
    base.card = "---\nlicense: cc-by-nc-4.0\n---\n# Base\n"
    assert distill["describe_other"](base, 10, 20).restriction.startswith("The license cc-by-nc-4.0 does not allow")


@pytest.mark.parametrize(
    ("reliability", "verdict"),
    [
        (Reliability(), "not sure"),  # three labels with nearly equal scores
        (Reliability(threshold=0.0), "sure"),
        (Reliability(threshold=0.0, subspace=NOTHING, most_distance=0.0), "none"),
        (Reliability(threshold=1.0, subspace=NOTHING, most_distance=2.0), "not sure"),
    ],
)
def test_a_prediction_has_a_verdict(reliability: Reliability, verdict: str) -> None:
    model = ResNet(CONFIG).eval()
    with torch.no_grad():
        model.fc.weight.mul_(1e-3)
        model.fc.bias.zero_()
    model.config = ResNetConfig(**vars(CONFIG) | {"reliability": reliability})
    classify = Classifier(model)
    image = Image.fromarray(np.full((16, 16, 3), 128, np.uint8))
    assert classify(image).verdict == verdict
    assert [row.verdict for row in classify([image] * 2)] == [verdict] * 2
    assert classify(image, top_k=1)[0]["label"] in CONFIG.labels


def test_configs_without_the_record_and_with_a_damaged_one() -> None:
    content = json.loads(CONFIG.to_json())
    assert "reliability" not in content["resnet_hub"] and ResNetConfig.from_dict(content) == CONFIG
    for damaged in ({"threshold": "high"}, {"threshold": 2.0}, {"most_distance": [1]}, {"threshold": float("nan")}, []):
        content["resnet_hub"]["reliability"] = damaged
        with pytest.raises(ConfigError, match="reliability"):
            ResNetConfig.from_dict(content)
    content["resnet_hub"]["reliability"] = {"subspace": NOTHING, "most_distance": 0.0}
    assert ResNetConfig.from_dict(content).reliability.subspace == NOTHING
    content["resnet_hub"]["reliability"] = {"threshold": 0.5, "of a later version": 1}
    assert ResNetConfig.from_dict(content).reliability == Reliability(threshold=0.5)


def test_a_damaged_record_is_named_with_its_folder_and_not_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = ResNet(CONFIG).save_pretrained(tmp_path / "model")
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    content["resnet_hub"]["reliability"] = {"subspace": FeatureSubspace(torch.zeros(15), torch.zeros(0, 15)).encode()}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    for load in (ResNet.from_pretrained, Classifier.from_pretrained):
        with pytest.raises(ConfigError, match=r"subspace .* does not fit this network of 16 features") as failed:
            load(folder)
        assert str(failed.value).startswith(f"{folder}: ")
    with pytest.raises(ConfigError, match="reliability"):
        Reliability(most_distance=-1.0)
