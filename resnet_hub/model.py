"""ResNet, top to bottom: stem, four stages of residual blocks, global pool, head.

He et al. 2015, *Deep Residual Learning for Image Recognition* (https://arxiv.org/abs/1512.03385). The attribute
names are the checkpoint format: those of torchvision and timm, so that weights move without renaming."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from resnet_hub.config import Reliability, ResNetConfig, label_table

if TYPE_CHECKING:
    from resnet_hub.checkpoints.model_card import CardContent


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the map's size at stride 1; no bias, since a BatchNorm follows."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


class ZeroPad(nn.Module):
    """Shortcut A: every second pixel, and zeros for the new channels, half before and half after the old ones."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.before, self.after, self.stride = (outputs - inputs) // 2, (outputs - inputs + 1) // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, self.before, self.after])


def shortcut(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    """Section 3.3: identity if the shape stays the same; else zero padding (A) or projection (B); C always projects.

    D halves the map before it projects, so that no pixel is skipped (https://arxiv.org/abs/1812.01187, section 4.2).
    """
    if kind == "C" or (kind == "B" and (stride != 1 or inputs != outputs)):
        return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    if kind == "D" and (stride != 1 or inputs != outputs):
        pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
        return nn.Sequential(pool, conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
    if kind == "A" and (stride != 1 or inputs != outputs):
        return ZeroPad(inputs, outputs, stride)
    return nn.Identity()


class BasicBlock(nn.Module):
    """Figure 5, left: two 3x3 convolutions. Maps (N, inputs, H, W) to (N, planes, H / stride, W / stride)."""

    def __init__(self, config: ResNetConfig, inputs: int, planes: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(config.shortcut, inputs, planes, stride)
        self.plain = config.shortcut == "none"

    def forward(self, x: Tensor) -> Tensor:
        residual = self.forward_residual(x)
        out: Tensor = self.relu(residual if self.plain else residual + self.downsample(x))
        return out

    def forward_residual(self, x: Tensor) -> Tensor:
        """F(x) of equation 1: what the block adds to its shortcut, before the ReLU."""
        residual: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return residual


class Bottleneck(nn.Module):
    """Figure 5, right: 1x1 down, 3x3, 1x1 up to four times the planes.

    The stride is in the 3x3 convolution (V1.5), which is half a percentage point more accurate
    (https://catalog.ngc.nvidia.com/orgs/nvidia/resources/resnet_50_v1_5_for_pytorch) than the paper's stride in the
    first 1x1 (`stride_in_1x1`).
    """

    def __init__(self, config: ResNetConfig, inputs: int, planes: int, stride: int):
        super().__init__()
        width = planes * config.group_width // 64 * config.groups
        outputs = planes * config.expansion
        first, second = (stride, 1) if config.stride_in_1x1 else (1, stride)
        self.conv1, self.bn1 = conv(inputs, width, 1, first), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, second, config.groups), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(config.shortcut, inputs, outputs, stride)
        self.plain = config.shortcut == "none"

    def forward(self, x: Tensor) -> Tensor:
        residual = self.forward_residual(x)
        out: Tensor = self.relu(residual if self.plain else residual + self.downsample(x))
        return out

    def forward_residual(self, x: Tensor) -> Tensor:
        """F(x) of equation 1: what the block adds to its shortcut, before the ReLU."""
        hidden = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        residual: Tensor = self.bn3(self.conv3(hidden))
        return residual


class _SkipInitialization(TorchFunctionMode):
    """Skips random weights: the meta device has no values, and torch would import 900 modules to initialize it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("normal_", "uniform_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class ResNet(nn.Module):
    """Images (N, in_channels, H, W), normalized floats, to logits (N, num_classes); without a head, to features (N, C).

    `zero_init_residual` starts each block as its shortcut: the last BatchNorm's gamma is 0
    (https://arxiv.org/abs/1706.02677, section 5.1).
    """

    def __init__(self, config: ResNetConfig, *, zero_init_residual: bool = False):
        super().__init__()
        self.config = config
        self.card: str | None = None  # README.md of the checkpoint that it was loaded from
        self.stored_as = "float32"  # dtype of the weights in that checkpoint
        self.calibration: bytes | None = None  # content of its `onnx/int8.json`
        self.conv1 = self._stem(config)
        self.bn1 = nn.BatchNorm2d(config.stem_outputs[-1])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if config.stem == "3x3" else nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (self._stage(config, stage) for stage in range(4))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(config.num_features, config.num_classes) if config.num_classes else nn.Identity()
        self._initialize(zero_init_residual)

    @staticmethod
    def _stem(config: ResNetConfig) -> nn.Module:
        """Up to the BatchNorm that every stem ends with."""
        channels = config.stem_outputs
        if config.stem != "deep":
            kernel, stride = (7, 2) if config.stem == "7x7" else (3, 1)
            return conv(config.in_channels, channels[0], kernel, stride)
        first, second, last = channels
        return nn.Sequential(
            *(conv(config.in_channels, first, 3, 2), nn.BatchNorm2d(first), nn.ReLU(inplace=True)),
            *(conv(first, second, 3), nn.BatchNorm2d(second), nn.ReLU(inplace=True)),
            conv(second, last, 3),
        )

    @staticmethod
    def _stage(config: ResNetConfig, stage: int) -> nn.Module:
        if stage >= len(config.depths):  # the CIFAR family has three stages
            return nn.Identity()
        block = {"basic": BasicBlock, "bottleneck": Bottleneck}[config.block]
        planes, stride = config.stage_planes[stage], config.stage_strides[stage]
        inputs = config.stage_channels[stage - 1] if stage else config.stem_outputs[-1]
        first = block(config, inputs, planes, stride)
        others = (block(config, planes * config.expansion, planes, stride=1) for _ in range(config.depths[stage] - 1))
        return nn.Sequential(first, *others)

    def _initialize(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # https://arxiv.org/abs/1502.01852, equation 14
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.bn1.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.bn1.weight.device

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits, or the pooled features of a network without a head.

        Args:
            x: Preprocessed images (N, in_channels, H, W).

        Returns:
            Logits (N, num_classes), or features (N, num_features).
        """
        logits: Tensor = self.fc(self.avgpool(self.forward_features(x)).flatten(1))
        return logits

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last feature map.

        Args:
            x: Preprocessed images (N, in_channels, H, W).

        Returns:
            The last stage's feature map (N, num_features, h, w).
        """
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.forward_stem(x)))))
        return x

    def forward_stem(self, x: Tensor) -> Tensor:
        """Compute what the first block sees.

        Args:
            x: Preprocessed images (N, in_channels, H, W).

        Returns:
            The input of the first block (N, stem_outputs[-1], h, w).
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return x

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Compute the feature map of each stage.

        Args:
            x: Preprocessed images (N, in_channels, H, W).

        Returns:
            A feature map (N, stage_channels[i], h_i, w_i) for each stage, each half the size of the one before.
        """
        x = self.forward_stem(x)
        feature_maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4)[: len(self.config.depths)]:
            x = stage(x)
            feature_maps.append(x)
        return feature_maps

    def reset_head(self, id2label: Mapping[int, str] | list[str] | None = None, num_classes: int | None = None) -> None:
        """Replace the head by a new one for other labels; with neither argument remove it, to return features.

        Args:
            id2label: Labels by class index, or as a list.
            num_classes: Number of classes, whose labels are numbers.

        Raises:
            ConfigError: The labels are not valid, or differ in number from `num_classes`.
        """
        self.config = replace(self.config, id2label=label_table(id2label, num_classes), reliability=Reliability())
        classes, features = self.config.num_classes, self.config.num_features
        self.fc = nn.Linear(features, classes, device=self.device, dtype=self.dtype) if classes else nn.Identity()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        id2label: Mapping[int, str] | list[str] | None = None,
        num_classes: int | None = None,
        dtype: str = "float32",
        weights: str | None = None,
        subfolder: str = "",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a model from a checkpoint folder or the Hub, in evaluation mode.

        Args:
            source: A checkpoint folder, a Hub repo `user/name`, or an included model such as "resnet18-imagenet".
            id2label: Labels of a new head on the same backbone, by class index or as a list.
            num_classes: Number of classes of a new head, with numbered labels.
            dtype: "float32", "float16" or "bfloat16" to cast the weights, "auto" to keep the dtype of the file. The
                default represents all of them exactly, and on a CPU it is faster than half precision.
            weights: The name of the weights file, where there are several.
            subfolder: Path of the checkpoint inside the source.
            revision: Branch, tag or commit of a repo.
            token: A token of the Hub; False for none, None for the one that is logged in.
            cache_dir: The cache to fetch into, instead of the default one.
            local_files_only: Use the cached copy of a repo, without any request.

        Returns:
            The model, whose config holds labels and preprocessing.

        Raises:
            CheckpointError: The folder is incomplete, or a key or shape of the weights differs from the config's.
            ConfigError: The config describes a network that is not supported.
            HubError: The Hub refuses, or cannot be reached and there is no cached copy.
        """
        from resnet_hub.checkpoints.load import check_weights, load_checkpoint
        from resnet_hub.checkpoints.save import cast_weights

        checkpoint = load_checkpoint(
            source,
            weights=weights,
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        with torch.device("meta"), _SkipInitialization():  # the loaded tensors become the parameters: no second copy
            model = cls(checkpoint.config)
        tensors = check_weights(model.state_dict(), checkpoint.weights)
        model.load_state_dict(tensors if dtype == "auto" else cast_weights(tensors, dtype), assign=True)
        model.card, model.stored_as, model.calibration = checkpoint.card, checkpoint.dtype, checkpoint.calibration
        if id2label is not None or num_classes is not None:
            model.reset_head(id2label, num_classes)
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, *, card: "str | CardContent | None" = None, dtype: str | None = None
    ) -> Path:
        """Save config, weights and model card as a checkpoint folder. Other files in the folder stay.

        Args:
            folder: The folder, created if it does not exist. If saving fails, it is unchanged.
            card: The text of the model card, or facts to render one from. By default the card that the model was loaded
                with is kept, without metrics if the weights have changed, and its license always.
            dtype: "float16" or "bfloat16" to halve the file. By default weights loaded in half precision are saved in
                it again, unless that would change their values; others are saved as float32.

        Returns:
            The path of the folder.

        Raises:
            CheckpointError: Names or shapes of the weights do not fit the config, a value is NaN or overflows in
                `dtype`, or the folder cannot be written.
        """
        return self._save(folder, card, dtype)

    def _save(
        self, folder: str | Path, card: "str | CardContent | None", dtype: str | None, *, keeps_images: bool = False
    ) -> Path:
        from resnet_hub.checkpoints.save import is_lossless_cast, save_checkpoint

        weights = self.state_dict()
        if dtype is None and self.stored_as != "float32" and is_lossless_cast(weights, self.stored_as):
            dtype = self.stored_as
        options: dict[str, Any] = {"old_card": self.card, "dtype": dtype, "keeps_images": keeps_images}
        return save_checkpoint(folder, self.config, weights, card, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: "str | CardContent | None" = None,
        dtype: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool = False,
        message: str | None = None,
    ) -> str:
        """Save the model as `save_pretrained` does, and upload it to the Hub in one commit.

        Args:
            repo_id: The repo `user/name`, created if it does not exist.
            card: See `save_pretrained`. A card that was edited on the Hub keeps its text.
            dtype: See `save_pretrained`.
            private: Whether a new repo is private; an existing public one is then refused.
            token: A token of the Hub; None for the one that is logged in.
            branch: The branch to commit to, created if it does not exist; None for `main`.
            create_pr: Open a pull request instead of committing to the branch.
            message: The commit message.

        Returns:
            The URL of the commit or pull request.

        Raises:
            CheckpointError: See `save_pretrained`.
            HubError: The Hub refuses or cannot be reached.
        """
        from resnet_hub.checkpoints.push import push_folder

        with TemporaryDirectory() as folder:
            self._save(folder, card, dtype, keeps_images=True)  # the repo may have their files
            return push_folder(
                folder, repo_id, private=private, token=token, branch=branch, create_pr=create_pr, message=message
            )
