"""Displacement fields in physical millimetres: composition, inversion, resampling, Jacobian determinant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from itk_pdd.geometry.grid import Grid

__all__ = ["DisplacementField"]

_SLAB_VOXELS = 2_000_000  # points handled at once: bounds the memory of double-precision coordinates


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
        self, grid: Grid | None = None, *, tolerance: float = 0.01, iterations: int = 50
    ) -> tuple[DisplacementField, float]:
        """The inverse field, v(y) = -u(y + v(y)); outside its grid the field goes on with its nearest displacement.

        Parameters
        ----------
        grid : Grid, optional
            Where the inverse is wanted; by default the grid of the field.
        tolerance : float
            Largest residual in voxels of the field's grid that is good enough; smaller is slower.
        iterations : int
            Upper limit; more iterations help only where the field compresses strongly.

        Returns
        -------
        DisplacementField
            The inverse, mapping points of the moving image to the fixed image.
        float
            Largest residual |v + u(y + v)| in millimetres over the points that the field maps to (a folded field has
            no inverse, and says so here).
        """
        from itk_pdd.geometry.inversion import invert_points

        grid = grid or self.grid
        vectors = np.empty((*grid.shape, grid.dimension), np.float32)
        voxel, last = min(self.grid.spacing), np.asarray(self.grid.size) - 0.5
        worst = 0.0
        for slab, points in slabs(grid):
            solutions, residuals = invert_points(
                lambda x: x + self.at(x, outside="nearest"),
                points,
                tolerance=tolerance * voxel,
                step=voxel,
                iterations=iterations,
            )
            vectors[slab] = solutions - points
            index = self.grid.to_index(solutions)
            inside = np.all((index > -0.5) & (index < last), axis=-1)
            worst = max(worst, float(residuals[inside].max(initial=0)))
        return DisplacementField(vectors, grid), worst

    def jacobian_determinant(self) -> np.ndarray:
        """Determinant of the Jacobian of x -> x + u(x) per voxel, float32, shape of the grid.

        Central differences inside, one-sided at the border. Below zero the mapping folds.
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
        return np.linalg.det(jacobian).astype(np.float32)


def slabs(grid: Grid) -> Iterator[tuple[slice, np.ndarray]]:
    """Walk through a grid in slabs along its slowest axis: (slice of the array, physical points of these voxels)."""
    for part, slab in slab_grids(grid, _SLAB_VOXELS):
        yield part, slab.points()


def slab_grids(grid: Grid, voxels: int) -> Iterator[tuple[slice, Grid]]:
    """The slabs of a grid, of about so many voxels and at least a slice: (slice of the array, grid of the slab)."""
    step = max(1, voxels // max(1, int(np.prod(grid.shape[1:]))))
    for start in range(0, grid.shape[0], step):
        stop = min(grid.shape[0], start + step)
        lower, upper = [0] * grid.dimension, [0] * grid.dimension
        lower[-1], upper[-1] = -start, stop - grid.shape[0]
        yield slice(start, stop), grid.padded(lower, upper)
