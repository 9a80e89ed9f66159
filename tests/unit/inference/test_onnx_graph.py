"""The ONNX graph of every kind of network, run by ONNX Runtime and compared with PyTorch."""

import dataclasses
import json
import math

import numpy as np
import onnx
import pytest
import torch
from helpers.networks import calibration, network, ranges, run
from torch import nn

from resnet_hub.config import VARIANTS, ResNetConfig
from resnet_hub.errors import CheckpointError, ResNetHubError
from resnet_hub.inference.onnx_graph import build_onnx, digest_weights, fold_batchnorm
from resnet_hub.int8_calibration import CalibrationRecord
from resnet_hub.model import ResNet

KINDS = {
    "basic": {"depths": (1, 2)},
    "bottleneck": {"block": "bottleneck", "depths": (1, 1, 2)},
    "bottleneck, V1": {"block": "bottleneck", "depths": (1, 1), "stride_in_1x1": True},
    "groups": {"block": "bottleneck", "depths": (1, 1), "groups": 4, "group_width": 16},
    "shortcut A": {"depths": (1, 2), "shortcut": "A"},
    "shortcut A, bottleneck": {"block": "bottleneck", "depths": (1, 1), "shortcut": "A"},
    "shortcut C": {"depths": (2, 1), "shortcut": "C"},
    "plain": {"depths": (1, 1), "shortcut": "none"},
    "plain bottleneck": {"block": "bottleneck", "depths": (1, 1), "shortcut": "none"},
    "CIFAR stem": {"depths": (1, 1), "stem": "3x3"},
    "deep stem, shortcut D": {"depths": (1, 1), "stem": "deep", "stem_channels": (8, 12, 16), "shortcut": "D"},
    "shortcut D, odd size": {"block": "bottleneck", "depths": (1, 1, 1), "shortcut": "D", "image_size": 37},
    "halved first stage": {"depths": (1, 1), "halve_first_stage": True},
    "gray": {"depths": (1, 1), "in_channels": 1, "mean": (0.5,), "std": (0.5,)},
    "odd size": {"depths": (1, 1, 1), "image_size": 37},
    "odd channels": {"depths": (1, 1), "width": 9, "shortcut": "A"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_logits_maps_and_batch(kind):
    model = network(**{"width": 16} | KINDS[kind])
    side = model.config.image_size
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    graph = build_onnx(fold_batchnorm(model), extra="last")
    onnx.checker.check_model(graph, full_check=True)
    for count in (1, 3):  # the graph takes any batch
        batch = torch.randn(count, model.config.in_channels, side, side)
        with torch.no_grad():
            logits, maps = model(batch), model.forward_features(batch)
        found = run(graph, batch)
        assert np.abs(found[0] - logits.numpy()).max() <= 1e-4 * max(1, logits.abs().max())
        assert np.abs(found[1] - maps.numpy()).max() <= 1e-4 * max(1, maps.abs().max())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "resnet1202"])
def test_every_named_network_is_written(name):
    config = dataclasses.replace(ResNetConfig.from_name(name, num_classes=3, image_size=32), width=16)
    model = ResNet(config).eval()
    batch = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(batch)
    (found,) = run(build_onnx(fold_batchnorm(model)), batch)
    assert np.abs(found - expected.numpy()).max() <= 1e-4 * max(1, expected.abs().max())


def test_names_are_those_that_others_look_for():
    graph = onnx.load_from_string(build_onnx(fold_batchnorm(network(depths=(1,), width=8)))).graph
    assert [value.name for value in graph.input] == ["pixel_values"]
    assert [value.name for value in graph.output] == ["logits"]
    assert [axis.dim_param or axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        32,
        32,
    ]
    kinds = {node.op_type for node in graph.node}
    assert kinds == {"Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm"}


def test_without_a_head_it_gives_features():
    model = network(id2label={}, depths=(1, 1), width=8)
    batch = torch.randn(2, 3, 32, 32)
    graph = build_onnx(fold_batchnorm(model))
    assert [value.name for value in onnx.load_from_string(graph).graph.output] == ["features"]
    with torch.no_grad():
        assert np.allclose(run(graph, batch)[0], model(batch).numpy(), atol=1e-5)


def test_a_module_that_onnx_is_not_told_about():
    model = network(depths=(1,), width=8)
    model.maxpool = nn.Upsample(scale_factor=2)
    with pytest.raises(ResNetHubError, match=r"^A Upsample cannot be written as ONNX\.$"):
        build_onnx(fold_batchnorm(model))


def test_half_precision_is_written_as_float32():
    model = network(depths=(1,), width=8)
    batch = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model.half().float()(batch)
    assert np.allclose(run(build_onnx(fold_batchnorm(model.half())), batch)[0], expected.numpy(), atol=1e-4)


# int8


@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_near(kind):
    model = network(**{"width": 16} | KINDS[kind])
    side = model.config.image_size
    batch = torch.randn(8, model.config.in_channels, side, side)
    graph = build_onnx(fold_batchnorm(model), ranges=ranges(model, batch), extra="last")
    onnx.checker.check_model(graph, full_check=True)
    with torch.no_grad():
        logits = model(batch)
    found = run(graph, batch)[0]
    assert np.abs(found - logits.numpy()).mean() <= 0.1 * logits.std()
    weights = {node.name: onnx.numpy_helper.to_array(node) for node in onnx.load_from_string(graph).graph.initializer}
    largest = [np.abs(values.astype(int)).max() for name, values in weights.items() if name.endswith("weight.int")]
    assert largest and max(largest) <= 64  # two products of a byte with it fit into 16 bits, as AVX2 sums them


def test_a_calibration_comes_back_as_it_was():
    assert CalibrationRecord.from_json(calibration().to_json()) == calibration()


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "[" * 100_000,
        {"ranges": None},
        {"ranges": {"a": [0]}},
        {"ranges": {"a": [0, 0]}},
        {"ranges": {"a": [1, 2]}},
        {"ranges": {"a": [-math.inf, 2]}},
        {"ranges": {"a": [0, math.nan]}},
        {"ranges": {"a": [0, 10**400]}},
        {"pictures": "many"},
    ],
)
def test_a_calibration_that_makes_no_sense(damage):
    text = damage if isinstance(damage, str) else json.dumps(json.loads(calibration().to_json()) | damage)
    with pytest.raises(CheckpointError, match=r"^The int8 calibration is damaged\. "):
        CalibrationRecord.from_json(text)


def test_a_calibration_of_another_network():
    with pytest.raises(CheckpointError, match=r"^The int8 calibration has no range of conv1; "):
        build_onnx(fold_batchnorm(network(depths=(1,), width=8)), ranges={"pixel_values": (-2.0, 2.0)})


def test_the_digest_is_of_all_weights_and_nothing_else():
    model = network(depths=(1,), width=8)
    first = digest_weights(model)
    assert (
        digest_weights(network(depths=(1,), width=8)) == first != digest_weights(network(seed=1, depths=(1,), width=8))
    )
    model.bn1.num_batches_tracked += 1
    assert digest_weights(model) == first
    model.bn1.running_mean[3] += 1e-6
    assert digest_weights(model) != first
