"""What training scripts save around the weights of a network, and beside them."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from resnet_hub.config import ResNetConfig
from resnet_hub.convert.state_dict import ConvertedCheckpoint, convert_state_dict
from resnet_hub.convert.unwrap import unwrap_state_dict
from resnet_hub.errors import ResNetHubError
from resnet_hub.model import ResNet

CONFIG = ResNetConfig(depths=(1, 1), width=4, id2label={0: "a", 1: "b"})
RAW, AVERAGED = ResNet(CONFIG).state_dict(), ResNet(CONFIG).state_dict()
BACKBONE = {key: tensor for key, tensor in RAW.items() if not key.startswith("fc.")}
HEAD = nn.Linear(CONFIG.num_features, 2)
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


def prefixed(prefix: str, tensors: dict[str, Tensor] = RAW) -> dict[str, Any]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def holds(converted: ConvertedCheckpoint, tensors: dict[str, Tensor]) -> bool:
    return converted.weights.keys() == tensors.keys() and all(
        torch.equal(converted.weights[key], tensor) for key, tensor in tensors.items()
    )


def note(converted: ConvertedCheckpoint, topic: str) -> str:
    return next(text for name, text in converted.notes if name == topic)


AVERAGES: list[dict[str, Any]] = [
    {"state_dict": RAW, "state_dict_ema": AVERAGED, "epoch": 3},
    {"model": RAW, "model_ema": AVERAGED, "optimizer": OPTIMIZER},
    {"model": prefixed("module."), "model_ema": {"n_averaged": torch.tensor(3), **prefixed("module.", AVERAGED)}},
    {"state_dict": prefixed("model.") | prefixed("ema_model.module.", AVERAGED)},
    {"state_dict": RAW, "callbacks": {"EMA": {"ema_state_dict": AVERAGED}}},
    {"net": RAW, "netEMA": AVERAGED},
    {"state_dict": RAW, "ema_state_dict": prefixed("module.", AVERAGED) | {"steps": torch.tensor(3)}},
    {"state_dict": prefixed("model.") | prefixed("model_ema.", AVERAGED) | {"model_ema.decay": torch.tensor(0.9)}},
    {"state_dict": RAW | {"num_updates": torch.tensor([7])}, "ema": AVERAGED | {"n": torch.tensor(7)}},
    {"state_dict": AVERAGED, "current_model_state": RAW, "averaging_state": {"n_averaged": torch.tensor(2)}},
    RAW | prefixed("ema.", AVERAGED),
    prefixed("swa_model.module.", AVERAGED) | {"swa_model.n_averaged": torch.tensor(1)} | prefixed("model."),
]


@pytest.mark.parametrize("content", AVERAGES)
def test_averaged_weights_are_preferred_and_raw_ones_can_be_chosen(content: dict[str, Any]) -> None:
    converted = convert_state_dict(content, "x")
    assert holds(converted, AVERAGED)
    assert note(converted, "weights").startswith("averaged (") and "--weights raw" in note(converted, "weights")
    assert holds(convert_state_dict(content, "x", choice="ema"), AVERAGED)
    assert holds(raw := convert_state_dict(content, "x", choice="raw"), RAW)
    assert note(raw, "weights").endswith("as requested")


def test_an_average_alone_is_one_and_a_missing_one_is_an_error() -> None:
    network = ResNet(CONFIG)
    alone = AveragedModel(network).state_dict()
    assert "n_averaged" in alone
    converted = convert_state_dict(alone, "x")
    assert holds(converted, network.state_dict()) and note(converted, "weights").startswith("averaged")
    with pytest.raises(ResNetHubError, match=r"x has no raw weights, only averaged ones\. Leave out --weights raw\."):
        convert_state_dict(alone, "x", choice="raw")
    for content in (RAW, {"state_dict": RAW}, prefixed("schema.")):
        with pytest.raises(
            ResNetHubError, match=r"x has no averaged weights, only raw ones\. Leave out --weights ema\."
        ):
            convert_state_dict(content, "x", choice="ema")


@pytest.mark.parametrize(
    "prefix",
    [
        *("model.", "net.", "backbone.", "encoder.", "module.model.", "model._orig_mod.", "_orig_mod.module.net."),
        *("learner.backbone.module.", "a.b.c.d.", "resnet.", "student.0."),
    ],
)
@pytest.mark.parametrize("path", [(), ("state_dict",), ("params",), ("checkpoint", "weights", "model_state")])
def test_any_shared_prefix_and_any_nesting_is_removed(prefix: str, path: tuple[str, ...]) -> None:
    content: Any = prefixed(prefix)
    for name in reversed(path):
        content = {"epoch": 1, name: content, "optimizer": OPTIMIZER, "lr": [0.1]}
    converted = convert_state_dict(content, "x")
    assert holds(converted, RAW)
    assert note(converted, "renamed") == f"{prefix} removed"
    if path:
        assert note(converted, "wrapper") == f"the weights are under {'.'.join(path)!r}"


def test_stages_that_were_compiled_alone_lose_their_prefix() -> None:
    content = {key.replace("layer2.", "layer2._orig_mod."): tensor for key, tensor in RAW.items()}
    converted = convert_state_dict(content, "x")
    assert holds(converted, RAW) and note(converted, "renamed") == "_orig_mod. removed"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("fc", nn.Sequential(nn.Dropout(), HEAD)),
        ("fc", nn.Sequential(HEAD, nn.Softmax(1))),
        ("linear", nn.Sequential(nn.Dropout(), nn.Sequential(HEAD))),
        ("classifier", HEAD),
        ("head", nn.ModuleDict({"fc": HEAD})),
    ],
)
@pytest.mark.parametrize(("prefix", "outer"), [("", ""), ("model.", "model."), ("net.backbone.", "net."), ("enc.", "")])
def test_a_head_of_one_linear_layer_is_the_head(name: str, model: nn.Module, prefix: str, outer: str) -> None:
    content = prefixed(prefix, BACKBONE) | {f"{outer}{name}.{key}": value for key, value in model.state_dict().items()}
    converted = convert_state_dict(content, "x", labels=["a", "b"])
    assert torch.equal(converted.weights["fc.weight"], HEAD.weight)
    assert torch.equal(converted.weights["fc.bias"], HEAD.bias)
    assert converted.config.labels == ["a", "b"]


def test_a_head_in_a_mapping_of_its_own_is_the_head() -> None:
    content = {"backbone": BACKBONE, "classifier": OrderedDict(HEAD.state_dict()), "optimizer": OPTIMIZER}
    converted = convert_state_dict(content, "x")
    assert torch.equal(converted.weights["fc.weight"], HEAD.weight)
    assert "classifier" not in note(converted, "ignored")


@pytest.mark.parametrize(
    "extra",
    [
        {"loss.W": torch.ones(2, 4)},
        {"rpn.head.conv.weight": torch.ones(1, 1, 1, 1), "roi_heads.box.fc6.bias": torch.ones(1)},
        {
            "classifier.0.weight": torch.ones(8, 8),
            "classifier.0.bias": torch.ones(8),
            "classifier.2.weight": HEAD.weight,
        },
        {"projector.weight": torch.ones(4, 4), "projector.bias": torch.ones(4)},
        {"train_accuracy.total": torch.zeros(())},
    ],
)
@pytest.mark.parametrize(("prefix", "outer"), [("", ""), ("backbone.", "")])
def test_other_tensors_are_left_out_only_on_request(extra: dict[str, Tensor], prefix: str, outer: str) -> None:
    content = {"state_dict": prefixed(prefix) | {outer + key: tensor for key, tensor in extra.items()}}
    with pytest.raises(ResNetHubError, match=r"^x has \d tensors? \(.*--ignore\.$") as error:
        convert_state_dict(content, "x")
    assert all(key in str(error.value) for key in extra)
    converted = convert_state_dict(content, "x", ignore=True)
    assert holds(converted, RAW) and all(key in note(converted, "left out") for key in extra)


def test_a_head_of_several_layers_is_left_out_only_on_request() -> None:
    head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    for name in ("fc", "model.fc", "linear"):
        prefix = "model." if name.startswith("model.") else ""
        content = prefixed(prefix, BACKBONE) | {f"{name}.{key}": value for key, value in head.state_dict().items()}
        with pytest.raises(ResNetHubError, match=r"4 tensors \(.*one linear layer is supported.*--ignore"):
            convert_state_dict(content, "x")
        converted = convert_state_dict(content, "x", ignore=True)
        assert holds(converted, BACKBONE) and converted.config.num_classes == 0


PARTS = ["layer1.0.se.fc1.weight", "conv1.bias", "bn1.extra", "layer5.0.conv1.weight", "maxpool.0.weight"]


@pytest.mark.parametrize("key", PARTS)
def test_parts_of_the_network_are_never_left_out(key: str) -> None:
    with pytest.raises(ResNetHubError, match=f"1 unexpected: {key}"):
        convert_state_dict(RAW | {key: torch.ones(4)}, "x", ignore=True)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"state_dict": RAW, "model": AVERAGED}, "state_dict, model"),
        (prefixed("student.") | prefixed("teacher."), "student, teacher"),
        ({"a": {"net": RAW}, "b": {"net": AVERAGED}}, r"a\.net, b\.net"),
    ],
)
def test_several_networks_are_named(content: dict[str, Any], names: str) -> None:
    with pytest.raises(ResNetHubError, match=rf"x holds several state dicts \({names}\)\. Save one of them alone\."):
        unwrap_state_dict(content, "x")
