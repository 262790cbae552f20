"""Displacement costs on the CPU, forward and backward; see :mod:`itk_pdd.kernels.slots` for the order of the loops.

On the way back a block of slots along x belongs to one thread; what it adds to the features goes to an array of its
own. These are summed in a fixed order, so the result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from itk_pdd.kernels.arithmetic import load, store
from itk_pdd.kernels.parallel import compiled, inlined, run
from itk_pdd.kernels.slots import (
    BLOCK,
    SlotTable,
    blend,
    collect,
    gather,
    parts_of,
    reduce,
    rows_of,
    sample_block,
    spread,
)
from itk_pdd.kernels.tensors import empty, flat
from itk_pdd.kernels.threads import threads

__all__ = ["displacement_costs", "displacement_costs_backward"]


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
def _costs(first, last, parts, fixed, moving, lowz, highz, wz, lowy, highy, wy, lowx, highx, wx, point, scale, out):
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
        sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        for kz in range(from_z, to_z):
            spread(fixed[kz], point, start, features)
            for dz in range(depth):
                here = slices[lowz[kz, dz] - bottom]
                if wz[kz, dz] != 0:
                    other = slices[highz[kz, dz] - bottom]
                    blend(here.reshape(-1), other.reshape(-1), wz[kz, dz], plane.reshape(-1))
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


@inlined
def _add_scaled(values, weight, out):
    for i in range(out.size):
        store(out, i, load(out, i) + weight * load(values, i))


@inlined
def _differences(low, high, weight, f, gradient, channels, out):
    """``gradient * (sample - fixed)`` at samples between two rows; out (C * BLOCK)."""
    for c in range(0, channels * BLOCK, BLOCK):
        for j in range(BLOCK):
            a = load(low, c + j)
            store(out, c + j, load(gradient, j) * (a + weight * (load(high, c + j) - a) - load(f, c + j)))


@compiled
def _costs_backward(
    first, last, fixed, moving, lowz, highz, wz, lowy, highy, wy, lowx, highx, wx, point, scale, gradient, sizes,
    begin_x, with_moving, g_fixed, g_moving
):  # fmt: skip
    """Gradients of the features from that of the costs, for the blocks first .. last.

    Parameters
    ----------
    fixed ... point
        See :func:`_costs`.
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
        sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        g_slices[:] = 0
        for kz in range(points):
            spread(fixed[kz], point, start, features)
            back[:] = 0
            for dz in range(depth):
                w = wz[kz, dz]
                here = slices[lowz[kz, dz] - bottom]
                if w != 0:
                    blend(here.reshape(-1), slices[highz[kz, dz] - bottom].reshape(-1), w, plane.reshape(-1))
                    here = plane
                g_plane[:] = 0
                for ky in range(rows):
                    f, b = features[ky], back[ky]
                    for dy in range(height):
                        gather(gradient, kz, ky, dz, dy, start, stop, point, sizes, g)
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
                reduce(back[ky], start, stop, point, g_fixed[block, kz, ky])
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


def _parts(table: SlotTable) -> int:
    """Into how many parts to cut the control points along z, so that there is work for all threads."""
    return max(1, min(table.points[0], -(-threads() // table.blocks)))


def displacement_costs(samples: Tensor, moving: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
    """Mean squared differences.

    Parameters
    ----------
    samples : Tensor, shape (C, *control points)
        Fixed features at the control points.
    moving : Tensor, shape (C, *spatial)
    coordinates : sequence of Tensor, shape (control points, displacements) each
        Where to sample the moving features along the axes (z,) y, x.
    """
    dtype = moving.numpy().dtype
    table = SlotTable(coordinates, moving.shape[1:], dtype)
    out = empty((*samples.shape[1:], *[c.shape[1] for c in coordinates]), moving)
    parts = _parts(table)
    run(
        _costs,
        table.blocks * parts,
        parts,
        rows_of(samples),
        rows_of(moving),
        *table.z,
        *table.y,
        *table.x,
        table.point,
        dtype.type(1 / len(moving)),
        out.numpy().reshape(*table.points, *table.shape),
    )
    return out


def displacement_costs_backward(
    samples: Tensor,
    moving: Tensor,
    coordinates: Sequence[Tensor],
    gradient: Tensor,
    *,
    with_moving: bool,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the fixed samples and, if wanted, of the moving features."""
    dtype = moving.numpy().dtype
    table = SlotTable(coordinates, moving.shape[1:], dtype)
    fixed, rows = rows_of(samples), rows_of(moving)
    low, high = [t.reshape(table.blocks, BLOCK) for t in table.x[:2]]
    # The slots that pad the last block touch nothing.
    used = np.arange(table.blocks * BLOCK).reshape(table.blocks, BLOCK) < table.slots
    begin = np.where(used, low, low.max()).min(axis=1)
    reach = int((np.where(used, high, 0).max(axis=1) - begin).max()) + 1
    g_fixed = parts_of(table, fixed.shape[2], dtype)
    g_moving = np.zeros((table.blocks, *rows.shape[:3], reach) if with_moving else (1, 1, 1, 1, 1), dtype)
    run(
        _costs_backward,
        table.blocks,
        fixed,
        rows,
        *table.z,
        *table.y,
        *table.x,
        table.point,
        dtype.type(2 / len(moving)),
        flat(gradient),
        table.sizes,
        begin,
        with_moving,
        g_fixed,
        g_moving,
    )
    channels, dimension = len(moving), moving.ndim - 1
    back = collect(g_fixed, table, channels, dimension)
    if not with_moving:
        return back, None
    result = np.zeros(rows.shape, dtype)
    for part, first in zip(g_moving, begin, strict=True):
        count = min(reach, rows.shape[3] - first)
        result[..., first : first + count] += part[..., :count]
    result = result[:, :, :channels].transpose(2, 0, 1, 3)
    return back, torch.from_numpy(np.ascontiguousarray(result)).view(moving.shape)
