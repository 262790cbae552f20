"""Displacements on a grid coarser than the working grid by a whole factor: what the search works with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.kernels.control_grid.cpu import per_axis
from itk_pdd.kernels.interpolation.cpu import sample_lines
from itk_pdd.kernels.operations import HOST, Array, Operations

__all__ = ["BlockField", "relaid"]


@dataclass(frozen=True)
class BlockField:
    """Displacements at the centres of equal blocks of working voxels."""

    # displacements in working voxels, an array of the operations: float32, shape (z, y, x, 3), components x, y, z
    vectors: Array
    size: int  # working voxels per block along each axis
    shape: tuple[int, int, int]  # working voxels along z, y, x; a 2-D image is one slice
    dimension: int  # 2 or 3. Blocks of a 2-D image are one slice deep.
    operations: Operations = HOST  # those of the device that holds the vectors

    @classmethod
    def zeros(
        cls, size: int, shape: tuple[int, int, int], dimension: int, operations: Operations = HOST
    ) -> BlockField:  # fmt: skip
        """Make the field that displaces nothing."""
        field = cls(None, size, shape, dimension, operations)
        return field.with_vectors(operations.array(np.zeros((*field.nodes, 3), np.float32)))

    @property
    def block(self) -> tuple[int, int, int]:
        """Working voxels per block along z, y, x."""
        return per_axis(self.size, self.dimension)

    @property
    def nodes(self) -> tuple[int, int, int]:
        """Blocks along z, y, x; the last ones may be incomplete."""
        z, y, x = (-(-n // b) for n, b in zip(self.shape, self.block, strict=True))
        return z, y, x

    def with_vectors(self, vectors: Array) -> BlockField:
        """Replace the displacements, on the same blocks."""
        return replace(self, vectors=vectors)

    def on(self, operations: Operations) -> BlockField:
        """Move the field to the device of some operations."""
        vectors = operations.array(self.operations.numpy(self.vectors))
        return replace(self, vectors=vectors, operations=operations)

    def restricted(self, size: int) -> BlockField:
        """Average over larger blocks; ``size`` is a multiple of that of the field."""
        cell = per_axis(size // self.size, self.dimension)
        return replace(self, vectors=self.operations.restrict(self.vectors, cell), size=size)

    def enlarged(self, size: int) -> BlockField:
        """Interpolate linearly onto smaller blocks; ``size`` divides that of the field."""
        if size == self.size:
            return self
        fine = replace(self, size=size)
        cell = per_axis(self.size // size, self.dimension)
        return fine.with_vectors(self.operations.upsample(self.vectors, cell, fine.nodes, order=1))

    def resized(self, size: int) -> BlockField:
        """Carry the field to blocks of any size: at once where the blocks nest, else by way of the working grid."""
        field = self
        if size % field.size:
            field = field.enlarged(size if field.size % size == 0 else 1)
        return field.restricted(size) if size > field.size else field

    def to_field(self, grid: Grid) -> DisplacementField:
        """Convert to physical millimetres; ``grid`` is the working grid."""
        vectors = self.operations.numpy(self.vectors)
        physical = (vectors[0, ..., :2] if self.dimension == 2 else vectors) @ grid.matrix.T.astype(np.float32)
        return DisplacementField(np.ascontiguousarray(physical, dtype=np.float32), grid.blocks(self.size))


def relaid(
    values: np.ndarray, block: tuple[int, ...], target: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:  # fmt: skip
    """Interpolate values linearly from the centres of blocks of working voxels to those of blocks of another size.

    ``values`` have the axes z, y, x, and optionally channels; ``block`` and ``target`` are working voxels per block
    along z, y, x, and ``shape`` all working voxels along these.
    """
    positions = tuple(
        ((np.arange(-(-n // t)) + 0.5) * t - 0.5 - (b - 1) / 2) / b
        for b, t, n in zip(block, target, shape, strict=True)
    )
    return sample_lines(values, positions)
