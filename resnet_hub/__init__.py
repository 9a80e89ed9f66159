"""ResNets that load from, save to and share on the Hugging Face Hub: `from resnet_hub import ResNet, Classifier`.

Each name is imported on first use, so that names such as `ResNetConfig` import no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnet_hub.version import __version__

if TYPE_CHECKING:
    from resnet_hub.config import ResNetConfig as ResNetConfig
    from resnet_hub.errors import ResNetHubError as ResNetHubError
    from resnet_hub.evaluation.evaluate import evaluate as evaluate
    from resnet_hub.images.load import load_image as load_image
    from resnet_hub.inference.classifier import Classifier as Classifier
    from resnet_hub.model import ResNet as ResNet
    from resnet_hub.training.config import TrainConfig as TrainConfig
    from resnet_hub.training.loop import train as train

_MODULES = {
    "Classifier": "inference.classifier",
    "ResNet": "model",
    "ResNetConfig": "config",
    "ResNetHubError": "errors",
    "TrainConfig": "training.config",
    "evaluate": "evaluation.evaluate",
    "load_image": "images.load",
    "train": "training.loop",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
