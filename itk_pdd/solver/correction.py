"""Correct a field so that it meets landmarks: smoothly, near them alone, and without folds."""

from __future__ import annotations

import numpy as np

from itk_pdd.errors import warn
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid

__all__ = ["corrected"]

_LEAST_RADIUS_VOXELS = 5.0  # about a landmark that a correction reaches; a larger one is smoother
_RADII = 6.0  # times the largest residual that it reaches: the correction then strains by a third at most
_WIDER = 1.6  # times as far, where it would fold the field
_ROUNDS = 4  # of corrections: between voxels the field is interpolated, so that one is not quite enough
_MOST = 2000  # landmarks that are met at once; of more, as of a surface, some spread evenly
_JITTER = 1e-6  # variance beside the signal's, so that landmarks at one place can be solved for
_ENOUGH_VOXELS = 1e-3  # largest residual of exact landmarks


def corrected(
    field: DisplacementField, points: np.ndarray, targets: np.ndarray, sigma: np.ndarray, *, exact: bool = False
) -> DisplacementField:
    """Correct a field by what is left at landmarks; where they cannot be met without a fold, in part, with a warning.

    The residuals are those of a Gaussian process whose covariance is a compact function (Wendland, Adv. Comput. Math.
    4, 1995), of the variance that the residuals have, observed with the variance of each landmark: a small residual of
    an uncertain landmark changes little. ``points`` and ``targets`` (n, dim) are the landmarks in the fixed and in the
    moving image, ``sigma`` (n,) their standard deviations, all in physical millimetres. ``exact`` leaves nothing,
    whatever ``sigma`` says.
    """
    if len(points) > _MOST:
        some = np.random.default_rng(0).permutation(len(points))[:_MOST]
        points, targets, sigma = points[some], targets[some], sigma[some]
    voxel = float(np.prod(field.grid.spacing) ** (1 / field.grid.dimension))
    noise = np.zeros(len(points)) if exact else np.square(sigma)
    wanted = targets - points
    for number in range(_ROUNDS if exact else 2):
        residuals = wanted - field.at(points, outside="nearest")
        largest = float(np.linalg.norm(residuals, axis=1).max())
        if largest <= _ENOUGH_VOXELS * voxel or (number > 0 and not exact):
            break
        radius = max(_LEAST_RADIUS_VOXELS * voxel, _RADII * largest)
        field, left = _without_folds(field, points, residuals, noise, radius)
        if left > 0:
            warn(f"the landmarks cannot all be met without folding the field: {left:.0%} of the correction is left out")
            break
    return field


def _without_folds(
    field: DisplacementField, points: np.ndarray, residuals: np.ndarray, noise: np.ndarray, radius: float
) -> tuple[DisplacementField, float]:
    """Add the correction that reaches least far without a fold, or else a part of it; also the share left out."""
    limit = 0.5 * float(np.max(field.grid.extent))
    folds = field.folded_voxels()
    while True:
        change = _correction(field.grid, points, residuals, noise, radius)
        found = DisplacementField(field.vectors + change, field.grid)
        if found.folded_voxels() <= folds:
            return found, 0.0
        if radius > limit:
            break
        radius *= _WIDER
    for share in (0.75, 0.5, 0.25):
        found = DisplacementField(field.vectors + np.float32(share) * change, field.grid)
        if found.folded_voxels() <= folds:
            return found, 1 - share
    return field, 1.0


def _correction(grid: Grid, points: np.ndarray, residuals: np.ndarray, noise: np.ndarray, radius: float) -> np.ndarray:
    """Spread residuals around the landmarks, float32 of the shape of a field on the grid."""
    variance = max(float(np.square(residuals).sum(axis=1).mean()) / grid.dimension, 1e-12)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1) / radius
    matrix = variance * _compact(distance) + np.diag(noise + _JITTER * variance)
    weights = (variance * np.linalg.solve(matrix, residuals)).astype(np.float32)
    change = np.zeros((*grid.shape, grid.dimension), np.float32)
    reach = radius / np.asarray(grid.spacing)
    for point, index, weight in zip(points, grid.to_index(points), weights, strict=True):
        low = np.maximum(np.ceil(index - reach).astype(int), 0)
        high = np.minimum(np.floor(index + reach).astype(int) + 1, grid.size)
        if (high <= low).any():
            continue
        near = grid.padded(-low, high - np.asarray(grid.size))
        away = np.linalg.norm(near.points() - point, axis=-1) / radius
        part = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
        change[part] += _compact(away).astype(np.float32)[..., None] * weight
    return change


def _compact(distance: np.ndarray) -> np.ndarray:
    """Wendland's function of smoothness 2, positive definite up to 3-D: 1 at 0, and 0 from 1 on."""
    return np.where(distance < 1, (1 - np.minimum(distance, 1)) ** 4 * (4 * distance + 1), 0.0)
