"""Weights of other libraries against the networks that made them: torchvision's, and a small reference for CIFAR."""

import math
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers.fuzz import cases
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub import ResNet, ResNetConfig, ResNetHubError
from resnet_hub.checkpoints.load import load_checkpoint
from resnet_hub.config import VARIANTS
from resnet_hub.convert.config_json import read_label_file, read_label_set
from resnet_hub.convert.state_dict import convert_state_dict, list_expected_shapes
from resnet_hub.convert.weights_file import read_state_dict


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, option: str, projection: str):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.option, self.projection, self.stride = option, projection, stride
        if option == "C" or (option == "B" and inputs != outputs):
            layers = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            setattr(self, projection, layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.option == "none":
            return F.relu(y)
        if hasattr(self, self.projection):
            return F.relu(y + getattr(self, self.projection)(x))
        x = x[:, :, :: self.stride, :: self.stride]
        extra = torch.zeros(len(x), (y.shape[1] - x.shape[1]) // 2, *y.shape[2:])
        return F.relu(y + torch.cat([extra, x, extra], dim=1))


class CifarNet(nn.Module):
    """Section 4.2 of the paper, with the attribute names of the well-known repositories."""

    def __init__(self, option: str, depth: int = 2, head: str = "linear", projection: str = "downsample"):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        for stage, (inputs, outputs, stride) in enumerate(sizes, 1):
            others = (Block(outputs, outputs, 1, option, projection) for _ in range(depth - 1))
            setattr(self, f"layer{stage}", nn.Sequential(Block(inputs, outputs, stride, option, projection), *others))
        setattr(self, head, nn.Linear(64, 10))
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def trained(model: nn.Module) -> Any:
    """As if trained: statistics of BatchNorm that are not those of a fresh layer."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def rebuilt(converted: Any) -> ResNet:
    model = ResNet(converted.config)
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


def note(converted: Any, topic: str) -> str:
    return dict(converted.notes)[topic]


def assert_equal_logits(ours: nn.Module, theirs: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = theirs(images)
        assert expected.std() > 1e-2  # else equality would say little
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5)


# Recognized


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "wide_resnet50_2"])
def test_torchvisions_networks_give_equal_logits(name: str, tmp_path: Path) -> None:
    theirs = trained(torchvision.models.get_model(name, num_classes=7))
    for file, save in ((tmp_path / "weights.pth", torch.save), (tmp_path / "weights.safetensors", save_file)):
        save(theirs.state_dict(), file)
        converted = convert_state_dict(read_state_dict(file), file, library="torchvision", architecture=name)
        file.unlink()
        assert converted.config == ResNetConfig.from_name(name, num_classes=7)
        with torch.device("meta"):
            ours = ResNet(converted.config)
        ours.load_state_dict(converted.weights, strict=True, assign=True)
        assert_equal_logits(ours.eval(), theirs, 32)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_every_named_network_is_recognized_from_its_shapes(name: str) -> None:
    config = ResNetConfig.from_name(name, num_classes=3)
    with torch.device("meta"):
        expected = {key: tuple(tensor.shape) for key, tensor in ResNet(config).state_dict().items()}
    assert list_expected_shapes(config) == expected
    assert list(list_expected_shapes(config)) == list(expected)
    weights = {key: torch.zeros(()).expand(shape) for key, shape in expected.items()}
    assert convert_state_dict(weights, name).config.architecture == name


@pytest.mark.parametrize(
    "changes",
    [
        {"shortcut": "C"},
        {"block": "bottleneck", "shortcut": "C"},
        {"block": "bottleneck", "width": 4, "groups": 2, "group_width": 96},
        {"block": "bottleneck", "stem": "3x3", "shortcut": "A"},
        {"depths": (1,)},
        {"depths": (3, 1, 2, 1), "in_channels": 1, "mean": (0.5,), "std": (0.2,)},
    ],
)
def test_other_networks_are_recognized_from_their_weights(changes: dict[str, Any]) -> None:
    config = ResNetConfig(**({"depths": (2, 1), "width": 8, "id2label": {0: "a", 1: "b"}} | changes))
    model = trained(ResNet(config))
    options: dict[str, Any] = {"shortcut": "A"} if config.depths == (1,) else {}
    converted = convert_state_dict(
        model.state_dict(), "x", labels=["a", "b"], mean=config.mean, std=config.std, **options
    )
    images = torch.randn(2, config.in_channels, 16, 16)
    with torch.inference_mode():
        assert torch.equal(rebuilt(converted)(images), model(images))


def test_a_network_without_a_head_stays_one() -> None:
    model = ResNet(ResNetConfig(depths=(1, 1), width=8))
    converted = convert_state_dict(model.state_dict(), "x")
    assert converted.config.num_classes == 0
    with pytest.raises(ResNetHubError, match=r"^There are 2 labels, but the head of x has 0 outputs\.$"):
        convert_state_dict(model.state_dict(), "x", labels=["a", "b"])


def test_an_option_a_checkpoint_of_data_parallel(tmp_path: Path) -> None:
    theirs = trained(CifarNet("A", depth=3))
    weights = OrderedDict((f"module.{k}", v) for k, v in theirs.state_dict().items() if "num_batches" not in k)
    assert sum(tensor.numel() for key, tensor in weights.items() if "running" not in key) == 269_722
    file = tmp_path / "resnet20.th"
    content = {"state_dict": weights, "best_prec1": 91.7, "epoch": 200}
    torch.save(content, file, _use_new_zipfile_serialization=False)  # the format of 2018
    converted = convert_state_dict(read_state_dict(file), file)
    assert converted.config == ResNetConfig.from_name(
        "resnet20", num_classes=10, mean=ResNetConfig.mean, std=ResNetConfig.std
    )
    assert_equal_logits(rebuilt(converted), theirs, 32)
    assert note(converted, "library").startswith("cifar, since conv1 is 3x3")
    assert note(converted, "renamed") == "linear to fc, module. removed"
    assert note(converted, "ignored") == "best_prec1, epoch: not weights"
    assert "A (zero padding) assumed" in note(converted, "shortcut") and "--shortcut none" in note(
        converted, "shortcut"
    )
    assert note(converted, "added").startswith("19 num_batches_tracked")
    assert "assumed; to change: --image-size --mean --std" in note(converted, "preprocessing")
    assert "numbered" in note(converted, "labels")


def test_an_option_b_checkpoint(tmp_path: Path) -> None:
    theirs = trained(CifarNet("B", depth=3, head="fc"))
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 272_474
    torch.save(theirs.state_dict(), file := tmp_path / "cifar10_resnet20.pt")
    converted = convert_state_dict(read_state_dict(file), file, library="cifar", labels=read_label_set("cifar10"))
    assert (converted.config.shortcut, converted.config.depths, converted.config.width) == ("B", (3, 3, 3), 16)
    assert converted.config.std == (0.2023, 0.1994, 0.2010)
    assert converted.config.labels[3] == "cat"
    assert_equal_logits(rebuilt(converted), theirs, 32)


@pytest.mark.parametrize("option", ["B", "C"])
@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model", "net"])
def test_projections_called_shortcut_in_any_wrapping(option: str, wrapper: str) -> None:
    theirs = trained(CifarNet(option, projection="shortcut"))
    content = {wrapper: {f"_orig_mod.module.{k}": v for k, v in theirs.state_dict().items()}, "acc": 93.0}
    converted = convert_state_dict(content, "x")
    assert converted.config.shortcut == option
    assert_equal_logits(rebuilt(converted), theirs, 32)


def test_plain_networks_open_if_the_shortcut_is_named() -> None:
    theirs = trained(CifarNet("none"))
    converted = convert_state_dict(theirs.state_dict(), "x", shortcut="none")
    assert converted.config.shortcut == "none"
    assert_equal_logits(rebuilt(converted), theirs, 32)


def test_v1_opens_if_named_and_v15_is_assumed_with_a_note() -> None:
    weights = ResNet(ResNetConfig(block="bottleneck", depths=(1, 1), width=8)).state_dict()
    assert "--stride-in-1x1" in note(convert_state_dict(weights, "x"), "stride")
    assert convert_state_dict(weights, "x", stride_in_1x1=True).config.stride_in_1x1
    with pytest.raises(ResNetHubError, match="stride_in_1x1"):
        convert_state_dict(CifarNet("A").state_dict(), "x", stride_in_1x1=True)


def test_half_precision_becomes_float32_with_a_note() -> None:
    model = CifarNet("A").half()
    converted = convert_state_dict(model.state_dict(), "x")
    assert {tensor.dtype for tensor in converted.weights.values()} == {torch.float32, torch.int64}
    assert note(converted, "dtype") == "float16 in the file, converted to float32"
    assert torch.equal(converted.weights["fc.weight"], model.linear.weight.float())


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    weights = CifarNet("A").state_dict()
    weights["layer1.0.conv1.weight"] = weights["layer1.0.conv2.weight"]
    converted = convert_state_dict(weights, "x")
    folder = rebuilt(converted).save_pretrained(tmp_path / "x")
    assert torch.equal(load_checkpoint(folder).weights["layer1.0.conv1.weight"], weights["layer1.0.conv2.weight"])


def test_options_set_the_preprocessing() -> None:
    options: dict[str, Any] = {"image_size": 48, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    converted = convert_state_dict(CifarNet("A").state_dict(), "x", **options)
    assert {key: getattr(converted.config, key) for key in options} == options
    assert converted.config.crop_pct == 1
    assert "assumed" not in note(converted, "preprocessing")


# Errors


def half(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in (CifarNet("B").state_dict() | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (half(**{"layer2.0.bn1.bias": None}), {}, "1 missing: layer2.0.bn1.bias."),
        (half(**{"layer2.0.downsample.0.weight": None}), {}, "1 missing: layer2.0.downsample.0.weight."),
        (half(**{"layer1.1.se.fc1.weight": torch.ones(1)}), {}, "1 unexpected: layer1.1.se.fc1.weight."),
        (half(**{"layer3.1.bn2.bias": torch.ones(5)}), {}, "1 misshapen: layer3.1.bn2.bias (5 for 64)."),
        (half(**{"conv1.bias": torch.ones(16), "linear.bias": None}), {}, "1 missing: fc.bias; 1 unexpected: conv1.b"),
        (half(**{"bn1.bias": torch.ones(16, dtype=torch.int)}), {}, "1 of an unsupported type: bn1.bias."),
        (half(**{"bn1.bias": torch.ones(16).to_sparse()}), {}, "1 of an unsupported type: bn1.bias."),
        (half(**{"bn1.bias": torch.ones(16, device="meta")}), {}, "1 of an unsupported type: bn1.bias."),
        (half(**{"module.bn1.bias": torch.ones(16)}), {}, "x has bn1.bias twice"),
        (half(**{"layer1.9999.conv1.weight": torch.ones(1)}), {}, "x: depths is (10000, 2, 2)"),
        (
            half(**{"conv1.weight": torch.ones(1).expand(40, 3, 3, 3)}),
            {},
            "75 misshapen: bn1.weight (16 for 40), bn1.bias",
        ),
        (half(**{"conv1.weight": torch.ones(1).expand(10**6, 3, 3, 3)}), {}, "x: width is 1000000"),
        (half(**{"conv1.weight": torch.ones(0, 3, 3, 3)}), {}, "x is not a ResNet"),
        (half(**{"conv1.weight": torch.ones(16, 3, 5, 5)}), {}, "x is not a ResNet"),
        (half(**{"linear.weight": torch.ones(1).expand(10**7, 64)}), {}, "x: num_classes is 10000000"),
        (half(**{"a\x1b[2J\n": torch.ones(1)}), {}, "x has 1 tensor (a [2J) beside the network"),
        (half(**{"bn1.bias": torch.full((16,), math.nan)}), {}, "x has NaN in bn1.bias."),
        (
            half(**{"linear.bias": torch.full((10,), 1e300, dtype=torch.float64)}),
            {},
            "x has infinite values in fc.bias.",
        ),
        (half(**{"bn1.running_var": -torch.ones(16)}), {}, "x has negative variances in bn1.running_var."),
        (half(), {"library": "torchvision"}, "x has a 3x3 stem, as in cifar, not in torchvision."),
        (half(), {"architecture": "resnet20"}, "x holds a ResNet without a name (2 + 2 + 2 basic blocks from width 16"),
        (half(), {"shortcut": "none"}, "x has weights in its shortcuts"),
        (half(), {"labels": ["a", "b"]}, "There are 2 labels, but the head of x has 10 outputs."),
        (half(), {"image_size": 0}, "x: image_size is 0"),
        (half(), {"mean": (0.5,)}, "x: mean is (0.5,)"),
        ({"state_dict": half(), "model": half()}, {}, "x holds several networks: state_dict, model. Choose one"),
        (
            {"epoch": 3},
            {},
            "x is not a ResNet of torchvision, timm or the CIFAR repositories: it has no conv1.weight",
        ),
        ({3: torch.ones(1)}, {}, "x is not a ResNet"),
        ({}, {}, "x is not a ResNet"),
        ([1], {}, "x holds a list; expected a state dict"),
        (torch.ones(3), {}, "x holds a Tensor; expected a state dict"),
    ],
)
def test_the_keys_that_do_not_match_are_named(content: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ResNetHubError, match=re.escape(message)) as caught:
        convert_state_dict(content, "x", **options)
    text = str(caught.value)
    assert text.isprintable() and text.endswith(".") and len(text) < 600


# Arbitrary content


TAMPERED = half()
NAMES = st.sampled_from([*TAMPERED, "conv1.weight", "conv1.0.weight", "layer1.0.conv3.weight", "classifier.1.weight"])
NAMES |= st.text(max_size=12) | st.from_regex(
    r"(module\.)?(layer[0-5]\.[0-9]{1,5}|bn1|fc|linear|shortcut)\.[a-z0-9.]{0,12}"
)
SHAPES = st.lists(st.integers(0, 3) | st.sampled_from([5, 7, 10, 16, 32, 64, 10**6, 2**31]), max_size=5)
DTYPES = st.sampled_from(
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64]
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Of any shape, whatever its size: one number stands for all."""
    dtype = draw(DTYPES)
    value = draw(st.sampled_from([0.0, 1.0, -1.0])) if not dtype.is_floating_point else draw(st.floats(width=16))
    tensor = torch.tensor(value, dtype=dtype).expand(
        draw(SHAPES.filter(lambda shape: math.prod(side or 1 for side in shape) < 2**62))
    )
    how = draw(st.sampled_from(["plain"] * 5 + ["meta", "grad", "sparse"]))
    if how == "meta":
        return tensor.to("meta")
    if how == "grad" and dtype.is_floating_point:
        return tensor.detach().requires_grad_()
    return tensor.to_sparse() if how == "sparse" and tensor.numel() < 10**4 and tensor.ndim else tensor


OTHERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
VALUES = st.recursive(
    OTHERS | tensors(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | OTHERS, inner, max_size=3)
)
WRAPPINGS = st.lists(st.sampled_from(["state_dict", "model_state_dict", "model", "net", "epoch", "other"]), max_size=4)


@cases(80)
@given(
    changes=st.dictionaries(NAMES, tensors() | VALUES, max_size=4),
    missing=st.lists(NAMES, max_size=3),
    renames=st.dictionaries(NAMES, NAMES, max_size=3),
    kind=DTYPES | st.none(),
    wrappings=WRAPPINGS,
)
def test_any_tampering_leads_to_a_network_or_a_sentence(
    changes: dict[Any, Any], missing: list[str], renames: dict[str, str], kind: Any, wrappings: list[str]
) -> None:
    kept = {key: value.to(kind) if kind else value for key, value in TAMPERED.items() if key not in missing}
    content: Any = {renames.get(key, key): value for key, value in kept.items()} | changes
    for wrapping in wrappings:
        content = {wrapping: content}
    recognized_or_refused(content)


@cases(60)
@given(VALUES)
def test_anything_at_all_is_refused(content: Any) -> None:
    recognized_or_refused(content)


def test_depth_and_number_are_nothing_special() -> None:
    deep: Any = {}
    for _ in range(10_000):
        deep = {"state_dict": deep}
    recognized_or_refused(deep)
    recognized_or_refused({f"layer1.{number}.conv1.weight": torch.ones(1) for number in range(10_000)})
    while deep:  # piece by piece: Python would free it in one recursion
        deep = deep.pop("state_dict")


def recognized_or_refused(content: Any) -> None:
    try:
        converted = convert_state_dict(content, "x")
    except ResNetHubError as error:
        text = str(error)
        assert text.isprintable() and text.endswith(".") and len(text) < 1000
    else:
        rebuilt(converted)
        assert all(text.isprintable() for _, text in converted.notes)


def test_an_imagenet_network_without_projections_is_ambiguous() -> None:
    weights = ResNet(ResNetConfig(depths=(1, 1), width=8, shortcut="A")).state_dict()
    with pytest.raises(ResNetHubError, match=r"--shortcut A or --shortcut none\.$"):
        convert_state_dict(weights, "x")
    assert convert_state_dict(weights, "x", shortcut="A").config.shortcut == "A"


def test_gray_images_need_their_mean_and_std() -> None:
    weights = ResNet(ResNetConfig(depths=(1, 1), width=8, in_channels=1, mean=(0.5,), std=(0.5,))).state_dict()
    with pytest.raises(ResNetHubError, match=r"^x has 1 input channels. Set --mean and --std"):
        convert_state_dict(weights, "x")


# Labels


def test_labels_from_a_file_or_a_list(tmp_path: Path) -> None:
    (file := tmp_path / "labels.txt").write_bytes("\ufeffcat, the\r\n雏菊\r\n\n".encode())
    assert read_label_file(str(file)) == ["cat, the", "雏菊"]
    assert read_label_file("cat, dog") == ["cat", "dog"]
    (bad := tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff")
    for wrong in (str(tmp_path / "none.txt"), str(bad), str(tmp_path), "\0", "x" * 5000):
        with pytest.raises(ResNetHubError, match=r"^Cannot read labels from .* \(.+\)\. Name a text file"):
            read_label_file(wrong)


def test_labels_of_well_known_datasets() -> None:
    ten, hundred, thousand = map(read_label_set, ("cifar10", "cifar100", "imagenet"))
    assert (len(ten), len(hundred), len(thousand)) == (10, 100, 1000)
    assert ten == sorted(ten) and hundred == sorted(hundred)
    assert (ten[9], hundred[0], hundred[99], thousand[207]) == ("truck", "apple", "worm", "golden retriever")
    long = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert sum(b.startswith(a) for a, b in zip(long, thousand, strict=True)) > 980
