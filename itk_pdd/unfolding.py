"""Fields without folds: what every registration does with what it found, and what it says about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from itk_pdd.errors import warn
from itk_pdd.kernels.unfold import unfold

__all__ = ["without_folds"]

log = logging.getLogger("itk_pdd")


def without_folds(field: np.ndarray, *, scale: Sequence[float], minimum: float) -> np.ndarray:
    """Relax a field where it folds; warn where that does not succeed.

    Parameters
    ----------
    field : numpy.ndarray
        float32, shape (z, y, x, 3), components x, y, z; a 2-D field is one slice.
    scale : sequence of float
        Distance of neighbouring nodes along x, y, z in the unit of the displacements.
    minimum : float
        See :func:`itk_pdd.kernels.unfold.unfold`.

    Returns
    -------
    numpy.ndarray
        The field; ``field`` itself where nothing folds.
    """
    found, moved, left = unfold(field, scale=tuple(float(s) for s in scale), minimum=minimum)
    log.info("folds: %d of %d nodes relaxed", moved, found[..., 0].size)
    if left:
        warn(f"the field folds in {left} places that could not be relaxed: check the result there")
    return found
