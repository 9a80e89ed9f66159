"""Recognizes images that show none of a model's labels, by its pooled features.

The features of the images that a network was trained on lie near a plane of a few directions; those of other images do
not, even if they give a label a high score. The distance from that plane separates them far better than the energy
of the logits (ViM, https://arxiv.org/abs/2203.10807, has the idea; docs/log.md compares them).
"""

import base64
import binascii
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.errors import ConfigError

DIRECTIONS = 16  # more are hardly better, and take more of config.json: 1.4 kB each for 512 features
_DTYPE = "<f2"  # as stored


class FeatureSubspace(NamedTuple):
    """The mean (C,) and the main directions (K, C), orthonormal, of the features of the images that a model knows."""

    mean: Tensor
    directions: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Self:
        """Fits it to pooled features (N, C)."""
        points = _normalize(features)
        mean = points.mean(0)
        _, _, directions = torch.linalg.svd(points - mean, full_matrices=False)
        return cls(mean, directions[: min(DIRECTIONS, min(points.shape) // 4)])

    def measure_distances(self, features: Tensor) -> Tensor:
        """Returns the distance (N,) of pooled features (N, C) from the plane."""
        offsets = _normalize(features) - self.mean
        residuals: Tensor = offsets - offsets @ self.directions.T @ self.directions
        distances: Tensor = torch.linalg.vector_norm(residuals, dim=1)
        return distances

    def encode(self) -> str:
        """Returns the content of `Reliability.subspace`: half precision in base64."""
        rows = torch.cat([self.mean[None], self.directions]).numpy().astype(_DTYPE)
        return base64.b64encode(rows.tobytes()).decode()

    @classmethod
    def decode(cls, text: str, num_features: int) -> Self:
        """Returns what `encode` was called of; raises `ConfigError` if the text is of something else."""
        try:
            rows = np.frombuffer(base64.b64decode(text, validate=True), _DTYPE).reshape(-1, num_features)
        except (binascii.Error, ValueError):
            rows = np.empty((0, num_features), _DTYPE)
        if not len(rows) or not np.isfinite(rows).all():
            raise ConfigError("The reliability.subspace of config.json is damaged; fit it again, or remove it.")
        values = torch.from_numpy(rows.astype(np.float32))
        return cls(values[0], values[1:])


def _normalize(features: Tensor) -> Tensor:
    """Returns the square roots of the features, scaled to length 1: the roots reduce the weight of a few large ones."""
    return F.normalize(features.float().clamp_min(0).sqrt(), dim=1)
