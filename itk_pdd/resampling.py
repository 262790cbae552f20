"""Resampling of volumes onto another grid, through a mapping where there is one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from itk_pdd.field import slabs
from itk_pdd.grid import Grid
from itk_pdd.volume import Volume

__all__ = ["resample"]


def resample(
    volume: Volume,
    grid: Grid,
    *,
    mapping: Callable[[np.ndarray], np.ndarray] | None = None,
    interpolation: str = "linear",
    outside: str = "nearest",
) -> Volume:
    """Sample a volume on another grid.

    Parameters
    ----------
    volume : Volume
        The image; its own spacing may be finer than that of ``grid``: it is then smoothed first.
    grid : Grid
        Where the values are wanted.
    mapping : callable, optional
        Takes physical points (..., dim) of ``grid`` in millimetres to points of ``volume``; identity by default.
    interpolation : {"linear", "nearest"}
        "nearest" keeps the type of the array (labels, masks), "linear" gives float32.
    outside : {"nearest", "zero"}
        Value beyond the volume: that of the nearest voxel, or zero.
    """
    from itk_pdd.kernels.interpolation import sample_linear, sample_nearest

    array = volume.array
    if interpolation == "linear":
        array = _smoothed_for(volume, grid)
        lines = None if mapping is not None or outside != "nearest" else volume.grid.lines(grid)
        if lines is not None:
            return Volume(_along_lines(array, *lines), grid)
    kernel = sample_linear if interpolation == "linear" else sample_nearest
    out = np.empty(grid.shape, array.dtype)
    for slab, points in slabs(grid):
        if mapping is not None:
            points = mapping(points)
        out[slab] = kernel(array, volume.grid.to_index(points), outside=outside)
    return Volume(out, grid)


def _along_lines(array: np.ndarray, axes: tuple[int, ...], positions: list[np.ndarray]) -> np.ndarray:
    """Sample an array whose axes are parallel to those that are wanted."""
    from itk_pdd.kernels.interpolation import sample_lines

    array = array.transpose(axes)
    for axis, position in enumerate(positions):
        # Where the voxels coincide along an axis nothing is interpolated.
        if np.abs(position - np.round(position)).max() < 1e-6:
            index = np.clip(np.round(position).astype(int), 0, array.shape[axis] - 1)
            array = np.take(array, index, axis=axis)
            positions[axis] = np.arange(len(index))
    if all(len(p) == n and p[0] == 0 and p[-1] == n - 1 for p, n in zip(positions, array.shape, strict=True)):
        return np.ascontiguousarray(array)
    if len(axes) == 2:
        return sample_lines(array[None], (np.zeros(1), *positions))[0]
    return sample_lines(array, tuple(positions))


def _smoothed_for(volume: Volume, grid: Grid) -> np.ndarray:
    """The array, smoothed along each axis as much as sampling it at the spacing of ``grid`` asks for."""
    from scipy import ndimage

    array = np.asarray(volume.array, dtype=np.float32)
    # Length of one voxel step of the new grid, seen along the axes of the volume.
    ratio = np.abs(np.linalg.inv(volume.grid.matrix) @ grid.matrix).max(axis=1)
    for axis, value in enumerate(ratio):
        if value > 1.25:
            # A Gaussian of this width turns the old voxel's footprint (variance 1/12) into the new one's.
            sigma = float(np.sqrt((value**2 - 1) / 12))
            array = ndimage.gaussian_filter1d(
                array, sigma, axis=volume.grid.dimension - 1 - axis, mode="nearest", truncate=3
            )
    return array
