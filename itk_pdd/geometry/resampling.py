"""Resampling of volumes onto another grid, through a mapping where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.geometry.volume import Volume

__all__ = ["interpolate", "resample"]

V = TypeVar("V", bound=Volume)

_TRUNCATE = 3  # standard deviations at which the smoothing ends
_SLAB = 16  # slices of the result that are made at once


def resample(
    volume: V,
    grid: Grid,
    *,
    mapping: Callable[[np.ndarray], np.ndarray] | None = None,
    interpolation: str = "linear",
    outside: str = "nearest",
) -> V:
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
    from itk_pdd.kernels.interpolation.cpu import sample_linear, sample_nearest

    array = volume.array
    if interpolation == "linear":
        widths = _smoothing(volume.grid, grid)
        lines = None if mapping is not None or outside != "nearest" else volume.grid.lines(grid)
        if lines is not None and any(widths):
            return replace(volume, array=_reduced(array, *lines, widths), grid=grid)
        array = _smoothed(array, widths)
        if mapping is None and outside == "nearest":
            return replace(volume, array=interpolate(array, volume.grid, grid), grid=grid)
    kernel = sample_linear if interpolation == "linear" else sample_nearest
    out = np.empty(grid.shape, array.dtype)
    for slab, points in slabs(grid):
        if mapping is not None:
            points = mapping(points)
        out[slab] = kernel(array, volume.grid.to_index(points), outside=outside)
    return replace(volume, array=out, grid=grid)


def interpolate(values: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Interpolate values (z,) y, x, and optionally channels, linearly at the voxels of another grid.

    Beyond the border that of the nearest voxel counts. Nothing is smoothed, however far apart the voxels of ``target``
    lie. Where the axes are parallel it is faster. The result is float32, contiguous; ``values`` itself where nothing
    changes.
    """
    from itk_pdd.kernels.interpolation.cpu import sample_linear

    values = np.asarray(values, dtype=np.float32)
    lines = source.lines(target)
    if lines is not None:
        return _along_lines(values, *lines)
    out = np.empty((*target.shape, *values.shape[source.dimension :]), np.float32)
    for slab, points in slabs(target):
        out[slab] = sample_linear(values, source.to_index(points))
    return out


def _along_lines(array: np.ndarray, axes: tuple[int, ...], positions: list[np.ndarray]) -> np.ndarray:
    """Sample an array whose axes are parallel to those that are wanted."""
    from itk_pdd.kernels.interpolation.cpu import sample_lines

    array = array.transpose(*axes, *range(len(axes), array.ndim))
    for axis, position in enumerate(positions):
        # Where the voxels coincide along an axis nothing is interpolated.
        if np.abs(position - np.round(position)).max() < 1e-6:
            index = np.clip(np.round(position).astype(int), 0, array.shape[axis] - 1)
            array = np.take(array, index, axis=axis)
            positions[axis] = np.arange(len(index))
    if all(len(p) == n and p[0] == 0 and p[-1] == n - 1 for p, n in zip(positions, array.shape, strict=False)):
        return np.ascontiguousarray(array)
    if len(axes) == 2:
        return sample_lines(array[None], (np.zeros(1), *positions))[0]
    return sample_lines(array, tuple(positions))


def _smoothing(source: Grid, target: Grid) -> list[float]:
    """Standard deviations in voxels, along z, y, x, of the smoothing that sampling at the target's spacing asks for."""
    # Length of one voxel step of the new grid, seen along the axes of the old one.
    ratio = np.abs(np.linalg.inv(source.matrix) @ target.matrix).max(axis=1)[::-1]
    # A Gaussian of this width turns the old voxel's footprint (variance 1/12) into the new one's.
    return [float(np.sqrt((value**2 - 1) / 12)) if value > 1.25 else 0.0 for value in ratio]


def _smoothed(array: np.ndarray, widths: list[float]) -> np.ndarray:
    """The array in single precision, smoothed along each axis."""
    array = np.asarray(array, dtype=np.float32)
    if not any(widths):
        return array
    from scipy import ndimage  # costs a quarter of a second

    for axis, width in enumerate(widths):
        if width:
            array = ndimage.gaussian_filter1d(array, width, axis=axis, mode="nearest", truncate=_TRUNCATE)
    return array


def _reduced(array: np.ndarray, axes: tuple[int, ...], positions: list[np.ndarray], widths: list[float]) -> np.ndarray:
    """Smooth and sample at once where the axes are parallel: less is left to do after each axis."""
    from itk_pdd.kernels.control_grid.cpu import weighted_sums

    for axis, width in enumerate(widths):
        index, weights = _taps(positions[axes.index(axis)], array.shape[axis], width)
        if axis > 0:
            array = weighted_sums(array, axis, index, weights)
            continue
        # The image as it came can be large: it is converted to floats in slabs.
        parts = []
        for first in range(0, len(index), _SLAB):
            part = slice(first, first + _SLAB)
            low = index[part].min()
            slab = array[low : index[part].max() + 1].astype(np.float32)
            parts.append(weighted_sums(slab, 0, index[part] - low, weights[part]))
        array = np.concatenate(parts)
    return np.ascontiguousarray(array.transpose(axes))


def _taps(positions: np.ndarray, size: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and weights of linear interpolation after smoothing, along an axis whose border is repeated."""
    inside = np.clip(positions, 0, size - 1)
    low = np.floor(inside).astype(np.int64)
    share = (inside - low)[:, None]
    reach = int(_TRUNCATE * width + 0.5)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (width or 1)) ** 2)
    bell = np.pad(bell / bell.sum(), 1)
    weights = (1 - share) * bell[1:] + share * bell[:-1]
    index = np.clip(low[:, None] + np.arange(-reach, reach + 2), 0, size - 1)
    return index, weights.astype(np.float32)
