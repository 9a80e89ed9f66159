"""The claims of the papers on residual networks as functions of a model. Importing it loads no torch.

He et al. 2015, *Deep Residual Learning for Image Recognition* (https://arxiv.org/abs/1512.03385);
Veit et al. 2016, *Residual Networks Behave Like Ensembles of Relatively Shallow Networks*
(https://arxiv.org/abs/1605.06431); Balduzzi et al. 2017, *The Shattered Gradients Problem: If resnets are the answer,
then what is the question?* (https://arxiv.org/abs/1702.08591).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_hub.analysis.activations import feature_maps, residual_ratios
    from resnet_hub.analysis.anatomy import describe_anatomy
    from resnet_hub.analysis.gradients import (
        expected_correlation,
        gradient_autocorrelation,
        gradient_correlation,
        noise_autocorrelation,
    )
    from resnet_hub.analysis.labelled_images import compute_accuracy, load_labelled_images
    from resnet_hub.analysis.lesions import (
        lesion,
        removal_curve,
        remove_blocks,
        remove_each_block,
        reorder_blocks,
        reorder_curve,
    )
    from resnet_hub.analysis.paths import path_gradients, path_lengths
    from resnet_hub.analysis.races import learn_identity, race

__all__ = [
    "compute_accuracy",
    "describe_anatomy",
    "expected_correlation",
    "feature_maps",
    "gradient_autocorrelation",
    "gradient_correlation",
    "learn_identity",
    "lesion",
    "load_labelled_images",
    "noise_autocorrelation",
    "path_gradients",
    "path_lengths",
    "race",
    "removal_curve",
    "remove_blocks",
    "remove_each_block",
    "reorder_blocks",
    "reorder_curve",
    "residual_ratios",
]

_MODULES = {  # no module has the name of its function, which would hide the function once it is imported
    "compute_accuracy": "labelled_images",
    "describe_anatomy": "anatomy",
    "expected_correlation": "gradients",
    "feature_maps": "activations",
    "gradient_autocorrelation": "gradients",
    "gradient_correlation": "gradients",
    "learn_identity": "races",
    "lesion": "lesions",
    "load_labelled_images": "labelled_images",
    "noise_autocorrelation": "gradients",
    "path_gradients": "paths",
    "path_lengths": "paths",
    "race": "races",
    "removal_curve": "lesions",
    "remove_blocks": "lesions",
    "remove_each_block": "lesions",
    "reorder_blocks": "lesions",
    "reorder_curve": "lesions",
    "residual_ratios": "activations",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
