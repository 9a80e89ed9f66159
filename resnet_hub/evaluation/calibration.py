"""Calibration: whether predictions with a score of 80 % are correct in 80 % of the cases, and so on."""

import numpy as np

CALIBRATION_BINS = 15  # of equal width, as in the paper below


def compute_calibration_error(confidences: np.ndarray, is_correct: np.ndarray) -> float:
    """Computes the expected calibration error (https://arxiv.org/abs/1706.04599, section 2).

    Args:
        confidences: The score of each predicted label (N,), in 0..1.
        is_correct: Whether each predicted label is the true one (N,).

    Returns:
        The mean gap between score and accuracy over bins (low, high] of the score, weighted by their images, in 0..1.
    """
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    bins = np.searchsorted(edges[1:-1], confidences)
    gaps = np.bincount(bins, weights=confidences - is_correct, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidences))
