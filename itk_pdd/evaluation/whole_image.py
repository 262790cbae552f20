"""Measure how well a registration meets what no label names: the body, its outline, and bones in CT."""

from __future__ import annotations

import numpy as np

from itk_pdd.evaluation import metrics

__all__ = ["BONE_HU", "MEASURES", "body_of", "whole_image"]

BONE_HU = 150
"""Bones and contrast medium are brighter in CT; voxels with a label do not count as bone."""
MEASURES = ("outline", "body", "unlabelled", "bones")
"""What :func:`whole_image` measures."""

_AIR_HU = -100
"""No other kind of image reaches so far below 0."""


def body_of(image: np.ndarray) -> np.ndarray:
    """Find the body: the largest connected part above the darkest hundredth of the range of intensities."""
    from scipy import ndimage

    low, high = float(image.min()), float(image.max())
    parts, _ = ndimage.label(ndimage.binary_opening(image > low + 0.01 * (high - low)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax() if sizes.any() else np.ones(image.shape, bool)


def whole_image(
    fixed: np.ndarray, warped: np.ndarray, fixed_labels: np.ndarray | None, warped_labels: np.ndarray | None
) -> dict[str, float]:
    """Compare two images on one grid, axes (z,) y, x, beside their labels.

    ``outline`` is the Dice of both bodies, ``body`` the correlation of the intensities within the fixed body; with both
    label maps ``unlabelled`` is the same where neither image has a label, and in CT ``bones`` the Dice of the voxels
    without a label above :data:`BONE_HU`. NaN where there is nothing to compare.
    """
    body = body_of(fixed)
    found = {
        "outline": _dice(body, body_of(warped)),
        "body": metrics.normalised_cross_correlation(fixed, warped, body),
    }
    if fixed_labels is None or warped_labels is None:
        return found
    free = (fixed_labels == 0) & (warped_labels == 0)
    unlabelled = body & free
    found["unlabelled"] = (
        metrics.normalised_cross_correlation(fixed, warped, unlabelled) if unlabelled.any() else np.nan
    )
    if min(fixed.min(), warped.min()) <= _AIR_HU:
        found["bones"] = _dice((fixed >= BONE_HU) & free, (warped >= BONE_HU) & free)
    return found


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 2 * np.count_nonzero(first & second) / total if total else float("nan")
