"""The gradient along a line beside noise."""

import json

import numpy as np
import pytest

from resnet_hub.analysis import gradient_autocorrelation, noise_autocorrelation
from resnet_hub.errors import AnalysisError

SMALL = {"width": 64, "points": 128, "draws": 8}


def test_white_and_brown_noise():
    white, brown = (noise_autocorrelation(noise, points=400, draws=200) for noise in ("white", "brown"))
    assert white.values[0] == brown.values[0] == pytest.approx(1)
    assert np.abs(white.values[1:]).max() < 0.05 and white.half_lag == 1
    assert brown.values[1] > 0.95 and brown.half_lag > 20
    assert white.distance_to(white) == 0 and white.distance_to(brown) > 0.2


def test_values_are_those_of_the_definition():
    result = noise_autocorrelation("brown", points=16, draws=2, seed=3)
    series = np.random.default_rng(3).standard_normal((2, 16)).cumsum(1)
    series = series - series.mean(1, keepdims=True)
    expected = [np.mean([(row[: 16 - lag] * row[lag:]).sum() / (row**2).sum() for row in series]) for lag in range(8)]
    assert result.values == pytest.approx(expected)


def test_deep_plain_gradients_are_white_shallow_ones_brown_and_residual_ones_between():
    white, brown = (noise_autocorrelation(noise, points=128, draws=50) for noise in ("white", "brown"))
    shallow, deep = (gradient_autocorrelation("plain", depth, **SMALL) for depth in (1, 20))
    residual = gradient_autocorrelation("residual", 20, **SMALL)
    damped = gradient_autocorrelation("residual", 20, beta=0.1, **SMALL)
    assert shallow.distance_to(brown) < shallow.distance_to(white)
    assert deep.distance_to(white) < 0.1 and deep.half_lag == 1
    assert deep.values[1] < residual.values[1] < damped.values[1] < 1
    assert deep.distance_to(brown) > residual.distance_to(brown) > damped.distance_to(brown)


def test_results_repeat_and_are_json():
    first, again = (gradient_autocorrelation("plain", 2, width=8, points=16, draws=2, seed=4) for _ in range(2))
    assert np.array_equal(first.series, again.series)
    content = json.loads(json.dumps(first.to_dict()))
    assert len(content["series"]) == len(content["positions"]) == 16 and len(content["values"]) == 8


def test_wrong_settings_are_named():
    with pytest.raises(AnalysisError, match="points is 4 and draws is 20"):
        gradient_autocorrelation(points=4)
    with pytest.raises(AnalysisError, match="noise is 'pink'; choose one of white, brown"):
        noise_autocorrelation("pink")
