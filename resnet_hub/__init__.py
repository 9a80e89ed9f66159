"""ResNet that saves to, loads from and shares on the Hugging Face Hub: `from resnet_hub import ResNet, Classifier`.

Each name is imported when it is first used, so that what needs no network, such as `ResNetConfig`, imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_hub.classifier import Classifier
    from resnet_hub.config import ResNetConfig
    from resnet_hub.errors import ResNetHubError
    from resnet_hub.evaluation import evaluate
    from resnet_hub.images import load_image
    from resnet_hub.model import ResNet
    from resnet_hub.run import TrainConfig
    from resnet_hub.training import train

__version__ = "0.1.0"
__all__ = ["Classifier", "ResNet", "ResNetConfig", "ResNetHubError", "TrainConfig", "evaluate", "load_image", "train"]

_MODULES = {
    "Classifier": "classifier",
    "ResNet": "model",
    "ResNetConfig": "config",
    "ResNetHubError": "errors",
    "TrainConfig": "run",
    "evaluate": "evaluation",
    "load_image": "images",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
