"""A feature map sampled on one regular grid that is shifted in many ways, as the Obelisk network does it (CPU)."""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import compiled, inlined, run

__all__ = ["shifted_differences", "shifted_differences_backward", "taps"]


def taps(coordinates: np.ndarray, size: int, outside: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours of continuous indices along an axis.

    Parameters
    ----------
    coordinates : numpy.ndarray
        Continuous indices, any shape.
    size : int
        Length of the axis.
    outside : {"nearest", "zero"}
        What lies beyond the ends.

    Returns
    -------
    index, weight, slope : numpy.ndarray
        Shape (..., 2): the two neighbours, their weights, and the derivatives of these with the coordinate.
    """
    slope = np.broadcast_to([-1.0, 1.0], (*coordinates.shape, 2)).copy()
    if outside == "nearest":
        slope[(coordinates < 0) | (coordinates > size - 1)] = 0
        coordinates = np.clip(coordinates, 0, size - 1)
    low = np.floor(coordinates)
    index = np.stack([low, low + 1], axis=-1)
    weight = np.stack([1 - (coordinates - low), coordinates - low], axis=-1)
    if outside == "zero":
        beyond = (index < 0) | (index > size - 1)
        weight[beyond] = slope[beyond] = 0
    return np.clip(index, 0, size - 1).astype(np.int64), weight, slope


@compiled
def _forward(first, last, source, iz, wz, iy, wy, ix, wx, out):
    """Items are pairs of a channel and an offset."""
    offsets = out.shape[1]
    width = source.shape[3]
    row = np.empty(width, source.dtype)
    for item in range(first, last):
        c, i = item // offsets, item % offsets
        for half in range(2):
            s = half * offsets + i
            sign = source.dtype.type(1 - 2 * half)
            for z in range(out.shape[2]):
                for y in range(out.shape[3]):
                    a, b = wz[s, z, 0] * sign, wz[s, z, 1] * sign
                    p, q = wy[s, y, 0], wy[s, y, 1]
                    one, two = source[c, iz[s, z, 0], iy[s, y, 0]], source[c, iz[s, z, 0], iy[s, y, 1]]
                    three, four = source[c, iz[s, z, 1], iy[s, y, 0]], source[c, iz[s, z, 1], iy[s, y, 1]]
                    for x in range(width):
                        row[x] = a * (p * one[x] + q * two[x]) + b * (p * three[x] + q * four[x])
                    target = out[c, i, z, y]
                    if half == 0:
                        for x in range(target.shape[0]):
                            target[x] = wx[s, x, 0] * row[ix[s, x, 0]] + wx[s, x, 1] * row[ix[s, x, 1]]
                    else:
                        for x in range(target.shape[0]):
                            target[x] += wx[s, x, 0] * row[ix[s, x, 0]] + wx[s, x, 1] * row[ix[s, x, 1]]


@compiled
def _backward(first, last, source, gradient, iz, wz, dz, iy, wy, dy, ix, wx, dx, back, shifts):
    """Items are channels: each has a map of its own to add to. ``shifts`` gets (channel, shift, axis)."""
    offsets = gradient.shape[1]
    width = source.shape[3]
    row, spread = np.empty(width, source.dtype), np.empty(width, source.dtype)
    for c in range(first, last):
        for s in range(2 * offsets):
            sign = source.dtype.type(1 if s < offsets else -1)
            along_z = along_y = along_x = 0.0
            for z in range(gradient.shape[2]):
                a, b, da, db = wz[s, z, 0], wz[s, z, 1], dz[s, z, 0], dz[s, z, 1]
                for y in range(gradient.shape[3]):
                    p, q, dp, dq = wy[s, y, 0], wy[s, y, 1], dy[s, y, 0], dy[s, y, 1]
                    one, two = source[c, iz[s, z, 0], iy[s, y, 0]], source[c, iz[s, z, 0], iy[s, y, 1]]
                    three, four = source[c, iz[s, z, 1], iy[s, y, 0]], source[c, iz[s, z, 1], iy[s, y, 1]]
                    for x in range(width):
                        row[x] = a * (p * one[x] + q * two[x]) + b * (p * three[x] + q * four[x])
                        spread[x] = 0
                    given = gradient[c, s % offsets, z, y]
                    slope = source.dtype.type(0)
                    for x in range(given.shape[0]):
                        g, low, high = given[x] * sign, ix[s, x, 0], ix[s, x, 1]
                        spread[low] += g * wx[s, x, 0]
                        spread[high] += g * wx[s, x, 1]
                        slope += g * (dx[s, x, 0] * row[low] + dx[s, x, 1] * row[high])
                    along_x += slope
                    slope_y = slope_z = source.dtype.type(0)
                    for x in range(width):
                        upper, lower = p * one[x] + q * two[x], p * three[x] + q * four[x]
                        slope_z += spread[x] * (da * upper + db * lower)
                        upper, lower = dp * one[x] + dq * two[x], dp * three[x] + dq * four[x]
                        slope_y += spread[x] * (a * upper + b * lower)
                    along_y += slope_y
                    along_z += slope_z
                    # One after the other: at the border several of the four rows are the same.
                    _add(back[c, iz[s, z, 0], iy[s, y, 0]], spread, a * p)
                    _add(back[c, iz[s, z, 0], iy[s, y, 1]], spread, a * q)
                    _add(back[c, iz[s, z, 1], iy[s, y, 0]], spread, b * p)
                    _add(back[c, iz[s, z, 1], iy[s, y, 1]], spread, b * q)
            shifts[c, s, 0], shifts[c, s, 1], shifts[c, s, 2] = along_z, along_y, along_x


@inlined
def _add(target, values, factor):
    for x in range(target.shape[0]):
        target[x] += factor * values[x]


def _tables(source: np.ndarray, coordinates: list[np.ndarray], outside: str) -> list[tuple[np.ndarray, ...]]:
    result = []
    for axis, along in enumerate(coordinates, start=1):
        index, weight, slope = taps(along, source.shape[axis], outside)
        result.append((index, weight.astype(source.dtype), slope.astype(source.dtype)))
    return result


def shifted_differences(source: np.ndarray, coordinates: list[np.ndarray], outside: str) -> np.ndarray:
    """Differences of a map sampled on two regular grids, for many pairs of grids.

    Parameters
    ----------
    source : numpy.ndarray, shape (C, Z, Y, X)
        The map.
    coordinates : list of numpy.ndarray, shape (2 * offsets, n)
        Continuous indices along each axis z, y, x, first those of all the first grids, then of the second ones.
    outside : {"nearest", "zero"}
        What lies beyond the map.

    Returns
    -------
    numpy.ndarray, shape (C, offsets, nz, ny, nx)
    """
    (iz, wz, _), (iy, wy, _), (ix, wx, _) = _tables(source, coordinates, outside)
    offsets = len(coordinates[0]) // 2
    out = np.empty((source.shape[0], offsets, *(along.shape[1] for along in coordinates)), source.dtype)
    run(_forward, source.shape[0] * offsets, source, iz, wz, iy, wy, ix, wx, out)
    return out


def shifted_differences_backward(
    source: np.ndarray, coordinates: list[np.ndarray], outside: str, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of :func:`shifted_differences` for the map and for the shifts, shape (2 * offsets, 3), axes z, y, x."""
    (iz, wz, dz), (iy, wy, dy), (ix, wx, dx) = _tables(source, coordinates, outside)
    back = np.zeros_like(source)
    shifts = np.empty((source.shape[0], len(coordinates[0]), 3), np.float64)
    run(_backward, source.shape[0], source, gradient, iz, wz, dz, iy, wy, dy, ix, wx, dx, back, shifts)
    return back, shifts.sum(0)
