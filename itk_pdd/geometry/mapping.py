"""Mappings from fixed to moving points: the protocol of all of them, affine ones, and several one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.field import DisplacementField, FieldMapping
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.inversion import ITERATIONS

__all__ = [
    "AffineMapping",
    "Chain",
    "FieldMapping",
    "Mapping",
    "PointMap",
    "check_reach",
    "joined",
    "parts_of",
    "spread_points",
]

PointMap = Callable[[np.ndarray], np.ndarray]
"""Takes physical points (..., dim) to physical points; a :class:`Mapping` is one."""


class Mapping(Protocol):
    """A mapping from physical points of the fixed image to those of the moving image, in LPS millimetres."""

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""

    @property
    def matrix(self) -> np.ndarray | None:
        """Homogeneous matrix (dim + 1, dim + 1) of a linear mapping, else None."""

    @property
    def grid(self) -> Grid | None:
        """Grid of the displacement field that a fixed point meets first, where the whole is defined."""

    @property
    def voxel(self) -> float | None:
        """Smallest voxel of its fields, as long as it is in the moving image, in millimetres; None if it is linear."""

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres."""

    def extended(self) -> Mapping:
        """Return the same mapping, with fields that go on with their nearest displacement beyond their grids."""

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Tell which points (..., dim) stay inside all fields on their way, as booleans (...)."""

    def invert(
        self, points: np.ndarray, *, tolerance: float | None = None, iterations: int = ITERATIONS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the points that the extended mapping takes to given ones, and how far from these they end.

        ``tolerance`` is the distance in millimetres that is good enough, by default 0.0001 voxel of each field.
        """

    def field(self, grid: Grid) -> DisplacementField:
        """Sample the whole on a grid."""


class Everywhere:
    """Base of mappings without a field: they are defined everywhere, and have no grid and no voxels."""

    grid: Grid | None = None

    @property
    def voxel(self) -> float | None:
        """None: it has no voxels."""
        return None

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres."""
        raise NotImplementedError

    def extended(self) -> Self:
        """Return the mapping itself."""
        return self

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Tell that all points are inside."""
        return np.ones(np.shape(points)[:-1], bool)

    def field(self, grid: Grid) -> DisplacementField:
        """Sample the mapping on a grid."""
        return DisplacementField.from_function(self, grid)


@dataclass(frozen=True)
class AffineMapping(Everywhere):
    """An affine mapping of physical points."""

    matrix: np.ndarray  # homogeneous matrix (dim + 1, dim + 1), components x, y, z, in physical (LPS) millimetres

    @classmethod
    def translation(cls, offset: np.ndarray) -> AffineMapping:
        """Make the mapping that adds an offset (dim,), components x, y, z, in millimetres."""
        matrix = np.eye(len(offset) + 1)
        matrix[:-1, -1] = offset
        return cls(matrix)

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""
        return len(self.matrix) - 1

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres."""
        return np.asarray(points, dtype=float) @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]

    def inverse(self) -> AffineMapping:
        """Return the inverse, which is exact."""
        return AffineMapping(np.linalg.inv(self.matrix))

    def invert(
        self, points: np.ndarray, *, tolerance: float | None = None, iterations: int = ITERATIONS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points back, exactly; tolerance and iterations do not matter."""
        return self.inverse()(points), np.zeros(np.shape(points)[:-1])


@dataclass(frozen=True)
class Chain:
    """Several mappings, applied one after the other."""

    parts: tuple[Mapping, ...]  # a fixed point goes through the first one first

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.parts[0].dimension

    @property
    def matrix(self) -> np.ndarray | None:
        """Homogeneous matrix (dim + 1, dim + 1) if all parts are linear, else None."""
        product = np.eye(self.dimension + 1)
        for part in self.parts:
            if part.matrix is None:
                return None
            product = part.matrix @ product
        return product

    @property
    def grid(self) -> Grid | None:
        """Grid of the first part, if that is a field."""
        return self.parts[0].grid

    @property
    def voxel(self) -> float | None:
        """Smallest voxel of all fields, as long as it is in the moving image, in millimetres; None without a field."""
        smallest: float | None = None
        for part in self.parts:
            if part.matrix is not None:
                smallest = smallest and smallest * float(np.linalg.norm(part.matrix[:-1, :-1], -2))
            elif part.voxel is not None:
                smallest = min(smallest or part.voxel, part.voxel)
        return smallest

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres."""
        for part in self.parts:
            points = part(points)
        return points

    def extended(self) -> Chain:
        """Return the same chain, with fields that go on with their nearest displacement beyond their grids."""
        return Chain(tuple(part.extended() for part in self.parts))

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Tell which points (..., dim) stay inside all fields on their way, as booleans (...)."""
        inside = np.ones(np.shape(points)[:-1], bool)
        for part in self.extended().parts:
            inside &= part.contains(points)
            points = part(points)
        return inside

    def invert(
        self, points: np.ndarray, *, tolerance: float | None = None, iterations: int = ITERATIONS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the points that the extended chain takes to given ones, and how far from these they end, in mm."""
        given = np.asarray(points, dtype=float)
        points = given
        for part in reversed(self.parts):
            points, _ = part.invert(points, tolerance=tolerance, iterations=iterations)
            if tolerance is not None and part.matrix is not None:
                # A micrometre on this side may be a millimetre on the other.
                tolerance /= float(np.linalg.norm(part.matrix[:-1, :-1], 2))
        return points, np.linalg.norm(self.extended()(points) - given, axis=-1)

    def field(self, grid: Grid) -> DisplacementField:
        """Sample the whole on a grid."""
        return DisplacementField.from_function(self, grid)


def joined(parts: Sequence[Mapping]) -> Mapping:
    """Join mappings, the first applied first, to one: an affine mapping if all are linear, the only one, or a chain."""
    if len(parts) == 1:
        return parts[0]
    chain = Chain(tuple(single for part in parts for single in parts_of(part)))
    matrix = chain.matrix
    return chain if matrix is None else AffineMapping(matrix)


def parts_of(mapping: Mapping) -> tuple[Mapping, ...]:
    """List the parts of a mapping; a fixed point goes through the first one first."""
    return mapping.parts if isinstance(mapping, Chain) else (mapping,)


def check_reach(mapping: Mapping, grid: Grid) -> np.ndarray:
    """Refuse mappings that do not fit each other: no voxel of the grid of the fixed image gets to some field.

    A warning is issued where less than half of them do. Returns the moving points (n, dim) of fixed points spread over
    the grid.
    """
    points = spread_points(grid)
    for number, part in enumerate(parts_of(mapping.extended())):
        inside = float(part.contains(points).mean())
        name = getattr(part, "name", "transform")
        if not inside:
            before = " after the transforms applied before it" if number else ""
            raise RegistrationError(
                f"{name}: no point of the fixed image lies inside this field{before}; a fixed point goes through "
                "the first transform of a list first, as in ANTs: check the order, the direction and the reference"
            )
        if inside < 0.5:
            warn(
                f"{name}: only {100 * inside:.3g} % of the fixed image lies inside this field; nothing is moved "
                "by it elsewhere"
            )
        points = part(points)
    return points


def spread_points(grid: Grid, count: int = 24) -> np.ndarray:
    """Spread points (n, dim) in millimetres over a grid, up to ``count`` along each axis, its outermost voxels too."""
    axes = [np.linspace(0, n - 1, min(n, count)) for n in grid.size]
    index = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    return grid.to_physical(index)
