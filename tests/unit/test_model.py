"""The network against torchvision, timm and the paper, and in the hands of PyTorch's own tools."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from resnet_hub.config import VARIANTS, ResNetConfig, label_table
from resnet_hub.errors import ConfigError
from resnet_hub.model import Bottleneck, ResNet, ZeroPad

TORCHVISION = [name for name in VARIANTS if name in torchvision.models.list_models()]
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def tiny(**changes: Any) -> ResNet:
    torch.manual_seed(0)
    values = {"depths": (1, 2), "width": 8, "id2label": label_table(None, 3)} | changes
    return randomize(ResNet(ResNetConfig(**values))).eval()


def randomize(model: nn.Module) -> Any:
    """BatchNorms as if trained: as made they hide mistakes, since all of them are the identity."""
    random = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.3, 0.7),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high, generator=random)
    return model


def shapes(model: nn.Module) -> list[tuple[str, torch.Size, torch.dtype]]:
    return [(key, tensor.shape, tensor.dtype) for key, tensor in model.state_dict().items()]


# Against torchvision and timm


@pytest.mark.parametrize("name", TORCHVISION)
def test_weights_of_torchvision_and_timm_fit_and_give_equal_logits(name: str) -> None:
    torch.manual_seed(0)
    reference = randomize(torchvision.models.get_model(name, weights=None)).eval()
    with torch.device("meta"):
        ours = ResNet(ResNetConfig.from_name(name, num_classes=1000)).eval()
        timms = timm.create_model(name).eval()
    assert shapes(ours) == shapes(reference) == shapes(timms)
    weights = reference.state_dict()
    ours.load_state_dict(weights, assign=True)
    timms.load_state_dict(weights, assign=True)
    with torch.inference_mode():
        logits, expected, timm_logits = ours(IMAGES), reference(IMAGES), timms(IMAGES)
    assert expected.std() > 0.1
    assert (logits - expected).abs().max() <= 1e-5
    assert (logits - timm_logits).abs().max() <= 1e-5


def test_stages_are_torchvisions() -> None:
    reference = torchvision.models.resnet18(weights=None).eval()
    ours = ResNet(ResNetConfig.from_name("resnet18", num_classes=1000)).eval()
    ours.load_state_dict(reference.state_dict())
    names = {f"layer{number}": str(number) for number in (1, 2, 3, 4)}
    expected = torchvision.models._utils.IntermediateLayerGetter(reference, names)(IMAGES)
    for actual, reference in zip(ours.forward_stages(IMAGES), expected.values(), strict=True):
        torch.testing.assert_close(actual, reference)


# Shapes


@pytest.mark.parametrize("size", [64, 65, 97])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_stage_maps_have_the_configs_channels_and_halve(name: str, size: int) -> None:
    config = ResNetConfig.from_name(name, num_classes=5)
    with torch.device("meta"):
        model, images = ResNet(config), torch.empty(2, 3, size, size)
    stages = model.forward_stages(images)
    sides = [math.ceil(size / 2**stage / (4 if config.stem == "7x7" else 1)) for stage in range(len(config.depths))]
    assert [tuple(stage.shape) for stage in stages] == [
        (2, channels, side, side) for channels, side in zip(config.stage_channels, sides, strict=True)
    ]
    assert model.forward_features(images).shape == stages[-1].shape
    assert model(images).shape == (2, 5)


def test_the_last_stage_is_the_input_of_the_head() -> None:
    model = tiny()
    features = model.forward_features(IMAGES)
    assert torch.equal(features, model.forward_stages(IMAGES)[-1])
    torch.testing.assert_close(model.fc(features.mean((2, 3))), model(IMAGES))


def test_images_need_not_be_square_or_of_three_channels() -> None:
    model = tiny(in_channels=1, mean=(0.5,), std=(0.5,), depths=(1, 1, 1))
    assert [tuple(stage.shape[2:]) for stage in model.forward_stages(torch.zeros(1, 1, 40, 72))] == [
        (10, 18),
        (5, 9),
        (3, 5),
    ]


# Shortcuts, section 3.3


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize(("shortcut", "projections"), [("A", 0), ("B", 1), ("C", 3), ("none", 0)])
def test_shortcuts_project_where_the_paper_says(block: str, shortcut: str, projections: int) -> None:
    model = tiny(block=block, shortcut=shortcut)
    projection_keys = [key for key, _ in model.named_parameters() if "downsample.0" in key]
    widened = block == "bottleneck" and shortcut == "B"  # its first stage is wider than the stem
    assert len(projection_keys) == projections + widened
    assert model(IMAGES).shape == (2, 3)


@pytest.mark.parametrize(("inputs", "outputs", "stride", "before"), [(4, 8, 2, 2), (4, 7, 1, 1), (4, 4, 2, 0)])
def test_shortcut_a_takes_every_second_pixel_and_pads_with_zeros(
    inputs: int, outputs: int, stride: int, before: int
) -> None:
    x = torch.rand(2, inputs, 5, 6)
    expected = torch.zeros(2, outputs, math.ceil(5 / stride), math.ceil(6 / stride))
    expected[:, before : before + inputs] = x[:, :, ::stride, ::stride]
    assert torch.equal(ZeroPad(inputs, outputs, stride)(x), expected)


def test_blocks_add_the_shortcut_and_plain_ones_do_not() -> None:
    for shortcut, factor in (("B", 1), ("none", 0)):
        block = tiny(shortcut=shortcut).layer1[0]
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)  # the residual is 0
        x = torch.rand(2, 8, 6, 6)
        assert torch.equal(block(x), factor * x)


# Bottleneck, V1 and V1.5


def test_a_bottleneck_halves_the_map_in_the_paper_s_1x1_or_the_field_s_3x3() -> None:
    v1, v15 = (tiny(block="bottleneck", stride_in_1x1=first) for first in (True, False))
    assert (v1.layer2[0].conv1.stride, v1.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (v15.layer2[0].conv1.stride, v15.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert shapes(v1) == shapes(v15)
    v15.load_state_dict(v1.state_dict())
    assert not torch.allclose(v1(IMAGES), v15(IMAGES))
    for block in v1.layer2:  # the same network once the stride has moved
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    torch.testing.assert_close(v1(IMAGES), v15(IMAGES))


# Initialization


@pytest.mark.parametrize("name", ["resnet50", "resnet34"])
def test_convolutions_start_as_he_et_al_2015_say(name: str) -> None:
    torch.manual_seed(0)
    for module in ResNet(ResNetConfig.from_name(name)).modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
            assert abs(module.weight.mean().item()) < 0.1 * math.sqrt(2 / fan_out)
        elif isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


@pytest.mark.parametrize("name", VARIANTS)
def test_convolutions_have_no_bias_and_a_1x1_no_padding(name: str) -> None:
    with torch.device("meta"):
        convolutions = [m for m in ResNet(ResNetConfig.from_name(name)).modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    for module in convolutions:
        assert module.bias is None
        assert module.padding == (module.kernel_size[0] // 2,) * 2


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_zero_init_starts_every_block_as_its_shortcut(block: str) -> None:
    config = ResNetConfig(depths=(2, 1), width=8, block=block)
    model = ResNet(config, zero_init_residual=True)
    for stage in (model.layer1, model.layer2):
        for part in stage:
            last, first = (part.bn3 if isinstance(part, Bottleneck) else part.bn2), part.bn1
            assert not last.weight.any()
            assert first.weight.all()
    x = torch.rand(1, model.config.stage_channels[0], 6, 6)
    assert torch.equal(model.layer1[1](x), x)
    assert all(module.weight.all() for module in ResNet(config).modules() if isinstance(module, nn.BatchNorm2d))


# Gradients


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_every_parameter_receives_a_gradient(block: str, shortcut: str) -> None:
    model = tiny(block=block, shortcut=shortcut, depths=(1, 1, 1, 2)).train()
    nn.functional.cross_entropy(model(IMAGES), torch.tensor([0, 2])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


def test_a_tiny_net_learns_one_batch_by_heart() -> None:
    model = tiny(stem="3x3").train()
    images, targets = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
    assert torch.equal(model(images).argmax(1), targets)


# The head


def test_without_a_head_the_answer_is_the_pooled_features() -> None:
    model = tiny(id2label={})
    assert not any(key.startswith("fc") for key in model.state_dict())
    torch.testing.assert_close(model(IMAGES), model.forward_features(IMAGES).mean((2, 3)))


def test_a_new_head_leaves_the_body_and_takes_its_kind_and_place() -> None:
    model = tiny().double()
    body = {key: tensor.clone() for key, tensor in model.state_dict().items() if not key.startswith("fc.")}
    model.reset_head({0: "ja", 1: "nein"})
    assert model.config.labels == ["ja", "nein"]
    assert model(IMAGES.double()).shape == (2, 2)
    assert model.fc.weight.dtype == torch.float64
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in body.items())
    model.reset_head(["a", "b", "c"])
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    model.reset_head(num_classes=7)
    assert model.fc.out_features == model.config.num_classes == 7
    model.reset_head()
    assert model(IMAGES.double()).shape == (2, model.config.num_features)


def test_a_head_that_cannot_be_leaves_the_model_as_it_was() -> None:
    model = tiny()
    for wrong in ({"id2label": {1: "a"}}, {"id2label": ["a"], "num_classes": 2}, {"num_classes": -1}):
        with pytest.raises(ConfigError):
            model.reset_head(**wrong)
    assert model.config.num_classes == model.fc.out_features == 3


# PyTorch's tools

KINDS: list[dict[str, Any]] = [
    {},
    {"block": "bottleneck", "shortcut": "C", "id2label": {}},
    {"stem": "3x3", "shortcut": "A", "depths": (1, 1, 1)},
    {"shortcut": "none"},
]


@pytest.mark.parametrize("kind", KINDS)
def test_torch_export(kind: dict[str, Any]) -> None:
    model = tiny(**kind)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (IMAGES,), dynamic_shapes=({0: batch},)).module()
    for images in (IMAGES, IMAGES[:1], IMAGES.repeat(3, 1, 1, 1)):
        torch.testing.assert_close(exported(images), model(images))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, and still what many deployments load
@pytest.mark.parametrize("kind", KINDS)
def test_torch_jit_script(kind: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(**kind)
    torch.jit.script(model).save(tmp_path / "model.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(IMAGES), model(IMAGES))


@pytest.mark.parametrize("kind", KINDS)
def test_torch_compile_traces_it_in_one_graph(kind: dict[str, Any]) -> None:
    model = tiny(**kind)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES), model(IMAGES))


def test_torch_compile_trains() -> None:
    model = tiny().train()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_channels_last_and_bfloat16() -> None:
    model = tiny()
    expected = model(IMAGES)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(IMAGES.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(model.bfloat16()(IMAGES.bfloat16()).float(), expected, atol=0.1, rtol=0.1)


def test_backbone_of_faster_r_cnn() -> None:
    model = tiny(depths=(1, 1, 1, 1))
    layers = {f"layer{number}": str(number - 1) for number in (1, 2, 3, 4)}
    backbone = BackboneWithFPN(model, layers, list(model.config.stage_channels), out_channels=16)
    detector = FasterRCNN(
        backbone,
        num_classes=3,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (48,), (64,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=50,
        box_batch_size_per_image=16,
    )
    boxes = torch.tensor([[4.0, 4, 30, 40], [20, 10, 60, 50]])
    targets: list[dict[str, Tensor]] = [{"boxes": boxes, "labels": torch.tensor([1, 2])} for _ in IMAGES]
    losses = detector.train()(list(IMAGES), targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    body = [(key, parameter) for key, parameter in model.named_parameters() if not key.startswith("fc.")]
    assert [key for key, parameter in body if parameter.grad is None or not parameter.grad.any()] == []
    with torch.inference_mode():
        detections = detector.eval()(list(IMAGES))
    assert [set(detection) for detection in detections] == [{"boxes", "labels", "scores"}] * 2
