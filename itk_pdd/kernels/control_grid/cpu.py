"""Displacements on a control grid and on the voxels: up-sampling, restriction, composition. Separable and threaded.

Control point k of a grid with cells of c voxels lies at voxel k c + (c - 1) / 2. Arrays have the axes z, y, x and the
channels last; a 2-D image is one slice with a cell of 1.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from itk_pdd.kernels.parallel import compiled, inlined, run

__all__ = ["compose", "make_consistent", "per_axis", "restrict", "spread", "upsample", "weighted_sums"]


@functools.lru_cache(maxsize=64)
def taps(size: int, cell: int, count: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Control points and weights that make up each voxel of an axis; beyond the last control point it is repeated."""
    position = (np.arange(size) - (cell - 1) / 2) / cell
    low = np.floor(position)
    f = position - low
    if order == 1:
        first, weights = low, np.stack([1 - f, f], axis=1)
    else:
        first = low - 1
        weights = np.stack([(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1) / 6
    index = np.clip(first[:, None].astype(np.int64) + np.arange(weights.shape[1]), 0, count - 1)
    return index, weights.astype(np.float32)


_PART = 4096  # values of the inner axis at a time
_TASKS = 16  # least number of tasks that slices are cut into


@compiled
def _gather(first, last, source, index, weights, out):
    """out[i, o] = sum over taps of weights[o, t] source[i, index[o, t]]; arrays (outer, axis, inner)."""
    outputs, taps = index.shape
    inner = source.shape[2]
    parts = (inner + _PART - 1) // _PART
    for task in range(first, last):
        i, o, part = task // (outputs * parts), (task // parts) % outputs, task % parts
        begin, end = part * _PART, min(inner, (part + 1) * _PART)
        target = out[i, o, begin:end]
        row, weight = source[i, index[o, 0], begin:end], weights[o, 0]
        for k in range(end - begin):
            target[k] = weight * row[k]
        for t in range(1, taps):
            row, weight = source[i, index[o, t], begin:end], weights[o, t]
            for k in range(end - begin):
                target[k] += weight * row[k]


@compiled
def _gather_rows(first, last, parts, source, index_z, weights_z, index_y, weights_y, added, out):
    """Replace both outer axes by weighted sums, first along z, of which only a slice is kept; arrays (z, y, row).

    A task is one of the ``parts`` of a slice of ``out``. ``added`` is added to it; an empty one is none.
    """
    height = out.shape[1]
    length = source.shape[2]
    plane = np.empty(source.shape[1:], np.float32)
    for task in range(first, last):
        z, part = task // parts, task % parts
        begin, end = part * height // parts, (part + 1) * height // parts
        low, high = source.shape[1], -1
        for y in range(begin, end):
            for t in range(index_y.shape[1]):
                if weights_y[y, t] != 0:
                    low, high = min(low, index_y[y, t]), max(high, index_y[y, t])
        for y in range(low, high + 1):
            _weighted_row(source[:, y], index_z[z], weights_z[z], length, plane[y])
        for y in range(begin, end):
            target = out[z, y]
            _weighted_row(plane, index_y[y], weights_y[y], length, target)
            if added.shape[0] > 0:
                row = added[z, y]
                for k in range(length):
                    target[k] += row[k]


@inlined
def _weighted_row(rows, index, weights, length, out):
    """Set ``out`` to a weighted sum of rows; those of no weight are not read."""
    weight, row = weights[0], rows[index[0]]
    for k in range(length):
        out[k] = weight * row[k]
    for t in range(1, len(index)):
        weight, row = weights[t], rows[index[t]]
        if weight != 0:
            for k in range(length):
                out[k] += weight * row[k]


@functools.lru_cache(maxsize=64)
def adjoint_taps(size: int, cell: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and weights that make up each control point of an axis in the adjoint of cubic interpolation."""
    index, weights = taps(size, cell, count, 3)
    matrix = np.zeros((count, size), np.float32)
    np.add.at(matrix, (index, np.arange(size)[:, None]), weights)
    most = int(np.count_nonzero(matrix, axis=1).max())
    # In the order of memory of the other taps: kernels are compiled for one.
    voxels = np.ascontiguousarray(np.argsort(matrix == 0, axis=1, kind="stable")[:, :most])
    return voxels, np.take_along_axis(matrix, voxels, axis=1)


def upsample(
    control: np.ndarray,
    cell: tuple[int, ...],
    shape: tuple[int, ...],
    *,
    order: int = 3,
    scratch: dict[object, np.ndarray] | None = None,
    added: np.ndarray | None = None,
) -> np.ndarray:
    """Values of a control grid at the voxels.

    Parameters
    ----------
    control : numpy.ndarray
        float32, shape (kz, ky, kx, channels).
    cell : tuple of int
        Voxels per control point along z, y, x.
    shape : tuple of int
        Voxels along z, y, x.
    order : {1, 3}
        1 interpolates linearly; 3 takes the control points as coefficients of a cubic B-spline, which is smooth and
        therefore does not reach isolated extremes.
    scratch : dict, optional
        Keeps memory from one call to the next, of this or of :func:`spread`, as fresh memory takes longer to get than
        to fill. The result is part of it: the next call writes over it.
    added : numpy.ndarray, optional
        float32, shape of the result, contiguous: added to it.

    Returns
    -------
    numpy.ndarray
        float32, shape (*shape, channels).
    """
    control = np.ascontiguousarray(control, dtype=np.float32)
    (z, y, x) = (taps(size, c, count, order) for size, c, count in zip(shape, cell, control.shape, strict=False))
    # Along the fastest axis first: only the smallest array is walked in short steps.
    return _along_slices(_along(control, 2, *x, scratch), *z, *y, scratch, added)


def spread(
    voxels: np.ndarray,
    cell: tuple[int, ...],
    control: tuple[int, ...],
    *,
    scratch: dict[object, np.ndarray] | None = None,
) -> np.ndarray:
    """The adjoint of cubic :func:`upsample`: sums of voxel values (a gradient, say) per control point.

    ``control`` is the shape of the control grid; the rest is as there.
    """
    voxels = np.ascontiguousarray(voxels, dtype=np.float32)
    (z, y, x) = (adjoint_taps(*each) for each in zip(voxels.shape[:3], cell, control, strict=True))
    return _along(_along_slices(voxels, *z, *y, scratch), 2, *x, scratch)


def weighted_sums(array: np.ndarray, axis: int, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Replace an axis by sums over some of its items.

    Parameters
    ----------
    array : numpy.ndarray
        float32, contiguous.
    axis : int
        The axis.
    index, weights : numpy.ndarray
        Which items make up each new one (int64), and how much of each (float32), shape (new, taps).
    """
    return _along(array, axis, index, weights)


def _along(
    array: np.ndarray,
    axis: int,
    index: np.ndarray,
    weights: np.ndarray,
    scratch: dict[object, np.ndarray] | None = None,
) -> np.ndarray:
    outer, inner = int(np.prod(array.shape[:axis])), int(np.prod(array.shape[axis + 1 :]))
    out = _memory(scratch, "along", (*array.shape[:axis], len(index), *array.shape[axis + 1 :]))
    tasks = outer * len(index) * -(-inner // _PART)
    source, target = array.reshape(outer, array.shape[axis], inner), out.reshape(outer, len(index), inner)
    run(_gather, tasks, source, index, weights, target, grain=16)
    return out


def _along_slices(
    array: np.ndarray,
    index_z: np.ndarray,
    weights_z: np.ndarray,
    index_y: np.ndarray,
    weights_y: np.ndarray,
    scratch: dict[object, np.ndarray] | None,
    added: np.ndarray | None = None,
) -> np.ndarray:
    """Replace the axes z and y by sums over some of their items, see :func:`weighted_sums`."""
    depth, height = len(index_z), len(index_y)
    out = _memory(scratch, "slices", (depth, height, *array.shape[2:]))
    parts = min(height, -(-_TASKS // depth))
    rest = np.empty((0, 0, 0), np.float32)
    if added is not None:
        rest = np.ascontiguousarray(added).reshape(depth, height, -1)
    source, target = array.reshape(*array.shape[:2], -1), out.reshape(depth, height, -1)
    run(_gather_rows, depth * parts, parts, source, index_z, weights_z, index_y, weights_y, rest, target)
    return out


def _memory(scratch: dict[object, np.ndarray] | None, use: str, shape: tuple[int, ...]) -> np.ndarray:
    """Get memory for a result of some use."""
    # There and back there are arrays of the same shapes.
    key = use, shape
    out = None if scratch is None else scratch.get(key)
    if out is None:
        out = np.empty(shape, np.float32)
        if scratch is not None:
            scratch[key] = out
    return out


@compiled
def _means(first, last, voxels, cell, grid, out):
    depth, height, width, channels = voxels.shape
    for task in range(first, last):
        kz, ky = task // grid[1], task % grid[1]
        z1, y1 = min(depth, (kz + 1) * cell[0]), min(height, (ky + 1) * cell[1])
        row = out[kz, ky]
        row[:] = 0
        for z in range(kz * cell[0], z1):
            for y in range(ky * cell[1], y1):
                for kx in range(grid[2]):
                    for x in range(kx * cell[2], min(width, (kx + 1) * cell[2])):
                        for c in range(channels):
                            row[kx, c] += voxels[z, y, x, c]
        rows = (z1 - kz * cell[0]) * (y1 - ky * cell[1])
        for kx in range(grid[2]):
            share = np.float32(1) / np.float32(rows * (min(width, (kx + 1) * cell[2]) - kx * cell[2]))
            for c in range(channels):
                row[kx, c] *= share


def per_axis(value: int, dimension: int) -> tuple[int, int, int]:
    """A number for each axis z, y, x of an image of 2 or 3 dimensions; 1 for the missing axis of a 2-D one."""
    return (value if dimension == 3 else 1, value, value)


def restrict(voxels: np.ndarray, cell: tuple[int, ...]) -> np.ndarray:
    """Mean of each cell, shape (kz, ky, kx, ...); an incomplete cell at the end counts what it has."""
    source = np.ascontiguousarray(voxels, dtype=np.float32)
    source = source.reshape(*source.shape[:3], -1)
    grid = [-(-n // c) for n, c in zip(source.shape, cell, strict=False)]
    out = np.empty((*grid, source.shape[3]), np.float32)
    run(_means, grid[0] * grid[1], source, np.asarray(cell, np.int64), np.asarray(grid, np.int64), out, grain=4)
    return out.reshape(*grid, *voxels.shape[3:])


@compiled
def _pull(first, last, outer, inner, weight_outer, weight_inner, out):
    """out = weight_inner * inner(x) + weight_outer * outer(x + inner(x)), linear, border replicated."""
    height, width = inner.shape[1:3]
    size_z, size_y, size_x, channels = outer.shape
    for z in range(first, last):
        for y in range(height):
            for x in range(width):
                px = min(max(x + inner[z, y, x, 0], np.float32(0)), np.float32(size_x - 1))
                py = min(max(y + inner[z, y, x, 1], np.float32(0)), np.float32(size_y - 1))
                pz = min(max(z + inner[z, y, x, 2], np.float32(0)), np.float32(size_z - 1))
                x0, y0, z0 = int(px), int(py), int(pz)
                x1, y1, z1 = min(x0 + 1, size_x - 1), min(y0 + 1, size_y - 1), min(z0 + 1, size_z - 1)
                fx, fy, fz = np.float32(px - x0), np.float32(py - y0), np.float32(pz - z0)
                for c in range(channels):
                    a = outer[z0, y0, x0, c] + fx * (outer[z0, y0, x1, c] - outer[z0, y0, x0, c])
                    b = outer[z0, y1, x0, c] + fx * (outer[z0, y1, x1, c] - outer[z0, y1, x0, c])
                    low = a + fy * (b - a)
                    a = outer[z1, y0, x0, c] + fx * (outer[z1, y0, x1, c] - outer[z1, y0, x0, c])
                    b = outer[z1, y1, x0, c] + fx * (outer[z1, y1, x1, c] - outer[z1, y1, x0, c])
                    value = low + fz * (a + fy * (b - a) - low)
                    out[z, y, x, c] = weight_inner * inner[z, y, x, c] + weight_outer * value


def compose(outer: np.ndarray, inner: np.ndarray, *, weights: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """Composition of two fields in voxels, "inner, then outer": inner(x) + outer(x + inner(x)).

    Parameters
    ----------
    outer, inner : numpy.ndarray
        float32, shape (z, y, x, 3), components x, y, z in voxels of the common grid; beyond it the border counts.
    weights : tuple of float
        Factors of the two terms, outer first.
    """
    out = np.empty_like(inner)
    run(_pull, len(inner), outer, inner, np.float32(weights[0]), np.float32(weights[1]), out, grain=2)
    return out


def make_consistent(forward: Any, backward: Any, *, iterations: int, compose: Callable = compose) -> tuple[Any, Any]:
    """Move two fields of opposite directions towards being inverse to each other.

    Each iteration replaces both by the mean of themselves and of the inverse that the other one stands for,
    u <- (u - v(x + u)) / 2: fields that fold have no inverse, so that folds disappear.

    Parameters
    ----------
    forward, backward : numpy.ndarray
        float32, shape (z, y, x, 3), components x, y, z in voxels of the common grid.
    iterations : int
        More are more consistent, and smoother.
    compose : callable
        Composes such fields: :func:`compose`, or what does the same for tensors.

    References
    ----------
    Heinrich M.P. et al., "Estimating large lung motion in COPD patients by symmetric regularised correspondence
    fields", MICCAI workshop 2015.
    """
    for _ in range(iterations):
        forward, backward = (
            compose(backward, forward, weights=(-0.5, 0.5)),
            compose(forward, backward, weights=(-0.5, 0.5)),
        )
    return forward, backward
