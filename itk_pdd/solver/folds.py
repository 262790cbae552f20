"""Fields without folds: the last step of every registration."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from itk_pdd.errors import counted, warn
from itk_pdd.kernels.operations import HOST, Array, Operations

__all__ = ["unfold", "without_folds"]

log = logging.getLogger("itk_pdd")


def unfold(
    field: Array, *, minimum: float, scale: Sequence[float] = (1.0, 1.0, 1.0), operations: Operations = HOST
) -> tuple[Array, int, int]:
    """Unfold a field, also of a single slice across any axis; see :func:`itk_pdd.kernels.unfolding.cpu.unfold`.

    ``field`` is an array of the operations. Where it has a single node along one axis, displacements along that axis
    stay as they are.
    """
    scale = tuple(float(s) for s in scale)
    single = [axis for axis, size in enumerate(field.shape[:3]) if size == 1]
    if len(single) != 1 or single == [0]:
        return operations.unfold(field, scale=scale, minimum=minimum)
    # The kernels know slices across z only: change the names of the axes and components, there and back.
    order = [0, 1, 2]
    order[2 - single[0]], order[2] = 2, 2 - single[0]

    def turned(array: Array) -> Array:
        found = array.swapaxes(0, single[0])[..., order]
        return np.ascontiguousarray(found) if isinstance(found, np.ndarray) else found.contiguous()

    found, moved, left = operations.unfold(turned(field), scale=tuple(scale[i] for i in order), minimum=minimum)
    return turned(found), moved, left


def without_folds(
    field: np.ndarray, scale: Sequence[float], minimum: float, operations: Operations = HOST
) -> np.ndarray:  # fmt: skip
    """Unfold a field, and warn where that does not succeed; ``field`` itself is returned where nothing folds.

    ``field`` is float32 (z, y, x, 3), components x, y, z, a 2-D one is one slice; ``scale`` is the distance of
    neighbouring nodes along x, y, z in the unit of the displacements.
    """
    found, moved, left = unfold(operations.array(field), minimum=minimum, scale=scale, operations=operations)
    log.info("folds: %d of %d nodes relaxed", moved, field[..., 0].size)
    if left:
        warn(f"the field folds in {counted(left, 'place')} that could not be relaxed: check the result there")
    return operations.numpy(found) if moved else field
