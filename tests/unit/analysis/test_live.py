"""The experiments that train while one watches: the race, the identity, and their data."""

import pytest
import torch

from resnet_hub.analysis import learn_identity, race
from resnet_hub.analysis.labeled_images import LabeledImages
from resnet_hub.analysis.races import CLASSES, create_cifar_config, create_gratings
from resnet_hub.errors import AnalysisError


def test_the_residual_stack_learns_the_identity_and_the_plain_one_hardly():
    *_, last = learn_identity(4, width=16, steps=150)
    assert last.step == 150
    assert last.losses["residual"] < 0.25 < 0.5 < last.losses["plain"]
    *_, near = learn_identity(4, target="near", width=16, steps=60)
    assert near.losses["residual"] < near.losses["plain"]
    state = torch.get_rng_state()
    first, again = (next(learn_identity(2, seed=3)) for _ in range(2))
    assert first == again and torch.equal(torch.get_rng_state(), state)


def test_the_race_is_fair_and_repeats():
    steps = [list(race(8, steps=3, seconds=None, width=4, batch_size=16, evaluate_every=2)) for _ in range(2)]
    assert [(step.step, step.losses, step.accuracies) for step in steps[0]] == [
        (step.step, step.losses, step.accuracies) for step in steps[1]
    ]
    assert [step.accuracies is not None for step in steps[0]] == [False, True, True]
    assert {*steps[0][1].losses} == {*steps[0][1].accuracies} == {"plain", "residual"}
    assert next(iter(race(8, width=4))).step == 1
    (only,) = race(8, seconds=0, width=4)
    assert only.accuracies


def test_the_residual_network_wins():
    steps = list(race(14, steps=45, seconds=None, width=4, batch_size=32))
    losses = {name: sum(step.losses[name] for step in steps[-10:]) / 10 for name in ("plain", "residual")}
    assert losses["residual"] < losses["plain"] - 0.1


def test_a_race_on_other_images():
    data = create_gratings(64, size=8)
    (step,) = race(8, data, steps=1, width=4)
    assert step.losses["plain"] > 0
    assert data.images.shape == (64, 3, 8, 8) and int(data.targets.max()) < len(CLASSES) == 8
    assert torch.equal(create_gratings(64, size=8).images, data.images)


def test_wrong_settings_are_named():
    for layers in (7, 10, 2):
        with pytest.raises(AnalysisError, match=f"cannot have {layers} layers; it has 6n"):
            create_cifar_config(layers)
    with pytest.raises(AnalysisError, match="no end"):
        next(race(8, seconds=None))
    gray, none = ((torch.zeros(n, c, 8, 8), torch.zeros(n, dtype=torch.int64)) for n, c in ((4, 1), (0, 3)))
    with pytest.raises(AnalysisError, match=r"have 1 channels\. Give the race configs, or color images"):
        next(race(8, LabeledImages(*gray)))
    with pytest.raises(AnalysisError, match=r"A race takes images \(N, C, H, H\) and N targets"):
        next(race(8, LabeledImages(*none)))
    with pytest.raises(AnalysisError, match="at least 1 step"):
        next(race(8, steps=0))
    with pytest.raises(AnalysisError, match="target is 'square'"):
        next(learn_identity(target="square"))
    with pytest.raises(AnalysisError, match="at least 1"):
        next(learn_identity(0))
