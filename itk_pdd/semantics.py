"""What a trained network says about an image, as codes that the dense search compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.field import slabs
from itk_pdd.grid import Grid
from itk_pdd.kernels.interpolation import sample_linear
from itk_pdd.kernels.thermometer import thermometer_codes
from itk_pdd.operations import HostOperations

__all__ = ["ClassMaps"]

_SLAB = 24  # slices that are encoded at once: the probabilities of a whole fine grid would not fit


@dataclass(frozen=True)
class ClassMaps:
    """Probabilities of classes (organs) in an image, seen from the working grid.

    Parameters
    ----------
    probabilities : numpy.ndarray
        float32, shape (z, y, x, classes), without the background.
    grid : Grid
        Where they lie.
    bits : sequence of int
        Bits of each class in a code: how much the class counts.
    working : Grid
        The working grid.
    weight : float
        What a difference in all bits costs, beside 1 for one in all bits of the MIND-SSC features.
    mapping : callable, optional
        Takes physical points of the working grid to physical points of the image.
    """

    probabilities: np.ndarray
    grid: Grid
    bits: Sequence[int]
    working: Grid
    weight: float
    mapping: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def scale(self) -> float:
        """What a differing bit costs."""
        return self.weight / sum(self.bits)

    def codes(self, shrink: int, operations: Any = HostOperations) -> Any:
        """Thermometer codes at the centres of blocks of ``shrink`` working voxels, 64 bits (z, y, x).

        ``operations`` are those of the device that computes, see :func:`itk_pdd.operations.operations`.
        """
        target = self.working.blocks(shrink)
        lines = self.grid.lines(target) if self.mapping is None else None
        if lines is not None:
            axes, (z, y, x) = lines
            codes = operations.no_codes(target.shape)
            source = operations.array(self.probabilities.transpose(*axes, 3))
            for first in range(0, len(z), _SLAB):
                part = slice(first, first + _SLAB)
                values = operations.sample_lines(source, (z[part], y, x))
                codes[part] = operations.thermometer_codes(values, self.bits)
            return codes
        codes = np.empty(target.shape, np.uint64)
        for slab, points in slabs(target):
            for first in range(0, len(points), _SLAB):
                part = points[first : first + _SLAB]
                moved = part if self.mapping is None else self.mapping(part)
                values = sample_linear(self.probabilities, self.grid.to_index(moved))
                codes[slab][first : first + _SLAB] = thermometer_codes(values, self.bits)
        return operations.array(codes)
