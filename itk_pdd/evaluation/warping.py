"""Apply displacement fields with numpy and scipy: to images, label maps, points and other fields.

The conventions are those of ITK's resampling, so that the measures hold for the results of an ITK user: a voxel
belongs to the image up to its border (half a voxel beyond its centre), outside there is a fill value, and outside its
own grid a field displaces by zero.
"""

from __future__ import annotations

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.io.volume import Volume

__all__ = [
    "inverse_consistency_error",
    "onto_grid",
    "target_registration_error",
    "warp_image",
    "warp_labels",
]


def _linear(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Linear interpolation at continuous indices (..., dim), components x, y, z; the border is continued."""
    from scipy import ndimage

    coordinates = np.moveaxis(index[..., ::-1], -1, 0)
    return ndimage.map_coordinates(array, coordinates, order=1, mode="nearest", output=np.float64)


def warp_image(moving: Volume, field: DisplacementField, *, fill: float | None = None) -> Volume:
    """Resample the moving image onto the grid of the field by linear interpolation, as float32.

    ``fill`` is the value outside the moving image; by default its smallest value (air in CT).
    """
    result = np.empty(field.grid.shape, dtype=np.float32)
    fill = float(moving.array.min()) if fill is None else fill
    source = moving.array.astype(np.float32, copy=False)
    for part, points in slabs(field.grid):
        index = moving.grid.to_index(points + field.vectors[part])
        result[part] = np.where(moving.grid.contains_index(index), _linear(source, index), fill)
    return Volume(result, field.grid)


def warp_labels(moving: Volume, field: DisplacementField) -> Volume:
    """Resample the moving label map onto the grid of the field by nearest neighbour; 0 outside, pixel type kept."""
    result = np.zeros(field.grid.shape, dtype=moving.array.dtype)
    last = np.asarray(moving.grid.size) - 1
    for part, points in slabs(field.grid):
        index = moving.grid.to_index(points + field.vectors[part])
        # Half a voxel rounds up, as in ITK.
        nearest = np.clip(np.floor(index + 0.5).astype(np.int64), 0, last)
        values = moving.array[tuple(np.moveaxis(nearest[..., ::-1], -1, 0))]
        result[part] = np.where(moving.grid.contains_index(index), values, 0)
    return Volume(result, field.grid)


def onto_grid(field: DisplacementField, grid: Grid) -> DisplacementField:
    """Resample a field onto a grid, linearly and zero outside its own; a field on the same grid stays untouched."""
    # Headers of files round positions: grids at the same place need no interpolation.
    return DisplacementField(field.vectors, grid) if field.grid.same_space(grid) else field.resampled(grid)


def target_registration_error(
    fixed_points: np.ndarray, moving_points: np.ndarray, field: DisplacementField | None = None
) -> np.ndarray:
    """Measure the distance (n,) of every mapped fixed landmark (n, dim) from its moving landmark, in millimetres.

    Without a field it is the error before registration.
    """
    fixed_points, moving_points = np.asarray(fixed_points, dtype=float), np.asarray(moving_points, dtype=float)
    if fixed_points.shape != moving_points.shape or fixed_points.ndim != 2:
        raise RegistrationError(
            "fixed and moving points must be two lists of equal length, "
            f"found shapes {fixed_points.shape} and {moving_points.shape}."
        )
    mapped = fixed_points if field is None else field(fixed_points)
    return np.linalg.norm(mapped - moving_points, axis=-1)


def inverse_consistency_error(forward: DisplacementField, backward: DisplacementField) -> np.ndarray:
    """Measure how far every fixed voxel is from its start after going forward and back, in millimetres.

    It is |u(x) + v(x + u(x))| on ``forward.grid``, axes (z,) y, x; NaN where x + u(x) lies outside the backward field.
    """
    result = np.empty(forward.grid.shape)
    for part, points in slabs(forward.grid):
        there = points + forward.vectors[part]
        back = forward.vectors[part] + backward.at(there)
        known = backward.grid.contains(there)
        result[part] = np.where(known, np.linalg.norm(back, axis=-1), np.nan)
    return result
