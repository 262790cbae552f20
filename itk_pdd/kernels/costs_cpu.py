"""Displacement costs on the CPU, forward and backward, and the values expected under a distribution.

All of it goes over the samples of the moving map at every control point plus every displacement. They are never
stored: linear interpolation on a regular grid is separable, so a block of ``BLOCK`` positions along x (a *slot* is one
control point with one displacement) is interpolated for the whole map, from that a plane for each position along z,
from two rows of the plane the samples. Channels are outside and slots inside, the innermost loops have a constant
length and nothing to sum across, which is what compilers make vector code of. Everything a block needs fits into the
cache of its core.

Arrays: fixed (Nz, Ny, C, Nx) are samples at the control points, moving (Z, Y, C, X) is the map; C is a multiple of 4
(zeros appended). Tables hold for each slot of an axis the lower and the upper index and the weight of the upper one.
"""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.arithmetic import load, store
from itk_pdd.kernels.parallel import compiled, inlined

__all__ = ["BLOCK", "costs"]

BLOCK = 64


@inlined
def _sample_block(moving, low, high, weight, start, first, last, out):
    """Interpolate a block along x in the slices first .. last; out (last - first, Y, C * BLOCK)."""
    for z in range(first, last):
        for y in range(moving.shape[1]):
            to = out[z - first, y]
            for c in range(moving.shape[2]):
                row = moving[z, y, c]
                for j in range(BLOCK):
                    a = load(row, low[start + j])
                    store(to, c * BLOCK + j, a + weight[start + j] * (load(row, high[start + j]) - a))


@inlined
def _blend(a, b, weight, out):
    """``out = a + weight (b - a)`` for contiguous 1-D arrays."""
    for i in range(out.size):
        store(out, i, load(a, i) + weight * (load(b, i) - load(a, i)))


@inlined
def _spread(fixed, point, start, out):
    """Repeat the features (Ny, C, Nx) of each control point for the slots of the block; out (Ny, C * BLOCK)."""
    for y in range(fixed.shape[0]):
        to = out[y]
        for c in range(fixed.shape[1]):
            row = fixed[y, c]
            for j in range(BLOCK):
                store(to, c * BLOCK + j, load(row, point[start + j]))


@inlined
def _squares(row, f, channels, out):
    """Sum of squared differences over the channels, at samples that need no interpolation along y."""
    for j in range(BLOCK):
        store(out, j, row.dtype.type(0))
    for c in range(0, channels * BLOCK, 4 * BLOCK):
        for j in range(BLOCK):
            d0 = load(f, c + j) - load(row, c + j)
            d1 = load(f, c + BLOCK + j) - load(row, c + BLOCK + j)
            d2 = load(f, c + 2 * BLOCK + j) - load(row, c + 2 * BLOCK + j)
            d3 = load(f, c + 3 * BLOCK + j) - load(row, c + 3 * BLOCK + j)
            store(out, j, load(out, j) + ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)))


@inlined
def _squares_between(low, high, weight, f, channels, out):
    """Sum of squared differences over the channels, at samples between two rows."""
    for j in range(BLOCK):
        store(out, j, low.dtype.type(0))
    for c in range(0, channels * BLOCK, 4 * BLOCK):
        for j in range(BLOCK):
            a0, a1 = load(low, c + j), load(low, c + BLOCK + j)
            a2, a3 = load(low, c + 2 * BLOCK + j), load(low, c + 3 * BLOCK + j)
            d0 = load(f, c + j) - (a0 + weight * (load(high, c + j) - a0))
            d1 = load(f, c + BLOCK + j) - (a1 + weight * (load(high, c + BLOCK + j) - a1))
            d2 = load(f, c + 2 * BLOCK + j) - (a2 + weight * (load(high, c + 2 * BLOCK + j) - a2))
            d3 = load(f, c + 3 * BLOCK + j) - (a3 + weight * (load(high, c + 3 * BLOCK + j) - a3))
            store(out, j, load(out, j) + ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)))


@compiled
def costs(first, last, parts, fixed, moving, lowz, highz, wz, lowy, highy, wy, lowx, highx, wx, point, scale, out):
    """Mean squared differences for items first .. last of (blocks along x) x (parts along z).

    Parameters
    ----------
    lowz, highz, wz, lowy, highy, wy : arrays (N, D)
    lowx, highx, wx, point : arrays, Nx * Dx padded to a multiple of BLOCK
        ``point`` is the control point of a slot.
    scale : scalar
        Factor of the sums over the channels.
    out : array (Nz, Ny, Nx, Dz, Dy, Dx)
    """
    points, rows, columns, depth, height, width = out.shape
    channels = moving.shape[2]
    slots = columns * width
    features = np.empty((rows, channels * BLOCK), moving.dtype)
    sums = np.empty(BLOCK, moving.dtype)
    plane = np.empty((moving.shape[1], channels * BLOCK), moving.dtype)
    target = out.reshape(-1)
    for item in range(first, last):
        start = item // parts * BLOCK
        stop = min(start + BLOCK, slots)
        from_z, to_z = item % parts * points // parts, (item % parts + 1) * points // parts
        if from_z == to_z:
            continue
        bottom, top = lowz[from_z:to_z].min(), highz[from_z:to_z].max() + 1
        slices = np.empty((top - bottom, moving.shape[1], channels * BLOCK), moving.dtype)
        _sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        for kz in range(from_z, to_z):
            _spread(fixed[kz], point, start, features)
            for dz in range(depth):
                here = slices[lowz[kz, dz] - bottom]
                if wz[kz, dz] != 0:
                    other = slices[highz[kz, dz] - bottom]
                    _blend(here.reshape(-1), other.reshape(-1), wz[kz, dz], plane.reshape(-1))
                    here = plane
                for ky in range(rows):
                    f = features[ky]
                    for dy in range(height):
                        if wy[ky, dy] != 0:
                            _squares_between(here[lowy[ky, dy]], here[highy[ky, dy]], wy[ky, dy], f, channels, sums)
                        else:
                            _squares(here[lowy[ky, dy]], f, channels, sums)
                        slot = start
                        while slot < stop:
                            kx = point[slot]
                            end = min((kx + 1) * width, stop)
                            to = (((kz * rows + ky) * columns + kx) * depth + dz) * height + dy
                            shift = (to - kx) * width
                            for i in range(slot, end):
                                store(target, shift + i, load(sums, i - start) * scale)
                            slot = end
