"""Path lengths and the gradient of each, against sums that are known."""

import numpy as np
import pytest
import torch
from helpers.networks import network
from torch.nn import functional as F

from resnet_hub.analysis import path_gradients, path_lengths
from resnet_hub.analysis.blocks import forward_head, list_blocks
from resnet_hub.analysis.residual_paths import _compute_path_norm, _run_forward
from resnet_hub.config import ResNetConfig
from resnet_hub.errors import AnalysisError

CIFAR = {"stem": "3x3", "width": 8, "depths": (1, 1, 1), "image_size": 16}


def test_path_lengths_are_binomial() -> None:
    assert path_lengths(3).tolist() == [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    shares = path_lengths(ResNetConfig.from_name("resnet110"))
    assert len(shares) == 55 and shares.sum() == pytest.approx(1)
    assert (shares * np.arange(55)).sum() == pytest.approx(27)
    assert shares[19:36].sum() > 0.95  # Veit et al. state this for 54 blocks
    assert path_lengths(network(**CIFAR, shortcut="none")).tolist() == [0, 0, 0, 1]
    assert path_lengths(600).sum() == pytest.approx(1)
    with pytest.raises(AnalysisError):
        path_lengths(-1)


def test_the_extreme_paths_are_all_shortcuts_and_all_residuals() -> None:
    model = network(**CIFAR, shortcut="B")
    batch, targets = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    result = path_gradients(model, batch, targets, samples=2)
    assert len(result.norms) == 4 and (result.norms > 0).all()
    assert result.gradient_shares.sum() == pytest.approx(1)
    expected = path_lengths(model) * result.norms
    assert result.gradient_shares == pytest.approx(expected / expected.sum())
    assert 0 < result.mean_length < 3

    start = model.forward_stem(batch).detach().requires_grad_()
    x = start
    for block in (model.layer1[0], model.layer2[0], model.layer3[0]):
        x = (block.forward_residual(x).detach() + block.downsample(x)).relu()
    loss = F.cross_entropy(model.fc(x.mean((2, 3))), targets)
    (gradient,) = torch.autograd.grad(loss, start)
    assert result.norms[0] == pytest.approx(float(gradient.norm()), rel=1e-4)


def test_all_paths_together_are_the_gradient() -> None:
    """With one block the gradients through both of its paths add up to the gradient of the loss."""
    model = network(**CIFAR | {"depths": (1,)}, shortcut="B")
    batch, targets = torch.randn(1, 3, 16, 16), torch.tensor([2])
    x = model.forward_stem(batch).detach()
    torch.nn.init.zeros_(model.layer1[0].bn2.weight)  # no gradient through the residual
    result = path_gradients(model, batch, targets)
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model.fc(model.layer1[0](start).mean((2, 3))), targets), start)
    assert result.norms[1] == 0 and result.mean_length == 0
    assert result.norms[0] == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_plain_and_headless_networks_are_refused() -> None:
    batch, targets = torch.randn(1, 3, 16, 16), torch.tensor([0])
    with pytest.raises(AnalysisError, match="is plain: it has one path"):
        path_gradients(network(**CIFAR, shortcut="none"), batch, targets)
    with pytest.raises(AnalysisError, match="1 images and 2 targets"):
        path_gradients(network(**CIFAR), batch, torch.tensor([0, 1]))
    for targets_of, samples in ((torch.tensor([5]), 1), (torch.tensor([-1]), 1), (targets, 0)):
        with pytest.raises(AnalysisError, match="samples has to be at least 1, and each target an index from 0 to 4"):
            path_gradients(network(**CIFAR), batch, targets_of, samples=samples)
    model = network(**CIFAR)
    model.reset_head()
    with pytest.raises(AnalysisError, match="has no head"):
        path_gradients(model, batch, targets)


def test_a_loss_without_a_finite_gradient_is_refused() -> None:
    model, batch, targets = network(**CIFAR), torch.randn(1, 3, 16, 16), torch.tensor([0])
    with torch.inference_mode():  # a caller's, in which there would be no gradient
        assert path_gradients(model, batch, targets).gradient_shares.sum() == pytest.approx(1)
    with pytest.raises(AnalysisError, match="no finite gradient"):
        path_gradients(model, torch.full_like(batch, torch.nan), targets)
    model.reset_head(num_classes=1)
    with pytest.raises(AnalysisError, match="no gradient"):
        path_gradients(model, batch, targets)


def test_the_model_does_not_change() -> None:
    model = network(**CIFAR).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    path_gradients(model, torch.randn(2, 3, 16, 16), torch.tensor([0, 1]), samples=1)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.training and all(weight.grad is None for weight in model.parameters())


def test_a_path_has_the_gradient_of_a_network_whose_other_branches_are_constant() -> None:
    model = network(**CIFAR | {"depths": (2, 2)}, shortcut="B")
    batch, targets, chosen = torch.randn(2, 3, 16, 16), torch.tensor([2, 0]), {0, 3}
    start = model.forward_stem(batch).detach().requires_grad_()
    y = start
    for index, block in enumerate(list_blocks(model).values()):
        residual, shortcut = block.forward_residual(y), block.downsample(y)
        y = (residual + shortcut.detach() if index in chosen else residual.detach() + shortcut).relu()
    (gradient,) = torch.autograd.grad(F.cross_entropy(forward_head(model, y), targets), start)
    steps, last = _run_forward(model, batch, targets)
    assert _compute_path_norm(steps, last, chosen) == pytest.approx(float(gradient.norm()), rel=1e-5)
