"""Writes a ResNet as an ONNX graph, in float32 or int8, which ONNX Runtime, transformers.js and others run.

The project has its own writer since a ResNet needs few operators: it takes a fraction of a second, and needs no tracer,
which would block other threads. It folds each BatchNorm into the convolution before it. Graphs that come with a
checkpoint never run here; the graphs that run are built from the weights."""

import copy
import hashlib
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from resnet_hub.errors import CheckpointError, ResNetHubError
from resnet_hub.model import BasicBlock, Bottleneck, ResNet, ZeroPad
from resnet_hub.version import __version__

if TYPE_CHECKING:
    import onnx


INPUT, LOGITS = "pixel_values", "logits"  # transformers.js expects these names
FEATURES, FEATURE_MAP = "features", "feature_map"
OPSET, IR_VERSION = 17, 8  # ONNX Runtime reads them since 1.12 (2022)
TOLERANCE = 1e-4  # of logits against PyTorch, relative where they are above 1
_MAX_BYTES = 2**31 - 2**20  # of a protobuf message
_HALF_RANGE = 64  # of int8 weights: two products of a byte with more overflow 16 bits on a CPU without VNNI


def digest_weights(model: nn.Module) -> str:
    """Computes the SHA-256 of all parameters and buffers that affect the outputs, in hexadecimal."""
    sha256 = hashlib.sha256()
    for key, tensor in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            sha256.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha256.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha256.hexdigest()


def fold_batchnorm(model: ResNet) -> ResNet:
    """Returns a copy for inference, in float32 on the CPU, with each BatchNorm folded into the convolution before it.

    Shortcut A becomes a projection with weights of one and zero, which engines fuse and quantize like any other.
    """
    folded = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    last = ""
    for name, module in list(
        folded.named_modules()
    ):  # in the order of their definition, which is that of the computation
        if isinstance(module, nn.Conv2d):
            last = name
        elif isinstance(module, nn.BatchNorm2d):
            convolution = folded.get_submodule(last)
            assert isinstance(convolution, nn.Conv2d)
            folded.set_submodule(last, fuse_conv_bn_eval(convolution, module))
            folded.set_submodule(name, nn.Identity())
        elif isinstance(module, ZeroPad):
            block = folded.get_submodule(name.rpartition(".")[0])
            assert isinstance(block, BasicBlock | Bottleneck)
            folded.set_submodule(name, _projection(module, block.conv1.in_channels))
    return folded


def _projection(pad: ZeroPad, inputs: int) -> nn.Conv2d:
    before, stride = int(pad.before), int(pad.stride)
    projection = nn.Conv2d(inputs, before + inputs + int(pad.after), 1, stride, bias=False).requires_grad_(False)
    nn.init.zeros_(projection.weight)
    projection.weight[before : before + inputs, :, 0, 0] = torch.eye(inputs)
    return projection


def build_onnx(
    folded: ResNet,
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    extra: str = "",
    store_half: bool = False,
) -> bytes:
    """Builds the ONNX graph of a network: `INPUT` (N, C, H, W) to `LOGITS`, or to `FEATURES` without a head.

    Args:
        folded: A network that `fold_batchnorm` returned.
        ranges: Minimum and maximum of each feature map; with them the graph computes in int8.
        extra: More outputs: "last" adds the last stage's feature maps, "all" those that `ranges` needs.
        store_half: Whether weights are stored in half precision, which halves the file; it computes in float32.

    Raises:
        ResNetHubError: If ONNX cannot hold the network.
    """
    graph: bytes = _Writer(folded, ranges, extra, store_half).model.SerializeToString()
    return graph


class _Writer:
    """Walks a network and adds its nodes. Each method takes the name of its input and returns that of its output."""

    def __init__(self, network: ResNet, ranges: Mapping[str, tuple[float, float]] | None, extra: str, store_half: bool):
        from onnx import TensorProto, helper

        if sum(tensor.nbytes for tensor in network.state_dict().values()) > _MAX_BYTES:
            raise ResNetHubError("The network is over 2 GB, which is more than an ONNX file holds.")
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.ranges, self.feature_maps, self.store_half = ranges, list[str](), store_half
        self.scales: dict[
            str, tuple[str, str, np.float32]
        ] = {}  # names of scale and zero point, and the scale, by rounded feature map
        self.names = {module: name for name, module in network.named_modules()}

        x = self.feature_map(INPUT)
        x = self.chain(network.maxpool, self.chain(network.conv1, x, relu=True))
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            for block in stage.children():
                x = self.block(block, x)
        classes, last = network.config.num_classes, x
        output = LOGITS if classes else FEATURES
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x], "pool")], "flat" if classes else output, axis=1)
        if classes:  # in float32: it is small, and its rounding errors would be those of the logits
            weights = [self.floats(f"fc.{key}", tensor.numpy()) for key, tensor in network.fc.state_dict().items()]
            self.node("Gemm", [x, *weights], output, transB=1)
        if extra == "last":
            self.node("Identity", [last], FEATURE_MAP)

        feature_maps = {"last": [FEATURE_MAP], "all": self.feature_maps}.get(extra, [])
        size, width = network.config.image_size, classes or network.config.num_features
        value = partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
        graph = helper.make_graph(
            self.nodes,
            network.config.architecture,
            [value(INPUT, shape=["batch", network.config.in_channels, size, size])],
            [
                value(output, shape=["batch", width]),
                *(value(name, shape=["batch", None, None, None]) for name in feature_maps),
            ],
            self.constants,
        )
        self.model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="resnet_hub",
            producer_version=__version__,
        )

    def block(self, block: nn.Module, x: str) -> str:
        if not isinstance(block, BasicBlock | Bottleneck):
            raise ResNetHubError(f"A {type(block).__name__} cannot be written as ONNX.")
        convolutions = [block.conv1, block.conv2, *([block.conv3] if isinstance(block, Bottleneck) else [])]
        residual = x
        for convolution in convolutions:
            residual = self.chain(convolution, residual, relu=block.plain or convolution is not convolutions[-1])
        if block.plain:
            return residual
        name = self.names[block]
        both = self.node("Add", [residual, self.chain(block.downsample, x)], f"{name}.sum")
        return self.feature_map(self.node("Relu", [both], name))

    def chain(self, module: nn.Module, x: str, relu: bool = False) -> str:
        """Adds a module or a sequence of modules; with `relu` a ReLU follows the last."""
        steps = [step for step in module.modules() if not isinstance(step, nn.Sequential | nn.Identity)]
        for step, after in pairwise([*steps, nn.ReLU() if relu else None]):
            if isinstance(step, nn.ReLU):  # added with the step before it
                continue
            if isinstance(step, nn.Conv2d):
                x = self.convolution(step, x, relu=isinstance(after, nn.ReLU))
            elif isinstance(step, nn.MaxPool2d | nn.AvgPool2d):
                x = self.pool(step, x)
            else:
                raise ResNetHubError(f"A {type(step).__name__} cannot be written as ONNX.")
        return x

    def convolution(self, step: nn.Conv2d, x: str, relu: bool) -> str:
        name, (top, left) = self.names[step], (int(step.padding[0]), int(step.padding[1]))
        weights = step.weight.numpy()
        bias = np.zeros(len(weights), np.float32) if step.bias is None else step.bias.numpy()
        y = self.node(
            "Conv",
            [x, *self.weights(name, x, weights, bias)],
            f"{name}.sum" if relu else name,
            kernel_shape=list(step.kernel_size),
            strides=list(step.stride),
            pads=[top, left, top, left],
            group=step.groups,
        )
        return self.feature_map(self.node("Relu", [y], name) if relu else y)

    def weights(self, name: str, x: str, weights: np.ndarray, bias: np.ndarray) -> list[str]:
        """Adds a convolution's weights and bias, in float32 or in int8 with a scale for each output channel."""
        if self.ranges is None:
            return [self.floats(f"{name}.weight", weights), self.floats(f"{name}.bias", bias)]
        largest = np.abs(weights).reshape(len(weights), -1).max(1).clip(1e-10)
        scales = (largest / _HALF_RANGE).astype(np.float32)
        rounded = np.rint(weights / scales.reshape(-1, 1, 1, 1)).astype(np.int8)
        bias_scales = self.scales[x][2] * scales
        limit = 2**31 - 1
        rounded_bias = np.rint(bias / bias_scales.astype(np.float64)).clip(-limit, limit).astype(np.int32)
        outputs = []
        for key, values, scale in (("weight", rounded, scales), ("bias", rounded_bias, bias_scales)):
            inputs = [self.constant(f"{name}.{key}.int", values), self.constant(f"{name}.{key}.scale", scale)]
            inputs.append(self.constant(f"{name}.{key}.zero", np.zeros(len(scale), values.dtype)))
            outputs.append(self.node("DequantizeLinear", inputs, f"{name}.{key}", axis=0))
        return outputs

    def pool(self, step: nn.MaxPool2d | nn.AvgPool2d, x: str) -> str:
        name, kernel, stride, padding = self.names[step], step.kernel_size, step.stride, step.padding
        options: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        options["ceil_mode"] = int(step.ceil_mode)
        if isinstance(step, nn.AvgPool2d):
            options["count_include_pad"] = int(step.count_include_pad)
        y = self.node("MaxPool" if isinstance(step, nn.MaxPool2d) else "AveragePool", [x], name, **options)
        return self.quantized(y, *self.scales[x]) if self.ranges is not None else y

    def feature_map(self, name: str) -> str:
        """Registers a feature map that `ranges` must have; in int8 returns the name of its rounded values."""
        if self.ranges is None:
            self.feature_maps += [name] if name != INPUT else []
            return name
        if name not in self.ranges:
            raise CheckpointError(
                f"The int8 calibration has no range of {name}; make it again with `resnet-hub quantize`."
            )
        low, high = self.ranges[name]
        scale = np.float32((high - low) / 255)
        zero = np.uint8(np.rint(-low / scale).clip(0, 255))
        return self.quantized(name, self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", zero), scale)

    def quantized(self, name: str, scale: str, zero: str, step: np.float32) -> str:
        integers = self.node("QuantizeLinear", [name, scale, zero], f"{name}.int")
        rounded = self.node("DequantizeLinear", [integers, scale, zero], f"{name}.rounded")
        self.scales[rounded] = scale, zero, step
        return rounded

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes))
        return output

    def floats(self, name: str, values: np.ndarray) -> str:
        """Adds float32 values; those of `store_half` are stored as float16 if it can hold them, and cast on loading."""
        from onnx import TensorProto

        if not self.store_half or values.ndim == 1 or np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            return self.constant(name, values)
        half = self.constant(f"{name}.half", values.astype(np.float16))
        return self.node("Cast", [half], name, to=TensorProto.FLOAT)

    def constant(self, name: str, values: np.ndarray | np.generic) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name
