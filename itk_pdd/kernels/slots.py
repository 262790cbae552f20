"""The samples of a map at every control point plus every displacement, in blocks of positions along x (CPU).

The samples are never stored. Linear interpolation on a regular grid is separable: a block of ``BLOCK`` positions along
x (a *slot* is one control point with one displacement) is interpolated for the whole map, from that a plane for each
position along z, and the samples lie between two rows of the plane. Channels are outside and slots inside: the
innermost loops have a constant length and nothing to sum across, which compilers turn into vector code. Everything a
block needs fits into the cache of its core.

Arrays: fixed (Nz, Ny, C, Nx) are samples at the control points, moving (Z, Y, C, X) is the map; C is a multiple of 4
(zeros appended). Tables hold for each slot of an axis the lower and the upper index and the weight of the upper one.
Two-dimensional problems are three-dimensional ones with a single control point, displacement and voxel along z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from itk_pdd.kernels.arithmetic import load, store
from itk_pdd.kernels.parallel import inlined

__all__ = [
    "BLOCK",
    "SlotTable",
    "blend",
    "collect",
    "gather",
    "parts_of",
    "reduce",
    "rows_of",
    "sample_block",
    "spread",
]

BLOCK = 64
"""Slots of a block."""


@inlined
def sample_block(moving, low, high, weight, start, first, last, out):
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
def blend(a, b, weight, out):
    """``out = a + weight (b - a)`` for contiguous 1-D arrays."""
    for i in range(out.size):
        store(out, i, load(a, i) + weight * (load(b, i) - load(a, i)))


@inlined
def spread(fixed, point, start, out):
    """Repeat the features (Ny, C, Nx) of each control point for the slots of the block; out (Ny, C * BLOCK)."""
    for y in range(fixed.shape[0]):
        to = out[y]
        for c in range(fixed.shape[1]):
            row = fixed[y, c]
            for j in range(BLOCK):
                store(to, c * BLOCK + j, load(row, point[start + j]))


@inlined
def gather(source, kz, ky, dz, dy, start, stop, point, sizes, out):
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
def reduce(values, start, stop, point, out):
    """Sum numbers (C * BLOCK) over the slots of each control point; out (C, points of the block)."""
    for c in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[c, i] = 0
        for slot in range(start, stop):
            out[c, point[slot] - point[start]] += load(values, c * BLOCK + slot - start)


class SlotTable:
    """Indices and weights of all samples, for maps with a leading z axis.

    Parameters
    ----------
    coordinates : sequence of Tensor, shape (control points, displacements) each
        Indices into the map along the axes (z,) y, x.
    size : sequence of int
        Shape of the map, (z,) y, x.
    dtype : numpy.dtype
        Of the weights.
    """

    def __init__(self, coordinates: Sequence[Tensor], size: Sequence[int], dtype: np.dtype) -> None:
        coordinates = [np.zeros((1, 1))] * (3 - len(coordinates)) + [c.numpy() for c in coordinates]
        size = [1] * (3 - len(size)) + list(size)
        self.points = tuple(c.shape[0] for c in coordinates)
        self.shape = tuple(c.shape[1] for c in coordinates)
        self.slots = self.points[2] * self.shape[2]
        self.blocks = -(-self.slots // BLOCK)
        tables = []
        for along, n in zip(coordinates, size, strict=True):
            clamped = np.clip(along, 0, n - 1)
            low = clamped.astype(np.int64)
            weight = (clamped - low).astype(dtype)
            tables.append([low, np.minimum(low + 1, n - 1), weight])
        padding = self.blocks * BLOCK - self.slots
        tables[2] = [np.pad(t.ravel(), (0, padding)) for t in tables[2]]
        self.z, self.y, self.x = tables
        self.first = np.arange(self.blocks) * BLOCK
        self.sizes = (*self.points[1:], *self.shape)
        self.point = np.minimum(np.arange(self.blocks * BLOCK) // self.shape[2], self.points[2] - 1)


def rows_of(values: Tensor) -> np.ndarray:
    """A map (C, (z,) y, x) as an array (z, y, C, x) with zeros appended to a multiple of 4 channels."""
    if values.ndim == 3:
        values = values[:, None]
    channels, depth, height, width = values.shape
    result = np.zeros((depth, height, -(-channels // 4) * 4, width), values.numpy().dtype)
    result[:, :, :channels] = values.permute(1, 2, 0, 3).numpy()
    return result


def collect(parts: np.ndarray, table: SlotTable, channels: int, dimension: int) -> Tensor:
    """Sum what the blocks contributed to each control point; (C, *control points)."""
    result = np.zeros((*table.points[:2], channels, table.points[2]), parts.dtype)
    for part, slot in zip(parts, table.first, strict=True):
        first = table.point[slot]
        count = min(parts.shape[-1], table.points[2] - first)
        result[..., first : first + count] += part[:, :, :channels, :count]
    return torch.from_numpy(np.ascontiguousarray(result.transpose(2, 0, 1, 3)[(slice(None), *[0] * (3 - dimension))]))


def parts_of(table: SlotTable, channels: int, dtype: np.dtype) -> np.ndarray:
    most = int((table.point[table.first + BLOCK - 1] - table.point[table.first]).max()) + 1
    return np.empty((table.blocks, *table.points[:2], channels, most), dtype)
