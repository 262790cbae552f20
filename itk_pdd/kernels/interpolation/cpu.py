"""Linear and nearest-neighbour interpolation of arrays at continuous voxel indices, on the CPU.

Two-dimensional arrays are treated as three-dimensional ones with a single slice, so that one kernel serves both.
"""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["OUTSIDE", "sample_linear", "sample_lines", "sample_nearest"]

# What a sample outside the grid is worth: the nearest voxel's value, or zero (as in an ITK displacement field).
OUTSIDE = {"nearest": 0, "zero": 1}

_GRAIN = 16384  # points per work item: enough to hide the scheduling, few enough to balance


@compiled
def _linear(first, last, array, points, outside, out):
    depth, height, width, channels = array.shape
    for i in range(first, last):
        px, py, pz = points[i, 0], points[i, 1], points[i, 2]
        if outside == 1 and (
            px < -0.5 or py < -0.5 or pz < -0.5 or px > width - 0.5 or py > height - 0.5 or pz > depth - 0.5
        ):
            for c in range(channels):
                out[i, c] = 0
            continue
        px = min(max(px, 0.0), width - 1.0)
        py = min(max(py, 0.0), height - 1.0)
        pz = min(max(pz, 0.0), depth - 1.0)
        x0, y0, z0 = int(px), int(py), int(pz)
        x1, y1, z1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1), min(z0 + 1, depth - 1)
        fx, fy, fz = np.float32(px - x0), np.float32(py - y0), np.float32(pz - z0)
        gx, gy, gz = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
        for c in range(channels):
            low = (array[z0, y0, x0, c] * gx + array[z0, y0, x1, c] * fx) * gy + (
                array[z0, y1, x0, c] * gx + array[z0, y1, x1, c] * fx
            ) * fy
            high = (array[z1, y0, x0, c] * gx + array[z1, y0, x1, c] * fx) * gy + (
                array[z1, y1, x0, c] * gx + array[z1, y1, x1, c] * fx
            ) * fy
            out[i, c] = low * gz + high * fz


@compiled
def _nearest(first, last, array, points, outside, out):
    depth, height, width, channels = array.shape
    for i in range(first, last):
        x = int(np.floor(points[i, 0] + 0.5))
        y = int(np.floor(points[i, 1] + 0.5))
        z = int(np.floor(points[i, 2] + 0.5))
        inside = 0 <= x < width and 0 <= y < height and 0 <= z < depth
        if outside == 1 and not inside:
            for c in range(channels):
                out[i, c] = 0
            continue
        x = min(max(x, 0), width - 1)
        y = min(max(y, 0), height - 1)
        z = min(max(z, 0), depth - 1)
        for c in range(channels):
            out[i, c] = array[z, y, x, c]


@compiled
def _lines(first, last, array, pz, py, px, out):
    depth, height, width, channels = array.shape
    row = np.empty((width, channels), np.float32)
    for task in range(first, last):
        z, y = task // len(py), task % len(py)
        fz, fy = min(max(pz[z], 0.0), depth - 1.0), min(max(py[y], 0.0), height - 1.0)
        z0, y0 = int(fz), int(fy)
        z1, y1 = min(z0 + 1, depth - 1), min(y0 + 1, height - 1)
        wz, wy = np.float32(fz - z0), np.float32(fy - y0)
        vz, vy = np.float32(1) - wz, np.float32(1) - wy
        a, b, c, d = array[z0, y0], array[z0, y1], array[z1, y0], array[z1, y1]
        for x in range(width):
            for k in range(channels):
                row[x, k] = vz * (vy * a[x, k] + wy * b[x, k]) + wz * (vy * c[x, k] + wy * d[x, k])
        target = out[z, y]
        for x in range(len(px)):
            fx = min(max(px[x], 0.0), width - 1.0)
            x0 = int(fx)
            x1, wx = min(x0 + 1, width - 1), np.float32(fx - x0)
            for k in range(channels):
                target[x, k] = row[x0, k] + wx * (row[x1, k] - row[x0, k])


def sample_lines(array: np.ndarray, positions: tuple[np.ndarray, ...]) -> np.ndarray:
    """Linearly interpolate an array at all combinations of positions along its axes; beyond it the border counts.

    Parameters
    ----------
    array : numpy.ndarray
        Values, axes z, y, x, and optionally channels last.
    positions : tuple of numpy.ndarray
        Continuous indices along z, y and x, 1-D.

    Returns
    -------
    numpy.ndarray
        float32, one axis per array of positions, and the channels.
    """
    source = np.ascontiguousarray(array, dtype=np.float32)
    source = source.reshape(*source.shape[:3], -1)
    pz, py, px = (np.asarray(p, dtype=np.float64) for p in positions)
    out = np.empty((len(pz), len(py), len(px), source.shape[3]), np.float32)
    run(_lines, len(pz) * len(py), source, pz, py, px, out, grain=16)
    return out.reshape(*out.shape[:3], *array.shape[3:])


def _sample(kernel, array, points, outside, dimension, dtype):
    array = np.asarray(array)
    scalar = array.ndim == dimension
    volume = array[..., None] if scalar else array
    points = np.asarray(points)
    shape = points.shape[:-1]
    flat = points.reshape(-1, dimension)
    if dimension == 2:
        volume = volume[None]
        flat = np.concatenate([flat, np.zeros_like(flat[:, :1])], axis=1)
    out = np.empty((len(flat), volume.shape[-1]), dtype or array.dtype)
    run(kernel, len(flat), volume, np.ascontiguousarray(flat), OUTSIDE[outside], out, grain=_GRAIN)
    return out.reshape(shape if scalar else (*shape, volume.shape[-1]))


def sample_linear(array: np.ndarray, points: np.ndarray, *, outside: str = "nearest") -> np.ndarray:
    """Linearly interpolate an array at continuous indices.

    Parameters
    ----------
    array : numpy.ndarray
        Values, axes (z,) y, x, and optionally channels last.
    points : numpy.ndarray
        Continuous voxel indices, shape (..., dim), components x, y(, z).
    outside : {"nearest", "zero"}
        Value beyond the outer voxel borders: that of the nearest voxel, or zero. In the outer half voxel the nearest
        voxel counts in both cases.

    Returns
    -------
    numpy.ndarray
        float32 values of shape (...) or (..., channels).
    """
    array = np.asarray(array)
    if array.dtype != np.float32:
        array = array.astype(np.float32)
    return _sample(_linear, array, points, outside, np.asarray(points).shape[-1], np.float32)


def sample_nearest(array: np.ndarray, points: np.ndarray, *, outside: str = "nearest") -> np.ndarray:
    """Value of the nearest voxel at continuous indices, in the type of the array; see :func:`sample_linear`."""
    return _sample(_nearest, array, points, outside, np.asarray(points).shape[-1], None)
