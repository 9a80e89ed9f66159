"""The correlation of gradients: the theorems of Balduzzi et al., what holds for rectifiers, and autograd."""

import json
import math

import numpy as np
import pytest
import torch

from resnet_hub.analysis import (
    expected_correlation,
    gradient_autocorrelation,
    gradient_correlation,
    noise_autocorrelation,
)
from resnet_hub.analysis.gradients import RandomNetwork, fit_exponent, propagate
from resnet_hub.errors import AnalysisError

SMALL = {"width": 48, "inputs": 32, "draws": 4}
THEOREMS = [("plain", "none", "exponential", 1.0), ("residual", "none", "exponential", math.log2(4 / 3))]
RECTIFIERS = [
    ("plain", "center", "exponential", 1.0),
    ("plain", "batch", "exponential", 1.0),
    ("residual", "center", "exponential", math.log2(4 / 3)),
    ("residual", "batch", "power", math.pi / (2 * (math.pi - 1))),
]


@pytest.mark.parametrize(("kind", "normalization", "law", "exponent"), [*THEOREMS, ("residual", "batch", "power", 0.5)])
def test_the_theorems_hold_where_units_are_on_by_a_coin(kind, normalization, law, exponent):
    settings = {"normalization": normalization, "gates": "independent"}
    expected = expected_correlation(kind, 1000, **settings)
    assert fit_exponent(expected[:500] if law == "exponential" else expected, law) == pytest.approx(exponent, rel=0.02)
    measured = gradient_correlation(kind, 30 if law == "power" else 12, **settings, **SMALL, seed=1)
    assert measured.fit(law) == pytest.approx(exponent, rel=0.15)


@pytest.mark.parametrize(("kind", "normalization", "law", "exponent"), RECTIFIERS)
def test_rectifier_networks_fall_by_the_derived_laws(kind, normalization, law, exponent):
    expected = expected_correlation(kind, 1000, normalization=normalization)
    assert fit_exponent(expected[:500] if law == "exponential" else expected, law) == pytest.approx(exponent, rel=0.02)
    measured = gradient_correlation(kind, 30 if law == "power" else 10, normalization=normalization, **SMALL, seed=1)
    assert measured.fit(law) == pytest.approx(exponent, rel=0.15)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_without_normalization_rectifiers_fall_slower_than_exponentially(kind):
    expected = expected_correlation(kind, 400, normalization="none")
    measured = gradient_correlation(kind, 6, normalization="none", **SMALL)
    assert measured.correlations[:4] == pytest.approx(expected[:4], rel=0.15)
    assert expected[49] > 100 * expected_correlation(kind, 50, normalization="center")[49]
    assert fit_exponent(expected[:50], "power") < fit_exponent(expected, "power") < 3.5  # tends to 3


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("normalization", ["none", "center", "batch"])
def test_the_derivatives_are_those_of_autograd(kind, normalization):
    network = RandomNetwork(kind=kind, depth=3, width=6, normalization=normalization, beta=0.7)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    layers = list(propagate(network, x, torch.eye(6).expand(5, 6, 6), torch.Generator().manual_seed(1)))

    generator, z = torch.Generator().manual_seed(1), x.clone().requires_grad_()
    start = z
    for _ in range(3):
        weights = torch.randn(6, 6, generator=generator) * math.sqrt(2 / 6)
        y = z if normalization == "none" else z - z.detach().mean(0)
        if normalization == "batch":
            y = y / z.detach().std(0, unbiased=False)
        branch = y.relu() @ weights.T
        z = branch if kind == "plain" else z + 0.7 * branch
    (gradient,) = torch.autograd.grad(z[:, 2].sum(), start)  # of output 2, by input
    tangents = layers[-1][1][:, :, 2]
    assert torch.allclose(gradient / gradient.norm(), tangents / tangents.norm(), atol=1e-5)
    assert torch.allclose(z / z.norm(), layers[-1][0] / layers[-1][0].norm(), atol=1e-5)


def test_seeds_repeat_and_noise_is_not_fitted():
    first = gradient_correlation("plain", 20, width=16, inputs=8, draws=2, seed=5)
    again = gradient_correlation("plain", 20, width=16, inputs=8, draws=2, seed=5)
    assert np.array_equal(first.correlations, again.correlations)
    assert not np.array_equal(
        first.correlations, gradient_correlation("plain", 20, width=16, inputs=8, draws=2).correlations
    )
    assert first.num_significant < 15
    with pytest.raises(AnalysisError, match="exceeds its noise up to depth"):
        first.fit("power")


def test_the_residual_factor_slows_the_decay():
    small, large = (expected_correlation("residual", 50, beta=beta)[-1] for beta in (0.1, 1.0))
    assert 0.8 < small < 0.9 and large < 0.1
    assert expected_correlation("residual", 5, beta=0.0).tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "dense"}, "kind is 'dense'; choose one of plain, residual"),
        ({"normalization": "layer"}, "choose one of none, center, batch"),
        ({"depth": 0}, "depth is 0; expected 1 to 10000"),
        ({"width": 1}, "width is 1"),
        ({"draws": 1}, "draws is 1; expected at least 2"),
        ({"beta": -1.0}, "beta is -1.0"),
    ],
)
def test_wrong_settings_of_gradients_are_named(settings, message):
    with pytest.raises(AnalysisError, match=message):
        gradient_correlation(**settings)


SMALL_LINE = {"width": 64, "points": 128, "draws": 8}


def test_white_and_brown_noise():
    white, brown = (noise_autocorrelation(noise, points=400, draws=200) for noise in ("white", "brown"))
    assert white.values[0] == brown.values[0] == pytest.approx(1)
    assert np.abs(white.values[1:]).max() < 0.05
    assert brown.values[1] > 0.95 and brown.values[20] > 0.5
    assert white.distance_to(white) == 0 and white.distance_to(brown) > 0.2


def test_values_are_those_of_the_definition():
    result = noise_autocorrelation("brown", points=16, draws=2, seed=3)
    series = np.random.default_rng(3).standard_normal((2, 16)).cumsum(1)
    series = series - series.mean(1, keepdims=True)
    expected = [np.mean([(row[: 16 - lag] * row[lag:]).sum() / (row**2).sum() for row in series]) for lag in range(8)]
    assert result.values == pytest.approx(expected)


def test_deep_plain_gradients_are_white_shallow_ones_brown_and_residual_ones_between():
    white, brown = (noise_autocorrelation(noise, points=128, draws=50) for noise in ("white", "brown"))
    shallow, deep = (gradient_autocorrelation("plain", depth, **SMALL_LINE) for depth in (1, 20))
    residual = gradient_autocorrelation("residual", 20, **SMALL_LINE)
    damped = gradient_autocorrelation("residual", 20, beta=0.1, **SMALL_LINE)
    assert shallow.distance_to(brown) < shallow.distance_to(white)
    assert deep.distance_to(white) < 0.1 and deep.values[1] < 0.5
    assert deep.values[1] < residual.values[1] < damped.values[1] < 1
    assert deep.distance_to(brown) > residual.distance_to(brown) > damped.distance_to(brown)


def test_the_units_of_a_single_layer_switch_all_along_the_line():
    """Before the first rectifier a normalization would subtract the bias, and all would switch at one point."""
    line = gradient_autocorrelation("plain", 1, **SMALL_LINE)
    jumps = np.flatnonzero(np.abs(np.diff(line.series)) > 1e-6)
    assert len(jumps) > 20 and jumps[0] < 32 and jumps[-1] > 96
    assert line.standard_errors.max() > 1e-3
    assert line.distance_to(noise_autocorrelation("brown", points=128, draws=200)) < 0.1


def test_results_repeat_and_are_json():
    first, again = (gradient_autocorrelation("plain", 2, width=8, points=16, draws=2, seed=4) for _ in range(2))
    assert np.array_equal(first.series, again.series)
    content = json.loads(json.dumps(first.to_dict()))
    assert len(content["series"]) == len(content["positions"]) == 16 and len(content["values"]) == 8


def test_wrong_settings_of_autocorrelation_are_named():
    with pytest.raises(AnalysisError, match="points is 4 and draws is 20"):
        gradient_autocorrelation(points=4)
    with pytest.raises(AnalysisError, match="noise is 'pink'; choose one of white, brown"):
        noise_autocorrelation("pink")
