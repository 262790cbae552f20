"""What flows back through displacement costs, and values expected under a distribution, on the CPU.

Laid out like :mod:`itk_pdd.kernels.costs_cpu`. A block of slots along x belongs to one thread; what it adds to the
features goes to an array of its own. These are summed in a fixed order, so the result does not depend on the number of
threads.
"""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.arithmetic import exponential, load, store
from itk_pdd.kernels.costs_cpu import BLOCK, _blend, _sample_block, _spread
from itk_pdd.kernels.parallel import compiled, inlined

__all__ = ["costs_backward", "expected", "expected_backward"]


@inlined
def _gather(source, kz, ky, dz, dy, start, stop, point, sizes, out):
    """Numbers of one row of the costs for the slots of a block, 0 for those that pad it."""
    rows, columns, depth, height, width = sizes
    slot = start
    while slot < stop:
        kx = point[slot]
        end = min((kx + 1) * width, stop)
        shift = (((((kz * rows + ky) * columns + kx) * depth + dz) * height + dy) - kx) * width
        for i in range(slot, end):
            store(out, i - start, load(source, shift + i))
        slot = end
    for j in range(stop - start, BLOCK):
        store(out, j, out.dtype.type(0))


@inlined
def _add_scaled(values, weight, out):
    for i in range(out.size):
        store(out, i, load(out, i) + weight * load(values, i))


@inlined
def _reduce(values, start, stop, point, out):
    """Sum numbers (C * BLOCK) over the slots of each control point; out (C, points of the block)."""
    for c in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[c, i] = 0
        for slot in range(start, stop):
            out[c, point[slot] - point[start]] += load(values, c * BLOCK + slot - start)


@inlined
def _differences(low, high, weight, f, gradient, channels, out):
    """``gradient * (sample - fixed)`` at samples between two rows; out (C * BLOCK)."""
    for c in range(0, channels * BLOCK, BLOCK):
        for j in range(BLOCK):
            a = load(low, c + j)
            store(out, c + j, load(gradient, j) * (a + weight * (load(high, c + j) - a) - load(f, c + j)))


@compiled
def costs_backward(
    first, last, fixed, moving, lowz, highz, wz, lowy, highy, wy, lowx, highx, wx, point, scale, gradient, sizes,
    begin_x, with_moving, g_fixed, g_moving
):  # fmt: skip
    """Gradients of the features from that of the costs, for the blocks first .. last.

    Parameters
    ----------
    fixed ... point
        See :func:`itk_pdd.kernels.costs_cpu.costs`.
    scale : scalar
        Twice the factor of the sums over the channels.
    gradient : flat array
    sizes : tuple
        (Ny, Nx, Dz, Dy, Dx)
    begin_x : array (blocks,)
        First feature voxel along x that a block touches.
    with_moving : bool
        Whether the gradient of the moving features is wanted.
    g_fixed : array (blocks, Nz, Ny, C, points of a block)
    g_moving : array (blocks, Z, Y, C, voxels that a block touches)
        Holds zeros.
    """
    rows, columns, depth, height, width = sizes
    points, channels = fixed.shape[0], moving.shape[2]
    slots, size = columns * width, channels * BLOCK
    one = moving.dtype.type(1)
    features, back = np.empty((rows, size), moving.dtype), np.empty((rows, size), moving.dtype)
    plane, g_plane = np.empty((moving.shape[1], size), moving.dtype), np.empty((moving.shape[1], size), moving.dtype)
    g, difference = np.empty(BLOCK, moving.dtype), np.empty(size, moving.dtype)
    bottom, top = lowz.min(), highz.max() + 1
    slices = np.empty((top - bottom, moving.shape[1], size), moving.dtype)
    g_slices = np.empty(slices.shape if with_moving else (0, 0, 0), moving.dtype)
    for block in range(first, last):
        start = block * BLOCK
        stop = min(start + BLOCK, slots)
        _sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        g_slices[:] = 0
        for kz in range(points):
            _spread(fixed[kz], point, start, features)
            back[:] = 0
            for dz in range(depth):
                w = wz[kz, dz]
                here = slices[lowz[kz, dz] - bottom]
                if w != 0:
                    _blend(here.reshape(-1), slices[highz[kz, dz] - bottom].reshape(-1), w, plane.reshape(-1))
                    here = plane
                g_plane[:] = 0
                for ky in range(rows):
                    f, b = features[ky], back[ky]
                    for dy in range(height):
                        _gather(gradient, kz, ky, dz, dy, start, stop, point, sizes, g)
                        for j in range(BLOCK):
                            store(g, j, load(g, j) * scale)
                        low, high, v = lowy[ky, dy], highy[ky, dy], wy[ky, dy]
                        _differences(here[low], here[high], v, f, g, channels, difference)
                        _add_scaled(difference, -one, b)
                        if with_moving:
                            _add_scaled(difference, one - v, g_plane[low])
                            if v != 0:
                                _add_scaled(difference, v, g_plane[high])
                if with_moving:
                    _add_scaled(g_plane.reshape(-1), one - w, g_slices[lowz[kz, dz] - bottom].reshape(-1))
                    if w != 0:
                        _add_scaled(g_plane.reshape(-1), w, g_slices[highz[kz, dz] - bottom].reshape(-1))
            for ky in range(rows):
                _reduce(back[ky], start, stop, point, g_fixed[block, kz, ky])
        if with_moving:
            for z in range(bottom, top):
                for y in range(moving.shape[1]):
                    source = g_slices[z - bottom, y]
                    for c in range(channels):
                        to = g_moving[block, z, y, c]
                        for j in range(stop - start):
                            value, w = load(source, c * BLOCK + j), wx[start + j]
                            to[lowx[start + j] - begin_x[block]] += (one - w) * value
                            to[highx[start + j] - begin_x[block]] += w * value


@inlined
def _per_slot(values, point, start, out):
    """Repeat numbers (Ny, Nx) of each control point for the slots of the block; out (Ny, BLOCK)."""
    for y in range(values.shape[0]):
        for j in range(BLOCK):
            store(out[y], j, load(values[y], point[start + j]))


@inlined
def _probabilities(c, temperature, log_partition, start, stop, out):
    """Turn the costs of a block's slots into probabilities, 0 for the slots that pad it."""
    for j in range(BLOCK):
        t = -temperature * load(c, j) - load(log_partition, j)
        store(out, j, exponential(t if t < out.dtype.type(0) else out.dtype.type(0)))
    for j in range(stop - start, BLOCK):
        store(out, j, out.dtype.type(0))


@inlined
def _accumulate(low, high, weight, p, channels, out):
    """Add the samples between two rows times the probabilities."""
    for c in range(0, channels * BLOCK, BLOCK):
        for j in range(BLOCK):
            a = load(low, c + j)
            store(out, c + j, load(out, c + j) + load(p, j) * (a + weight * (load(high, c + j) - a)))


@inlined
def _products(low, high, weight, f, channels, out):
    """Sum over the channels of the samples between two rows times ``f``."""
    for j in range(BLOCK):
        store(out, j, low.dtype.type(0))
    for c in range(0, channels * BLOCK, 4 * BLOCK):
        for j in range(BLOCK):
            a0, a1 = load(low, c + j), load(low, c + BLOCK + j)
            a2, a3 = load(low, c + 2 * BLOCK + j), load(low, c + 3 * BLOCK + j)
            v0 = load(f, c + j) * (a0 + weight * (load(high, c + j) - a0))
            v1 = load(f, c + BLOCK + j) * (a1 + weight * (load(high, c + BLOCK + j) - a1))
            v2 = load(f, c + 2 * BLOCK + j) * (a2 + weight * (load(high, c + 2 * BLOCK + j) - a2))
            v3 = load(f, c + 3 * BLOCK + j) * (a3 + weight * (load(high, c + 3 * BLOCK + j) - a3))
            store(out, j, load(out, j) + ((v0 + v1) + (v2 + v3)))


@compiled
def expected(
    first, last, moving, lowz, highz, wz, lowy, highy, wy, lowx, highx, wx, point, costs, temperature, log_partition,
    sizes, out
):  # fmt: skip
    """Expected values for the blocks first .. last.

    Parameters
    ----------
    costs : flat array
    log_partition : array (Nz, Ny, Nx)
    out : array (blocks, Nz, Ny, C, points of a block)
        To be summed over the blocks.
    """
    rows, columns, depth, height, width = sizes
    channels = moving.shape[2]
    slots, size = columns * width, channels * BLOCK
    plane, sums = np.empty((moving.shape[1], size), moving.dtype), np.empty((rows, size), moving.dtype)
    c, p = np.empty(BLOCK, moving.dtype), np.empty(BLOCK, moving.dtype)
    logs = np.empty((rows, BLOCK), moving.dtype)
    bottom, top = lowz.min(), highz.max() + 1
    slices = np.empty((top - bottom, moving.shape[1], size), moving.dtype)
    for block in range(first, last):
        start = block * BLOCK
        stop = min(start + BLOCK, slots)
        _sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        for kz in range(log_partition.shape[0]):
            sums[:] = 0
            _per_slot(log_partition[kz], point, start, logs)
            for dz in range(depth):
                here = slices[lowz[kz, dz] - bottom]
                if wz[kz, dz] != 0:
                    other = slices[highz[kz, dz] - bottom]
                    _blend(here.reshape(-1), other.reshape(-1), wz[kz, dz], plane.reshape(-1))
                    here = plane
                for ky in range(rows):
                    for dy in range(height):
                        _gather(costs, kz, ky, dz, dy, start, stop, point, sizes, c)
                        _probabilities(c, temperature, logs[ky], start, stop, p)
                        low, high = here[lowy[ky, dy]], here[highy[ky, dy]]
                        _accumulate(low, high, wy[ky, dy], p, channels, sums[ky])
            for ky in range(rows):
                _reduce(sums[ky], start, stop, point, out[block, kz, ky])


@compiled
def expected_backward(
    first, last, moving, lowz, highz, wz, lowy, highy, wy, lowx, highx, wx, point, costs, temperature, log_partition,
    gradient, centre, sizes, out
):  # fmt: skip
    """Gradient of the costs from that of the expected values, for the blocks first .. last.

    Parameters
    ----------
    gradient : array (Nz, Ny, C, Nx)
    centre : array (Nz, Ny, Nx)
        Sum over the channels of gradient times expected value.
    out : flat array
    """
    rows, columns, depth, height, width = sizes
    channels = moving.shape[2]
    slots, size = columns * width, channels * BLOCK
    plane, f = np.empty((moving.shape[1], size), moving.dtype), np.empty((rows, size), moving.dtype)
    c, p, h = np.empty(BLOCK, moving.dtype), np.empty(BLOCK, moving.dtype), np.empty(BLOCK, moving.dtype)
    logs, centres = np.empty((rows, BLOCK), moving.dtype), np.empty((rows, BLOCK), moving.dtype)
    bottom, top = lowz.min(), highz.max() + 1
    slices = np.empty((top - bottom, moving.shape[1], size), moving.dtype)
    for block in range(first, last):
        start = block * BLOCK
        stop = min(start + BLOCK, slots)
        _sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        for kz in range(log_partition.shape[0]):
            _spread(gradient[kz], point, start, f)
            _per_slot(log_partition[kz], point, start, logs)
            _per_slot(centre[kz], point, start, centres)
            for dz in range(depth):
                here = slices[lowz[kz, dz] - bottom]
                if wz[kz, dz] != 0:
                    other = slices[highz[kz, dz] - bottom]
                    _blend(here.reshape(-1), other.reshape(-1), wz[kz, dz], plane.reshape(-1))
                    here = plane
                for ky in range(rows):
                    for dy in range(height):
                        _gather(costs, kz, ky, dz, dy, start, stop, point, sizes, c)
                        _probabilities(c, temperature, logs[ky], start, stop, p)
                        low, high = here[lowy[ky, dy]], here[highy[ky, dy]]
                        _products(low, high, wy[ky, dy], f[ky], channels, h)
                        middle = centres[ky]
                        for j in range(BLOCK):
                            store(h, j, -temperature * load(p, j) * (load(h, j) - load(middle, j)))
                        slot = start
                        while slot < stop:
                            kx = point[slot]
                            end = min((kx + 1) * width, stop)
                            shift = (((((kz * rows + ky) * columns + kx) * depth + dz) * height + dy) - kx) * width
                            for i in range(slot, end):
                                store(out, shift + i, load(h, i - start))
                            slot = end
