"""Displacement fields in physical millimetres: sampling, composition, inversion, Jacobian determinant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.geometry.inversion import ITERATIONS, inverse_vectors, invert_from, invert_points

__all__ = ["DisplacementField", "FieldMapping"]

_POINT_TOLERANCE = 1e-4  # voxels within which a point is inverted where nothing else is said
_MOST_SEARCHED = 20  # points for which all voxels are looked through; of more the field is to blame
_STARTS = 16  # voxels from which such a point is searched


@dataclass(frozen=True)
class DisplacementField:
    """A dense displacement field: the point x of the fixed image corresponds to x + u(x) of the moving image.

    Parameters
    ----------
    vectors : numpy.ndarray
        float32 array of shape (z, y, x, dim) or (y, x, dim), components x, y, z, in physical (LPS) millimetres.
    grid : Grid
        Grid of the field; ``grid.shape == vectors.shape[:-1]``.
    """

    vectors: np.ndarray
    grid: Grid

    def __post_init__(self) -> None:
        expected = (*self.grid.shape, self.grid.dimension)
        if self.vectors.shape != expected:
            raise ValueError(f"vectors have the shape {self.vectors.shape}, but the grid needs {expected}")

    @classmethod
    def zeros(cls, grid: Grid) -> DisplacementField:
        """The field that displaces nothing."""
        return cls(np.zeros((*grid.shape, grid.dimension), np.float32), grid)

    @classmethod
    def from_function(cls, function: Callable[[np.ndarray], np.ndarray], grid: Grid) -> DisplacementField:
        """Sample a mapping of physical points, ``function(points (..., dim)) -> points``, on a grid."""
        vectors = np.empty((*grid.shape, grid.dimension), np.float32)
        for slab, points in slabs(grid):
            vectors[slab] = function(points) - points
        return cls(vectors, grid)

    def at(self, points: np.ndarray, *, outside: str = "zero") -> np.ndarray:
        """Displacement in millimetres at physical points (..., dim), linearly interpolated.

        ``outside`` says what counts beyond the grid: "zero" (as ITK's transform does) or the "nearest" voxel.
        """
        from itk_pdd.kernels.interpolation.cpu import sample_linear

        return sample_linear(self.vectors, self.grid.to_index(points), outside=outside)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map physical points (..., dim) of the fixed image to the moving image; outside the grid nothing moves."""
        return np.asarray(points, dtype=float) + self.at(points)

    def resampled(self, grid: Grid, *, outside: str = "zero") -> DisplacementField:
        """The same field on another grid, linearly interpolated."""
        if grid == self.grid:
            return self
        vectors = np.empty((*grid.shape, grid.dimension), np.float32)
        for slab, points in slabs(grid):
            vectors[slab] = self.at(points, outside=outside)
        return DisplacementField(vectors, grid)

    def compose(self, first: DisplacementField) -> DisplacementField:
        """The field of "``first``, then this one", on the grid of ``first``: u(x) = u1(x) + u2(x + u1(x)).

        Parameters
        ----------
        first : DisplacementField
            Field applied first (nearer to the fixed image). Where it leaves the grid of this field, this one adds
            nothing.
        """
        vectors = np.empty_like(first.vectors)
        for slab, points in slabs(first.grid):
            inner = first.vectors[slab]
            vectors[slab] = inner + self.at(points + inner)
        return DisplacementField(vectors, first.grid)

    def inverse(
        self, grid: Grid | None = None, *, tolerance: float = 0.01, iterations: int = ITERATIONS
    ) -> tuple[DisplacementField, float]:
        """The inverse field, v(y) = -u(y + v(y)); outside its grid the field goes on with its nearest displacement.

        Parameters
        ----------
        grid : Grid, optional
            Where the inverse is wanted; by default the grid of the field.
        tolerance : float
            Distance in voxels of the inverse's grid that is good enough; smaller is slower.
        iterations : int
            Upper limit; more iterations help only where the field compresses strongly.

        Returns
        -------
        DisplacementField
            The inverse, mapping points of the moving image to the fixed image.
        float
            Largest error in millimetres: how far a voxel of the field gets from where it started, there and back (a
            folded field has no inverse, and says so here); :func:`itk_pdd.invert` tells more about it.

        Raises
        ------
        RegistrationError
            If the field maps none of its points into the grid.
        """
        vectors, error = inverse_vectors(
            FieldMapping(self), grid or self.grid, tolerance=tolerance, iterations=iterations
        )
        return DisplacementField(vectors, grid or self.grid), error.largest

    def jacobian(self) -> np.ndarray:
        """Compute the Jacobian of x -> x + u(x) per voxel, float32 (..., dim, dim); [i, j] is d(x + u)_i / dx_j.

        Central differences inside, one-sided at the border.
        """
        # du/dx = du/dindex @ inverse(direction @ spacing)
        dimension = self.grid.dimension
        inverse = np.linalg.inv(self.grid.matrix).astype(np.float32)
        gradient = [
            np.gradient(self.vectors, axis=dimension - 1 - axis)
            if self.grid.size[axis] > 1
            else np.zeros_like(self.vectors)
            for axis in range(dimension)
        ]
        jacobian = np.stack(gradient, axis=-1) @ inverse
        jacobian += np.eye(dimension, dtype=np.float32)
        return jacobian

    def folded_voxels(self) -> int:
        """Count the voxels whose Jacobian determinant is not positive."""
        return int(np.count_nonzero(self.jacobian_determinant() <= 0))

    def jacobian_determinant(self) -> np.ndarray:
        """Compute the determinant of the Jacobian per voxel, float32, shape of the grid; below zero it folds."""
        return np.linalg.det(self.jacobian()).astype(np.float32)


@dataclass(frozen=True)
class FieldMapping:
    """The mapping x -> x + u(x) of a displacement field."""

    matrix = None  # it is not linear
    displacement: DisplacementField  # the field, in physical (LPS) millimetres
    # "nearest", "zero": what counts beyond its grid: the nearest displacement, or none (as in ITK)
    outside: str = "nearest"
    name: str = "transform"

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.displacement.grid.dimension

    @property
    def grid(self) -> Grid:
        """Grid of the field."""
        return self.displacement.grid

    @property
    def voxel(self) -> float:
        """Smallest spacing of the field in millimetres."""
        return min(self.grid.spacing)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres; linear between the voxels."""
        points = np.asarray(points, dtype=float)
        return points + self.displacement.at(points, outside=self.outside)

    def extended(self) -> FieldMapping:
        """Return the same mapping, with the nearest displacement beyond the grid."""
        return self if self.outside == "nearest" else replace(self, outside="nearest")

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Tell which points (..., dim) lie in the grid, as booleans (...)."""
        return self.grid.contains(points)

    def field(self, grid: Grid) -> DisplacementField:
        """Sample it on a grid."""
        return self.displacement.resampled(grid, outside=self.outside)

    def invert(
        self, points: np.ndarray, *, tolerance: float | None = None, iterations: int = ITERATIONS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the points that the extended mapping takes to given ones, and how far from these they end, in mm.

        ``tolerance`` is the distance in millimetres that is good enough, by default 0.0001 voxel; ``iterations`` bounds
        each of the two methods of :func:`itk_pdd.geometry.inversion.invert_points`.
        """
        function, step = self.extended(), self.voxel
        tolerance = _POINT_TOLERANCE * step if tolerance is None else tolerance
        found, sizes = invert_points(function, points, tolerance=tolerance, step=step, iterations=iterations)
        lost = np.argwhere(sizes > tolerance)
        # Beside a fold the descent ends in the wrong branch: start again from the voxels that are mapped nearest.
        for position in map(tuple, lost if len(lost) <= _MOST_SEARCHED else ()):
            starts = self._mapped_nearest(points[position])
            targets = np.broadcast_to(points[position], starts.shape)
            solutions, left = invert_from(function, targets, starts, tolerance=tolerance, step=step)
            if left.min() < sizes[position]:
                found[position], sizes[position] = solutions[left.argmin()], left.min()
        return found, sizes

    def _mapped_nearest(self, point: np.ndarray) -> np.ndarray:
        """Find the voxels (n, dim) that are mapped nearest to a point."""
        nearest, distances = [], []
        for slab, voxels in slabs(self.grid):
            voxels = voxels.reshape(-1, voxels.shape[-1])
            mapped = voxels + self.displacement.vectors[slab].reshape(voxels.shape)
            distance = np.square(mapped - point).sum(axis=-1)
            few = np.argpartition(distance, min(_STARTS, len(distance) - 1))[:_STARTS]
            nearest.append(voxels[few])
            distances.append(distance[few])
        return np.concatenate(nearest)[np.argsort(np.concatenate(distances))[:_STARTS]]
