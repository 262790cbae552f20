"""The Jacobian determinant of mappings, as they act on each side of the border of a field."""

from __future__ import annotations

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.geometry.mapping import Mapping

__all__ = ["jacobian_determinant"]

_STEP_VOXELS = 0.05  # between the points of a difference outside of fields


def jacobian_determinant(mapping: Mapping, grid: Grid) -> tuple[np.ndarray, float]:
    """Compute the Jacobian determinant of a mapping at the voxels of a grid.

    The jump at the border of a field that is smaller than the grid is no deformation: inside, the field counts as if
    it went on, and outside what is left of the mapping (1 where nothing is moved).

    Returns
    -------
    determinant : numpy.ndarray
        float32, shape of the grid; not positive where the mapping folds.
    inside : float
        Share of the voxels that stay inside all fields on their way.
    """
    field = mapping.extended().field(grid)
    inside = np.empty(grid.shape, bool)
    for slab, points in slabs(grid):
        inside[slab] = mapping.contains(points)
    if inside.all():
        return field.jacobian_determinant(), 1.0
    determinant = _within(field, inside)
    for slab, points in slabs(grid):
        alone = np.isnan(determinant[slab])
        if alone.any():
            determinant[slab][alone] = _at(mapping, points[alone], grid)
    return determinant, float(inside.mean())


def _within(field: DisplacementField, inside: np.ndarray) -> np.ndarray:
    """Compute the determinant from differences between voxels that are inside; NaN where there is none."""
    dimension = field.grid.dimension
    gradient = []
    for axis in range(dimension - 1, -1, -1):
        step = np.diff(field.vectors, axis=axis)
        both = np.delete(inside, 0, axis) & np.delete(inside, -1, axis)
        total, count = np.zeros_like(field.vectors), np.zeros(inside.shape, np.float32)
        for part in (np.s_[:-1], np.s_[1:]):
            where = (np.s_[:],) * axis + (part,)
            total[where] += step * both[..., None]
            count[where] += both
        with np.errstate(invalid="ignore", divide="ignore"):
            gradient.append(total / count[..., None])
    jacobian = np.stack(gradient, axis=-1) @ np.linalg.inv(field.grid.matrix).astype(np.float32)
    with np.errstate(invalid="ignore"):
        return np.linalg.det(jacobian + np.eye(dimension, dtype=np.float32)).astype(np.float32)


def _at(mapping: Mapping, points: np.ndarray, grid: Grid) -> np.ndarray:
    """Compute the determinant at points (n, dim) from differences over a small part of a voxel."""
    steps = _STEP_VOXELS * grid.matrix.T
    differences = [(mapping(points + step) - mapping(points - step)) / 2 for step in steps]
    return np.linalg.det(np.stack(differences, axis=-1)) / np.linalg.det(steps)
