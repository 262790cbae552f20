"""Class probabilities of a trained network, as codes that the dense search compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.kernels.interpolation.cpu import sample_linear
from itk_pdd.kernels.operations import HOST, Array, Operations

__all__ = ["ClassMaps"]

_SLICES_AT_ONCE = 24  # the probabilities of a whole fine grid would not fit into memory


@dataclass(frozen=True)
class ClassMaps:
    """Probabilities of classes (organs) in an image, seen from the working grid."""

    probabilities: np.ndarray  # float32 (z, y, x, classes), without the background; one slice in 2-D
    grid: Grid  # where they lie
    bits: Sequence[int]  # bits of each class in a code: how much the class counts
    working: Grid  # the working grid
    weight: float  # cost of a difference in all bits, beside 1 for one in all bits of the MIND-SSC features
    mapping: Mapping | None = None  # from physical points of the working grid to those of the image
    amplitude: float = 1.0  # factor of the probabilities in the descent, beside 1 for one in all
    descends: bool = True  # compare them in the descent, too
    finishes: ClassVar[bool] = False

    @property
    def scale(self) -> float:
        """Cost of a differing bit."""
        return self.weight / sum(self.bits)

    @property
    def shrink(self) -> int:
        """Working voxels per voxel of the probabilities along each axis: finer than this they cannot tell."""
        return max(1, round(min(self.grid.spacing) / min(self.working.spacing)))

    def codes(self, shrink: int, operations: Operations = HOST) -> Array:
        """Make thermometer codes at the centres of blocks of ``shrink`` working voxels, 64 bits (z, y, x)."""
        target = self.working.blocks(shrink)
        codes = operations.no_codes(_deep(target))
        for part, values in self._sampled(target, operations):
            codes[part] = operations.thermometer_codes(values, self.bits)
        return codes

    def features(self, shrink: int) -> np.ndarray:
        """Sample the probabilities at the centres of blocks of ``shrink`` working voxels, uint8 (z, y, x, 16 n).

        They are scaled so that the squared difference of a class counts as much as its bits do in a code, 255 for the
        class that counts most; channels beyond the classes are zero.
        """
        target = self.working.blocks(shrink)
        classes = len(self.bits)
        factors = (255 * self.amplitude * np.sqrt(np.asarray(self.bits) / max(self.bits))).astype(np.float32)
        result = np.zeros((*_deep(target), -(-classes // 16) * 16), np.uint8)
        for part, values in self._sampled(target, HOST):
            result[part][..., :classes] = np.rint(values * factors)
        return result

    def _sampled(self, target: Grid, operations: Operations) -> Iterator[tuple[slice, Array]]:
        """Sample the probabilities on a grid, some slices at a time, as arrays of the operations."""
        if target.dimension == 2:
            points = target.points()
            index = self.grid.to_index(points if self.mapping is None else self.mapping(points))
            yield slice(0, 1), operations.array(sample_linear(self.probabilities[0], index)[None])
            return
        lines = self.grid.lines(target) if self.mapping is None else None
        if lines is not None:
            axes, (z, y, x) = lines
            source = operations.array(self.probabilities.transpose(*axes, 3))
            for first in range(0, len(z), _SLICES_AT_ONCE):
                part = slice(first, first + _SLICES_AT_ONCE)
                yield part, operations.sample_lines(source, (z[part], y, x))
            return
        for slab, points in slabs(target):
            for first in range(0, len(points), _SLICES_AT_ONCE):
                moved = points[first : first + _SLICES_AT_ONCE]
                moved = moved if self.mapping is None else self.mapping(moved)
                begin = range(target.shape[0])[slab][first]
                part = slice(begin, begin + len(moved))
                yield part, operations.array(sample_linear(self.probabilities, self.grid.to_index(moved)))


def _deep(grid: Grid) -> tuple[int, ...]:
    """Shape of a grid with three axes; a 2-D one is a slice."""
    return grid.shape if grid.dimension == 3 else (1, *grid.shape)
