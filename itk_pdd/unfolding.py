"""Fields without folds: what every registration does with what it found, and what it says about it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from itk_pdd.errors import warn
from itk_pdd.operations import HostOperations

__all__ = ["without_folds"]

log = logging.getLogger("itk_pdd")


def without_folds(
    field: np.ndarray, scale: Sequence[float], minimum: float, operations: Any = HostOperations
) -> np.ndarray:  # fmt: skip
    """Relax a field where it folds; warn where that does not succeed.

    Parameters
    ----------
    field : numpy.ndarray
        float32, shape (z, y, x, 3), components x, y, z; a 2-D field is one slice.
    scale : sequence of float
        Distance of neighbouring nodes along x, y, z in the unit of the displacements.
    minimum : float
        See :func:`itk_pdd.kernels.unfold.unfold`.
    operations : object
        Those of the device that computes, see :func:`itk_pdd.operations.operations`.

    Returns
    -------
    numpy.ndarray
        The field; ``field`` itself where nothing folds.
    """
    options = {"scale": tuple(float(s) for s in scale), "minimum": minimum}
    found, moved, left = operations.unfold(operations.array(field), **options)
    log.info("folds: %d of %d nodes relaxed", moved, field[..., 0].size)
    if left:
        warn(f"the field folds in {left} places that could not be relaxed: check the result there")
    return operations.numpy(found) if moved else field
