"""How well a registration meets what no label names: the body, its outline, and bones in CT."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from itk_pdd.evaluation import metrics, warping
from itk_pdd.evaluation.scoring import Case
from itk_pdd.geometry.field import DisplacementField

BONE_HU = 150
"""Bones and contrast medium are brighter in CT; voxels with a label do not count as bone."""


def body_of(image: np.ndarray) -> np.ndarray:
    """Find the body: the largest connected part above the darkest hundredth of the range of intensities."""
    low, high = float(image.min()), float(image.max())
    parts, _ = ndimage.label(ndimage.binary_opening(image > low + 0.01 * (high - low)))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def whole_image(case: Case, displacements: DisplacementField, *, bones: bool) -> dict[str, float]:
    """Measure a field beside the labels.

    Returns
    -------
    dict
        ``outline``: Dice of both bodies. ``body``: correlation of the intensities within the fixed body.
        ``unlabelled``: the same where neither image has a label. ``bones``: Dice of the unlabelled voxels above
        :data:`BONE_HU`.
    """
    displacements = warping.onto_grid(displacements, case.fixed.grid)
    fixed, warped = case.fixed.array, warping.warp_image(case.moving, displacements).array
    body = body_of(fixed)
    free = (case.fixed_labels.array == 0) & (warping.warp_labels(case.moving_labels, displacements).array == 0)
    found = {
        "outline": metrics.dice(body.astype(np.uint8), body_of(warped).astype(np.uint8))[1],
        "body": metrics.normalised_cross_correlation(fixed, warped, body),
        "unlabelled": metrics.normalised_cross_correlation(fixed, warped, body & free),
    }
    if bones:
        bright = [((image >= BONE_HU) & free).astype(np.uint8) for image in (fixed, warped)]
        found["bones"] = metrics.dice(*bright)[1]
    return found
