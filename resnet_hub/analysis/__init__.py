"""The claims of the papers on residual networks as functions of a model. Importing it loads no torch.

He et al. 2015, *Deep Residual Learning for Image Recognition* (https://arxiv.org/abs/1512.03385);
Veit et al. 2016, *Residual Networks Behave Like Ensembles of Relatively Shallow Networks*
(https://arxiv.org/abs/1605.06431); Balduzzi et al. 2017, *The Shattered Gradients Problem: If resnets are the answer,
then what is the question?* (https://arxiv.org/abs/1702.08591).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_hub.analysis.anatomy import describe_anatomy as describe_anatomy
    from resnet_hub.analysis.block_effects import feature_maps as feature_maps
    from resnet_hub.analysis.block_effects import residual_ratios as residual_ratios
    from resnet_hub.analysis.gradients import expected_correlation as expected_correlation
    from resnet_hub.analysis.gradients import gradient_autocorrelation as gradient_autocorrelation
    from resnet_hub.analysis.gradients import gradient_correlation as gradient_correlation
    from resnet_hub.analysis.gradients import noise_autocorrelation as noise_autocorrelation
    from resnet_hub.analysis.labeled_images import compute_accuracy as compute_accuracy
    from resnet_hub.analysis.labeled_images import load_labeled_images as load_labeled_images
    from resnet_hub.analysis.lesions import lesion as lesion
    from resnet_hub.analysis.lesions import removal_curve as removal_curve
    from resnet_hub.analysis.lesions import remove_blocks as remove_blocks
    from resnet_hub.analysis.lesions import remove_each_block as remove_each_block
    from resnet_hub.analysis.lesions import reorder_blocks as reorder_blocks
    from resnet_hub.analysis.lesions import reorder_curve as reorder_curve
    from resnet_hub.analysis.races import learn_identity as learn_identity
    from resnet_hub.analysis.races import race as race
    from resnet_hub.analysis.residual_paths import path_gradients as path_gradients
    from resnet_hub.analysis.residual_paths import path_lengths as path_lengths

_MODULES = {  # no module has the name of its function, which would hide the function once it is imported
    "compute_accuracy": "labeled_images",
    "describe_anatomy": "anatomy",
    "expected_correlation": "gradients",
    "feature_maps": "block_effects",
    "gradient_autocorrelation": "gradients",
    "gradient_correlation": "gradients",
    "learn_identity": "races",
    "lesion": "lesions",
    "load_labeled_images": "labeled_images",
    "noise_autocorrelation": "gradients",
    "path_gradients": "residual_paths",
    "path_lengths": "residual_paths",
    "race": "races",
    "removal_curve": "lesions",
    "remove_blocks": "lesions",
    "remove_each_block": "lesions",
    "reorder_blocks": "lesions",
    "reorder_curve": "lesions",
    "residual_ratios": "block_effects",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
