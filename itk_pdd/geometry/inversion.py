"""Invert mappings of points, make inverse fields, and measure how good an inverse is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid, slabs

__all__ = ["EXACT", "ITERATIONS", "TOLERANCE", "InverseError", "inverse_vectors", "invert_from", "invert_points"]

EXACT = 0.05
"""Voxels within which an inverse counts as exact."""
TOLERANCE = 0.01
"""Voxels within which the voxels of an inverse field are solved."""
ITERATIONS = 50
"""Iterations of each method after which a point is given up."""

Function = Callable[[np.ndarray], np.ndarray]


class Invertible(Protocol):
    """A mapping whose inverse can be computed (see :class:`itk_pdd.geometry.mapping.Mapping`)."""

    @property
    def grid(self) -> Grid | None:
        """Grid on which it is defined, if there is one."""

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim) in millimetres."""

    def invert(self, points: np.ndarray, *, tolerance: float, iterations: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the points that are mapped to given ones, and how far from these they end, in millimetres."""

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Tell at which points the mapping is defined."""


@dataclass(frozen=True)
class InverseError:
    """The error of an inverse.

    Parameters
    ----------
    solved : float
        Share of the voxels of the inverse, of those that the fixed image maps to, that are exact to 0.05 voxel. The
        rest lies where the transform folds.
    mean, most, largest : float
        Mean, 99th percentile and maximum of how far a voxel of the fixed image gets from where it started on the way
        there and back, in millimetres; linear interpolation between the voxels of the inverse included.
    """

    solved: float
    mean: float
    most: float
    largest: float

    def __str__(self) -> str:
        return (
            f"inverse: exact to {EXACT} voxel at {100 * self.solved:.4g} % of its voxels; there and back, with "
            f"interpolation: mean {self.mean:.3g} mm, 99 % below {self.most:.3g} mm, largest {self.largest:.3g} mm"
        )


def inverse_vectors(
    mapping: Invertible, grid: Grid, *, tolerance: float = TOLERANCE, iterations: int = ITERATIONS
) -> tuple[np.ndarray, InverseError]:
    """Compute the displacements of the inverse on the grid of the moving image, and their error.

    Parameters
    ----------
    mapping : Invertible
        From fixed to moving points.
    grid : Grid
        Where the inverse is wanted; refused if no point of the fixed image is mapped into it.
    tolerance : float
        Distance in voxels of ``grid`` that is good enough at a voxel; smaller is slower.
    iterations : int
        Upper limit; more iterations help only where the mapping compresses strongly.

    Returns
    -------
    vectors : numpy.ndarray
        float32 (z, y, x, dim), components x, y, z, in millimetres: from moving to fixed points.
    error : InverseError
        How exact they are.
    """
    vectors = np.empty((*grid.shape, grid.dimension), np.float32)
    voxel, reached, solved = min(grid.spacing), 0, 0
    low, high = np.full(grid.dimension, np.inf), np.full(grid.dimension, -np.inf)
    for slab, points in slabs(grid):
        solutions, residuals = mapping.invert(points, tolerance=tolerance * voxel, iterations=iterations)
        vectors[slab] = solutions - points
        # The mapping says nothing about the rest.
        known = mapping.contains(solutions)
        low = np.minimum(low, solutions[known].min(axis=0, initial=np.inf))
        high = np.maximum(high, solutions[known].max(axis=0, initial=-np.inf))
        reached += int(known.sum())
        solved += int((residuals[known] <= EXACT * voxel).sum())
    # A mapping without a grid of its own is measured on the box of the points it takes into the grid.
    fixed = mapping.grid or (Grid.create(grid.size, (high - low) / grid.size, low) if reached else grid)
    distances = _round_trip(mapping, fixed, vectors, grid)
    if not reached or not len(distances):
        raise RegistrationError(
            "transform takes no point of the fixed image into the reference, which has to be the moving image for an "
            "inverse"
        )
    most = float(np.percentile(distances, 99))
    return vectors, InverseError(solved / reached, float(distances.mean(dtype=float)), most, float(distances.max()))


def _round_trip(mapping: Invertible, fixed: Grid, vectors: np.ndarray, grid: Grid) -> np.ndarray:
    """Measure how far the fixed voxels that get into the grid of the inverse return from where they started, in mm."""
    from itk_pdd.kernels.interpolation.cpu import sample_linear

    errors = []
    for _, points in slabs(fixed):
        there = mapping(points)
        index = grid.to_index(there)
        known = grid.contains_index(index, margin=0) & mapping.contains(points)
        back = there[known] + sample_linear(vectors, index[known])
        errors.append(np.linalg.norm(back - points[known], axis=-1).astype(np.float32))
    return np.concatenate(errors)


def invert_points(
    function: Function, targets: np.ndarray, *, tolerance: float, step: float, iterations: int = ITERATIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Find the points that a mapping near the identity takes to given points.

    Fixed-point iteration, and Newton's method with a line search for the points where that does not settle (where the
    mapping compresses or folds).

    Parameters
    ----------
    function : callable
        Takes points (..., dim) to points, in millimetres.
    targets : numpy.ndarray
        Points (..., dim) to be reached.
    tolerance : float
        Distance in millimetres that is good enough; smaller is slower.
    step : float
        Length in millimetres over which the mapping changes little: derivatives are taken over a tenth of it, and a
        point that gets stuck (beside a fold) is tried again from this far away.
    iterations : int
        Upper limit for each of the two methods.

    Returns
    -------
    solutions : numpy.ndarray
        Points (..., dim).
    residuals : numpy.ndarray
        Distances (...) in millimetres between what the solutions are mapped to and the targets. Above the tolerance
        where no solution was found: a mapping that folds does not reach every point, or only from far away.

    References
    ----------
    Chen M. et al., "A simple fixed-point approach to invert a deformation field", Medical Physics 35(1), 2008.
    """
    targets = np.asarray(targets, dtype=float)
    goals = targets.reshape(-1, targets.shape[-1])
    search = _Search(function, goals, goals.copy(), tolerance, step, iterations)
    stuck = search.fixed_point()
    if len(stuck):
        search.newton(stuck)
        search.newton_from_beside(stuck)
    return search.points.reshape(targets.shape), search.sizes.reshape(targets.shape[:-1])


def invert_from(
    function: Function, targets: np.ndarray, starts: np.ndarray, *, tolerance: float, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`invert_points` by Newton's method from given starting points (..., dim), one for each target."""
    goals = np.asarray(targets, dtype=float).reshape(-1, targets.shape[-1])
    search = _Search(function, goals, np.array(starts, dtype=float).reshape(goals.shape), tolerance, step)
    search.newton(np.arange(len(goals)))
    return search.points.reshape(starts.shape), search.sizes.reshape(starts.shape[:-1])


@dataclass
class _Search:
    """Points (n, dim) that move until they are mapped to their goals; sizes are how far from these they still end."""

    function: Function
    goals: np.ndarray
    points: np.ndarray
    tolerance: float
    step: float
    iterations: int = ITERATIONS

    def __post_init__(self) -> None:
        self.residuals = self.function(self.points) - self.goals
        self.sizes = np.linalg.norm(self.residuals, axis=-1)

    def fixed_point(self) -> np.ndarray:
        """Iterate; returns the indices of the points that did not settle."""
        stuck = []
        active = np.flatnonzero(self.sizes > self.tolerance)
        for _ in range(self.iterations):
            if not len(active):
                break
            trial = self.points[active] - self.residuals[active]
            remaining = self.function(trial) - self.goals[active]
            size = np.linalg.norm(remaining, axis=-1)
            better = size < self.sizes[active]
            taken = active[better]
            self.points[taken], self.residuals[taken], self.sizes[taken] = (
                trial[better],
                remaining[better],
                size[better],
            )
            stuck.append(active[~better])
            active = taken[self.sizes[taken] > self.tolerance]
        return np.concatenate([*stuck, active])

    def newton(self, active: np.ndarray) -> None:
        """Move the active points by Newton's method, with steps halved until they help."""
        function, step = self.function, self.step
        dimension = self.goals.shape[-1]
        for _ in range(self.iterations):
            active = active[self.sizes[active] > self.tolerance]
            if not len(active):
                return
            here, goal = self.points[active], self.goals[active]
            residual = function(here) - goal
            offsets = 0.1 * step * np.eye(dimension)
            jacobian = np.stack([(function(here + o) - function(here - o)) / (0.2 * step) for o in offsets], axis=-1)
            # Where the mapping is flat in some direction, the direct way is tried.
            flat = np.abs(np.linalg.det(jacobian)) < 1e-6
            jacobian[flat] = np.eye(dimension)
            direction = np.linalg.solve(jacobian, residual[..., None])[..., 0]
            length = np.linalg.norm(direction, axis=-1, keepdims=True)
            direction *= np.minimum(1, 10 * step / np.maximum(length, 1e-12 * step))
            waiting = np.arange(len(active))
            for halving in range(7):
                trial = here[waiting] - direction[waiting] * 0.5**halving
                size = np.linalg.norm(function(trial) - goal[waiting], axis=-1)
                better = size < self.sizes[active[waiting]]
                chosen = active[waiting[better]]
                self.points[chosen], self.sizes[chosen] = trial[better], size[better]
                waiting = waiting[~better]
                if not len(waiting):
                    break
            active = np.delete(active, waiting)

    def newton_from_beside(self, stuck: np.ndarray) -> None:
        """Try again from around the place where a point got stuck; a local minimum beside a fold is left behind so."""
        dimension = self.goals.shape[-1]
        corners = np.stack(np.meshgrid(*[(-1.0, 1.0)] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
        for reach in (1.0, 3.0):
            for corner in corners:
                left = stuck[self.sizes[stuck] > self.tolerance]
                if not len(left):
                    return
                again = replace(self, goals=self.goals[left], points=self.points[left] + reach * self.step * corner)
                again.newton(np.arange(len(left)))
                better = again.sizes < self.sizes[left]
                self.points[left[better]], self.sizes[left[better]] = again.points[better], again.sizes[better]
