"""Sampling grids: where the voxels of an image lie in physical space.

Two coordinate systems are used throughout the package: *continuous voxel index* on a :class:`Grid` and *physical
millimetres* (LPS, as in ITK). Points and vectors hold their components in the order x, y, z (innermost); arrays and
tensors hold their axes in the order z, y, x, as ``itk.array_view_from_image`` gives them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Grid", "slab_grids", "slabs"]

_SLAB_VOXELS = 2_000_000  # points handled at once: bounds the memory of double-precision coordinates


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels in physical space, with its first voxel at index 0.

    Parameters
    ----------
    size : tuple of int
        Number of voxels along the index axes x, y(, z).
    spacing : tuple of float
        Distance between voxel centres along each index axis in millimetres.
    origin : tuple of float
        Physical position of the centre of voxel 0 in millimetres.
    direction : tuple of tuple of float
        Direction cosines; column ``j`` is the physical direction of index axis ``j``.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]

    @classmethod
    def create(
        cls,
        size: Sequence[int] | np.ndarray,
        spacing: Sequence[float] | np.ndarray | float = 1.0,
        origin: Sequence[float] | np.ndarray | float = 0.0,
        direction: np.ndarray | None = None,
    ) -> Grid:
        """Make a grid from anything array-like; scalars are repeated, the direction defaults to the identity."""
        dimension = len(size)
        spacings = np.broadcast_to(np.asarray(spacing, dtype=float), dimension)
        origins = np.broadcast_to(np.asarray(origin, dtype=float), dimension)
        direction = np.eye(dimension) if direction is None else np.asarray(direction, dtype=float)
        return cls(
            tuple(int(n) for n in size),
            tuple(float(s) for s in spacings),
            tuple(float(o) for o in origins),
            tuple(tuple(float(v) for v in row) for row in direction.reshape(dimension, dimension)),
        )

    @property
    def dimension(self) -> int:
        """Number of axes, 2 or 3."""
        return len(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an array on this grid: the size in the order (z,) y, x."""
        return self.size[::-1]

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.size))

    @property
    def matrix(self) -> np.ndarray:
        """Matrix (dim, dim) that takes an index difference to a physical vector: direction @ diag(spacing)."""
        return np.asarray(self.direction) @ np.diag(self.spacing)

    @property
    def affine(self) -> np.ndarray:
        """Homogeneous matrix (dim + 1, dim + 1) from continuous index (x, y, z) to physical millimetres."""
        result = np.eye(self.dimension + 1)
        result[:-1, :-1] = self.matrix
        result[:-1, -1] = self.origin
        return result

    @property
    def extent(self) -> np.ndarray:
        """Length of the grid along each index axis in millimetres, voxel borders included, in the order x, y, z."""
        return np.asarray(self.size) * np.asarray(self.spacing)

    @property
    def centre(self) -> np.ndarray:
        """Physical position of the centre of the grid in millimetres."""
        return self.to_physical((np.asarray(self.size) - 1) / 2)

    def to_physical(self, index: np.ndarray) -> np.ndarray:
        """Continuous indices (..., dim), components x, y, z, to physical points in millimetres."""
        return np.asarray(index, dtype=float) @ self.matrix.T + np.asarray(self.origin)

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """Physical points (..., dim) in millimetres to continuous indices, components x, y, z."""
        return (np.asarray(points, dtype=float) - np.asarray(self.origin)) @ np.linalg.inv(self.matrix).T

    def contains(self, points: np.ndarray, *, margin: float = 0.5) -> np.ndarray:
        """Tell which physical points (..., dim) lie in the grid, as booleans (...); see :meth:`contains_index`."""
        return self.contains_index(self.to_index(points), margin=margin)

    def contains_index(self, index: np.ndarray, *, margin: float = 0.5) -> np.ndarray:
        """Tell which continuous indices (..., dim) lie in the grid, as booleans (...).

        Parameters
        ----------
        index : numpy.ndarray
            Continuous indices, components x, y, z.
        margin : float
            Voxels beyond the centres of the outermost voxels that still count: 0.5 reaches to the voxel borders, of
            which the lower one counts and the upper one does not, as in ITK; 0 takes the centres and what lies between.
        """
        last = np.asarray(self.size) - 1 + margin
        return np.all((index >= -margin) & ((index < last) if margin else (index <= last)), axis=-1)

    def points(self) -> np.ndarray:
        """Physical positions of all voxels, shape (z, y, x, dim), components x, y, z, in millimetres."""
        axes = np.meshgrid(*[np.arange(n, dtype=float) for n in self.shape], indexing="ij")
        return self.to_physical(np.stack(axes[::-1], axis=-1))

    def corners(self) -> np.ndarray:
        """Physical positions of the outer corners (voxel borders), shape (2 ** dim, dim)."""
        ranges = [(-0.5, n - 0.5) for n in self.size]
        index = np.stack([axis.ravel() for axis in np.meshgrid(*ranges, indexing="ij")], axis=-1)
        return self.to_physical(index)

    def with_spacing(self, spacing: Sequence[float] | np.ndarray | float) -> Grid:
        """The grid that covers the same extent with another spacing (rounded up, so that nothing is cut off).

        Parameters
        ----------
        spacing : float or sequence of float
            New spacing in millimetres along x, y, z.
        """
        new = np.broadcast_to(np.asarray(spacing, dtype=float), self.dimension)
        # A ratio of 0.9999999 from rounding must not add a voxel.
        size = np.maximum(1, np.ceil(self.extent / new - 1e-6).astype(int))
        first = (np.asarray(self.size) - 1) / 2 - (size - 1) / 2 * new / np.asarray(self.spacing)
        return Grid.create(size, new, self.to_physical(first), np.asarray(self.direction))

    def lines(self, other: Grid) -> tuple[tuple[int, ...], list[np.ndarray]] | None:
        """Return the lines along which an array on this grid is sampled at the voxels of another with parallel axes.

        Returns
        -------
        axes : tuple of int
            Order in which to transpose the array (z, y, x), so that its axes are those of ``other``.
        positions : list of numpy.ndarray
            Continuous indices on this grid of the voxels of ``other`` along each of these axes.
        None
            If the axes are not parallel.
        """
        ratio = np.linalg.inv(self.matrix) @ other.matrix
        axis = np.abs(ratio).argmax(axis=0)  # of this grid, for each axis x, y, z of the other one
        steps = ratio[axis, np.arange(self.dimension)]
        parallel = np.zeros_like(ratio)
        parallel[axis, np.arange(self.dimension)] = steps
        # Nowhere in the other grid may the neglected part make a thousandth of a voxel.
        if len(set(axis)) < self.dimension or (np.abs(ratio - parallel) @ np.asarray(other.size)).max() > 1e-3:
            return None
        first = self.to_index(np.asarray(other.origin))[axis]
        positions = [f + s * np.arange(n) for f, s, n in zip(first, steps, other.size, strict=True)]
        last = self.dimension - 1
        return tuple(int(last - a) for a in axis[::-1]), positions[::-1]

    def blocks(self, size: int) -> Grid:
        """The grid of the centres of blocks of ``size`` voxels along each axis, the last ones possibly incomplete."""
        count = -(-np.asarray(self.size) // size)
        first = np.full(self.dimension, (size - 1) / 2)
        return Grid.create(count, np.asarray(self.spacing) * size, self.to_physical(first), np.asarray(self.direction))

    def padded(self, lower: Sequence[int] | np.ndarray, upper: Sequence[int] | np.ndarray) -> Grid:
        """The grid with voxels added below and above each axis (x, y, z); negative numbers take voxels away."""
        size, first = np.asarray(self.size) + np.asarray(lower) + np.asarray(upper), -np.asarray(lower)
        return Grid.create(size, self.spacing, self.to_physical(first), np.asarray(self.direction))

    def canonical_axes(self) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Return the order and flips of the index axes that let them run as nearly as possible along +x, +y, +z.

        Returns
        -------
        order : tuple of int
            ``order[i]`` is the index axis that becomes axis ``i``.
        flipped : tuple of bool
            Whether that axis has to be reversed.
        """
        cosines = np.asarray(self.direction)
        axes = range(self.dimension)
        # The best one-to-one assignment, so that a grid rotated by 45 degrees is still a permutation. Rounding makes
        # ties resolve alike however the axes were stored.
        order = max(itertools.permutations(axes), key=lambda p: round(sum(abs(cosines[i, p[i]]) for i in axes), 9))
        return tuple(order), tuple(bool(cosines[i, order[i]] < 0) for i in axes)

    def canonical(self) -> Grid:
        """The same voxels indexed along the anatomical axes (see :meth:`canonical_axes`)."""
        return self.reindexed(*self.canonical_axes())

    def reindexed(self, order: Sequence[int], flipped: Sequence[bool]) -> Grid:
        """The same voxels with other index axes: axis ``i`` is axis ``order[i]`` of this grid, reversed if flipped."""
        first = np.zeros(self.dimension)
        direction = np.asarray(self.direction)[:, list(order)].copy()
        for axis, (old, flip) in enumerate(zip(order, flipped, strict=True)):
            if flip:
                first[old] = self.size[old] - 1
                direction[:, axis] *= -1
        return Grid.create(
            [self.size[i] for i in order], [self.spacing[i] for i in order], self.to_physical(first), direction
        )

    def same_space(self, other: Grid, *, tolerance: float = 1e-3) -> bool:
        """Return True if both grids have the same size and each voxel at the same place, to ``tolerance`` voxels."""
        if self.size != other.size:
            return False
        corners = self.corners() - other.corners()
        return bool(np.abs(corners).max() <= tolerance * min(self.spacing))

    def __str__(self) -> str:
        size = " x ".join(str(n) for n in self.size)
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        return f"{size} voxels of {spacing} mm"


def slabs(grid: Grid) -> Iterator[tuple[slice, np.ndarray]]:
    """Walk through a grid in slabs along its slowest axis: (slice of the array, physical points of these voxels)."""
    for part, slab in slab_grids(grid, _SLAB_VOXELS):
        yield part, slab.points()


def slab_grids(grid: Grid, voxels: int) -> Iterator[tuple[slice, Grid]]:
    """Cut a grid into slabs of about so many voxels, at least a slice: (slice of the array, grid of the slab)."""
    step = max(1, voxels // max(1, int(np.prod(grid.shape[1:]))))
    for start in range(0, grid.shape[0], step):
        stop = min(grid.shape[0], start + step)
        lower, upper = [0] * grid.dimension, [0] * grid.dimension
        lower[-1], upper[-1] = -start, stop - grid.shape[0]
        yield slice(start, stop), grid.padded(lower, upper)
