"""The experiment on paths: how long they are, and how much gradient those of each length carry. Returns a `Report`."""

import time

import numpy as np
import torch
from torch import Tensor

from resnet_hub.analysis.blocks import evaluation_mode, to_inputs
from resnet_hub.analysis.claims import VEIT, finish_report
from resnet_hub.analysis.experiment_report import Chart, Finding, Report
from resnet_hub.analysis.residual_paths import path_gradients, path_lengths
from resnet_hub.model import ResNet


def reproduce_paths(
    name: str, model: ResNet, images: Tensor, *, data: str = "", samples: int = 8, seed: int = 0
) -> Report:
    """Measure the gradient that paths of each length carry; the loss is that of the model's own labels.

    Args:
        name: Of the network.
        model: A residual network with a head, which does not change.
        images: Preprocessed images (N, in_channels, H, W).
        data: The images in words.
        samples: Random paths of each length.
        seed: Of the choices.

    Raises:
        AnalysisError: The network is plain or has no head, or the images do not fit it.
    """
    start, shares = time.monotonic(), path_lengths(model)
    with torch.inference_mode(), evaluation_mode(model):
        targets = model(to_inputs(model, images)).argmax(1)
    gradients = path_gradients(model, images, targets.clone(), samples=samples, seed=seed)
    blocks, norms, cumulative = len(shares) - 1, gradients.norms, np.cumsum(shares)
    low, high = (int(np.searchsorted(cumulative, quantile)) for quantile in (0.025, 0.975))
    mean, half = gradients.mean_length, blocks / 2
    below = float(gradients.gradient_shares[: int(half) + 1].sum())  # up to the mean length of the paths
    findings = [
        Finding("lengths of 95% of the paths", "binomial", f"{low} to {high} of {blocks} blocks", None),
        Finding("mean length, weighted by the gradient", f"below {half:g}", f"{mean:.1f}", mean < half),
        Finding(f"gradient through paths of up to {int(half)} blocks", "most", f"{below:.0%}", below > 0.5),
        Finding("gradient through one path: no block, all blocks", "falls", f"{norms[0]:.1e}, {norms[-1]:.1e}", None),
    ]
    lengths = list(range(blocks + 1))
    lines = {"share of paths": (lengths, shares), "share of gradient": (lengths, gradients.gradient_shares)}
    charts = {
        "shares": Chart(
            title=f"Paths by their length, {name}",
            x_label="length in blocks",
            y_label="share",
            lines={label: (x, y.tolist()) for label, (x, y) in lines.items()},
            note="Most paths pass about half of the blocks; most of the gradient comes through shorter ones.",
        ),
        "norms": Chart(
            title=f"Gradient through one path, {name}",
            x_label="length in blocks",
            y_label="norm of the gradient",
            lines={name: (lengths, norms.tolist())},
            log_y=True,
            note="In the paper the gradient through a path falls exponentially with its length.",
        ),
    }
    return finish_report(
        "paths",
        f"{VEIT}, sections 3 and 5, figure 6",
        start,
        settings={"model": name, "images": data, "samples": samples, "seed": seed},
        findings=findings,
        numbers={"norms": norms.tolist()} | {label: y.tolist() for label, (_, y) in lines.items()},
        charts=charts,
    )
