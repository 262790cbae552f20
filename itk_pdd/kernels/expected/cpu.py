"""Values of a map expected under a distribution, on the CPU.

See :mod:`itk_pdd.kernels.slots` for the order of the loops. A block of slots along x belongs to one thread; what it
adds to the values goes to an array of its own. These are summed in a fixed order, so the result does not depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from itk_pdd.kernels.arithmetic import exponential, load, store
from itk_pdd.kernels.moments.cpu import moments
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

__all__ = ["expected_values", "expected_values_backward", "moments"]


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
def _expected(
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
        sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        for kz in range(log_partition.shape[0]):
            sums[:] = 0
            _per_slot(log_partition[kz], point, start, logs)
            for dz in range(depth):
                here = slices[lowz[kz, dz] - bottom]
                if wz[kz, dz] != 0:
                    other = slices[highz[kz, dz] - bottom]
                    blend(here.reshape(-1), other.reshape(-1), wz[kz, dz], plane.reshape(-1))
                    here = plane
                for ky in range(rows):
                    for dy in range(height):
                        gather(costs, kz, ky, dz, dy, start, stop, point, sizes, c)
                        _probabilities(c, temperature, logs[ky], start, stop, p)
                        low, high = here[lowy[ky, dy]], here[highy[ky, dy]]
                        _accumulate(low, high, wy[ky, dy], p, channels, sums[ky])
            for ky in range(rows):
                reduce(sums[ky], start, stop, point, out[block, kz, ky])


@compiled
def _expected_backward(
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
        sample_block(moving, lowx, highx, wx, start, bottom, top, slices)
        for kz in range(log_partition.shape[0]):
            spread(gradient[kz], point, start, f)
            _per_slot(log_partition[kz], point, start, logs)
            _per_slot(centre[kz], point, start, centres)
            for dz in range(depth):
                here = slices[lowz[kz, dz] - bottom]
                if wz[kz, dz] != 0:
                    other = slices[highz[kz, dz] - bottom]
                    blend(here.reshape(-1), other.reshape(-1), wz[kz, dz], plane.reshape(-1))
                    here = plane
                for ky in range(rows):
                    for dy in range(height):
                        gather(costs, kz, ky, dz, dy, start, stop, point, sizes, c)
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


def expected_values(
    costs: Tensor,
    temperature: float,
    log_partition: Tensor,
    moving: Tensor,
    coordinates: Sequence[Tensor],
) -> Tensor:
    """Expected values of a map, (L, *control points)."""
    dtype = moving.numpy().dtype
    table = SlotTable(coordinates, moving.shape[1:], dtype)
    rows = rows_of(moving)
    parts = parts_of(table, rows.shape[2], dtype)
    run(
        _expected,
        table.blocks,
        rows,
        *table.z,
        *table.y,
        *table.x,
        table.point,
        flat(costs),
        dtype.type(temperature),
        log_partition.numpy().reshape(table.points),
        table.sizes,
        parts,
    )
    return collect(parts, table, len(moving), moving.ndim - 1)


def expected_values_backward(
    costs: Tensor,
    temperature: float,
    log_partition: Tensor,
    moving: Tensor,
    coordinates: Sequence[Tensor],
    values: Tensor,
    gradient: Tensor,
) -> Tensor:
    """Gradient of the costs from that of the expected ``values``."""
    dtype = moving.numpy().dtype
    table = SlotTable(coordinates, moving.shape[1:], dtype)
    out = empty(costs.shape, costs)
    run(
        _expected_backward,
        table.blocks,
        rows_of(moving),
        *table.z,
        *table.y,
        *table.x,
        table.point,
        flat(costs),
        dtype.type(temperature),
        log_partition.numpy().reshape(table.points),
        rows_of(gradient),
        (values * gradient).sum(dim=0).numpy().reshape(table.points),
        table.sizes,
        flat(out),
    )
    return out
