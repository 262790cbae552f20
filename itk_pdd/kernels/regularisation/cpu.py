"""Min-convolution on the CPU, forward and backward; the mean field is in :mod:`.mean_field_cpu`.

All displacements of one control point stay in the first-level cache. Minimum and average are separable; rows are stored
with room for borders (``stride``, Dx + 8 or a little more), so that every step is one loop over contiguous memory that
needs no case for the ends. What the loops compute between the rows is never looked at.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from itk_pdd.kernels.arithmetic import LANES, add_scaled, average_of_five, load, lowest_of_three, repeat, store
from itk_pdd.kernels.parallel import compiled, inlined, run
from itk_pdd.kernels.regularisation.mean_field_cpu import mean_field
from itk_pdd.kernels.tensors import empty, flat

__all__ = ["mean_field", "min_convolution", "min_convolution_backward"]

BORDER = 4
_GRAIN = 64  # control points a thread takes at a time


@inlined
def _stride(width):
    """Length of a row with its borders, a multiple of ``LANES``."""
    return (width + 2 * BORDER + LANES - 1) // LANES * LANES


@inlined
def _minimum(a, ia, b, ib, c, ic, out, io, count):
    """``out = min(a, b, c)`` of ``count`` numbers, a multiple of ``LANES``, from the given places on."""
    for i in range(0, count, LANES):
        lowest_of_three(a, ia + i, b, ib + i, c, ic + i, out, io + i)


@inlined
def _average(a, ia, b, ib, c, ic, d, id_, e, ie, out, io, count, ninth):
    """``out = (a + 2 b + 3 c + 2 d + e) / 9``, as :func:`_minimum`."""
    for i in range(0, count, LANES):
        average_of_five(a, ia + i, b, ib + i, c, ic + i, d, id_ + i, e, ie + i, out, io + i, ninth)


@inlined
def _fill(out, start, count, value):
    for i in range(count):
        store(out, start + i, value)


@inlined
def _copy(a, ia, out, io, count):
    for i in range(count):
        store(out, io + i, load(a, ia + i))


@inlined
def _copy_lanes(a, ia, out, io, count):
    """Copy numbers, a multiple of ``LANES`` of them."""
    for j in range(0, count, LANES):
        add_scaled(a, ia + j, a, ia + j, a.dtype.type(0), out, io + j)


@inlined
def _add_rows(a, ia, b, ib, factor, out, io, count):
    """``out = a + factor * b`` for a row of any length: the last piece overlaps the one before if it does not fit."""
    if count >= LANES:
        for j in range(0, count - LANES, LANES):
            add_scaled(a, ia + j, b, ib + j, factor, out, io + j)
        end = count - LANES
        add_scaled(a, ia + end, b, ib + end, factor, out, io + end)
    elif factor == a.dtype.type(0):
        _copy(a, ia, out, io, count)
    else:
        for i in range(count):
            store(out, io + i, load(a, ia + i) + factor * load(b, ib + i))


@inlined
def _copy_row(a, ia, out, io, count):
    """Copy a row of any length."""
    _add_rows(a, ia, a, ia, a.dtype.type(0), out, io, count)


@inlined
def _pad(costs, smoothed, factor, source, out, to, width):
    """Copy a row of ``costs + factor * smoothed`` with 3 copies of its ends on either side.

    What is written beyond them is covered by the next row.
    """
    zero = costs.dtype.type(0)
    first, last = load(costs, source), load(costs, source + width - 1)
    if factor != zero:
        first += factor * load(smoothed, source)
        last += factor * load(smoothed, source + width - 1)
    repeat(first, out, to)
    _add_rows(costs, source, smoothed, source, factor, out, to + 3, width)
    repeat(last, out, to + 3 + width)


@inlined
def _minima(costs, at, smoothed, factor, shape, padded, across, down):
    """Minima over x, then over x and y, of the costs (plus ``factor * smoothed``) of one control point.

    Each step goes over all slices before the next begins: reading at once what was just written would have to wait.

    Parameters
    ----------
    at : int
        Where the control point begins in ``costs`` and ``smoothed``.
    padded, across : arrays (Dz * Dy * stride + 8)
        Costs with replicated borders; minima over x, entry i of a row at x = i - 2.
    down : array (Dz * (Dy + 4) * stride)
        Minima over x and y, row r of a slice at y = r - 2.
    """
    depth, height, width = shape
    stride = _stride(width)
    for row in range(depth * height):
        _pad(costs, smoothed, factor, at + row * width, padded, row * stride, width)
    _minimum(padded, 0, padded, 1, padded, 2, across, 0, depth * height * stride)
    for z in range(depth):
        source, to = z * height * stride, z * (height + 4) * stride
        last = source + (height - 1) * stride
        for r in (0, 1):
            _copy_lanes(across, source, down, to + r * stride, stride)
            _copy_lanes(across, last, down, to + (height + 2 + r) * stride, stride)
        second = source + min(1, height - 1) * stride
        _minimum(across, source, across, source, across, second, down, to + 2 * stride, stride)
        if height > 1:
            before = last - stride
            _minimum(across, before, across, last, across, last, down, to + (height + 1) * stride, stride)
        if height > 2:
            inner = (height - 2) * stride
            _minimum(across, source, across, source + stride, across, source + 2 * stride, down, to + 3 * stride, inner)


@inlined
def _min_convolutions(first, last, costs, smoothed, factor, shape, buffers, out):
    """The loop of :func:`_min_convolution`."""
    depth, height, width = shape
    stride = _stride(width)
    area, slab, plane = height * width, (height + 4) * stride, height * stride
    ninth = costs.dtype.type(1) / costs.dtype.type(9)
    padded, across, down, deep, mean, half = buffers
    for point in range(first, last):
        at = point * depth * area
        _minima(costs, at, smoothed, factor, shape, padded, across, down)
        for z in range(depth):
            a, b = max(z - 1, 0) * slab, min(z + 1, depth - 1) * slab
            _minimum(down, a, down, z * slab, down, b, deep, z * slab, slab)
        end = (depth - 1) * slab
        for z in range(depth):
            # Beyond the ends the minimum was taken over copies of the end slice.
            a, ia = (deep, (z - 2) * slab) if z > 1 else (down, 0)
            b, ib = (deep, (z - 1) * slab) if z > 0 else (down, 0)
            d, id_ = (deep, (z + 1) * slab) if z < depth - 1 else (down, end)
            e, ie = (deep, (z + 2) * slab) if z < depth - 2 else (down, end)
            _average(a, ia, b, ib, deep, z * slab, d, id_, e, ie, mean, 0, slab, ninth)
            _average(mean, 0, mean, stride, mean, 2 * stride, mean, 3 * stride, mean, 4 * stride, half, 0, plane, ninth)
            # The averages over x may overwrite the averages over z: those are needed no more.
            _average(half, 0, half, 1, half, 2, half, 3, half, 4, mean, 0, plane, ninth)
            for y in range(height):
                _copy_row(mean, y * stride, out, at + z * area + y * width, width)


@compiled
def _min_convolution(first, last, costs, smoothed, factor, shape, out):
    """Min-convolution of the control points first .. last.

    Parameters
    ----------
    costs, smoothed, out : flat arrays
        What is smoothed is ``costs + factor * smoothed``, ``costs`` alone for a factor of zero; ``out`` may be either.
    shape : tuple of 3 int
        Number of displacements along z, y, x.
    """
    depth, height, width = shape
    stride = _stride(width)
    slab, plane = (height + 4) * stride, height * stride
    padded = np.zeros(depth * plane + 2 * BORDER, costs.dtype)
    across = np.zeros_like(padded)
    down = np.zeros(depth * slab, costs.dtype)
    deep = np.zeros(depth * slab, costs.dtype)
    mean = np.zeros(slab, costs.dtype)
    half = np.zeros(plane + 2 * BORDER, costs.dtype)
    buffers = (padded, across, down, deep, mean, half)
    _min_convolutions(first, last, costs, smoothed, factor, shape, buffers, out)


@inlined
def _give_first(a, ia, b, ib, c, ic, g, ig, out, io, count):
    """Add the gradient of ``min(a, b, c)`` to that of ``a`` where it is the minimum."""
    for i in range(count):
        m = load(a, ia + i)
        chosen = (m <= load(b, ib + i)) & (m <= load(c, ic + i))
        store(out, io + i, load(out, io + i) + (load(g, ig + i) if chosen else out.dtype.type(0)))


@inlined
def _give_second(a, ia, b, ib, c, ic, g, ig, out, io, count):
    """... to that of ``b`` where it is the minimum and ``a`` is not."""
    for i in range(count):
        m = load(b, ib + i)
        chosen = (m < load(a, ia + i)) & (m <= load(c, ic + i))
        store(out, io + i, load(out, io + i) + (load(g, ig + i) if chosen else out.dtype.type(0)))


@inlined
def _give_third(a, ia, b, ib, c, ic, g, ig, out, io, count):
    """... to that of ``c`` where it is the minimum and neither of the others is."""
    for i in range(count):
        m = load(c, ic + i)
        chosen = (m < load(a, ia + i)) & (m < load(b, ib + i))
        store(out, io + i, load(out, io + i) + (load(g, ig + i) if chosen else out.dtype.type(0)))


@inlined
def _add(a, ia, out, io, count):
    for i in range(count):
        store(out, io + i, load(out, io + i) + load(a, ia + i))


@inlined
def _give(values, a, b, c, g, ig, out, count):
    """Add the gradient of the minimum of three places in ``values`` to that of the first place that has it."""
    _give_first(values, a, values, b, values, c, g, ig, out, a, count)
    _give_second(values, a, values, b, values, c, g, ig, out, b, count)
    _give_third(values, a, values, b, values, c, g, ig, out, c, count)


@compiled
def _min_convolution_backward(first, last, costs, smoothed, factor, shape, gradient, out):
    """Gradient of the costs from the gradient of the result, for the control points first .. last.

    Parameters
    ----------
    costs, smoothed, factor, shape
        As given to :func:`_min_convolution`.
    gradient, out : flat arrays
        May be the same.
    """
    depth, height, width = shape
    stride = _stride(width)
    size, slab, plane = depth * height * width, (height + 4) * stride, height * stride
    ninth, zero = costs.dtype.type(1) / costs.dtype.type(9), costs.dtype.type(0)
    padded = np.zeros(depth * plane + 2 * BORDER, costs.dtype)
    across = np.zeros_like(padded)
    down = np.zeros(depth * slab, costs.dtype)
    # With four rows or slices of zeros before and after, the transpose of an average is an average.
    spread = np.zeros(plane + 2 * BORDER, costs.dtype)
    half = np.zeros(plane + 8 * stride, costs.dtype)
    # Gradients of the averages over x and y, of all three, of the minima over y and z, over z, over none.
    g_mean = np.zeros((depth + 8) * slab, costs.dtype)
    g_deep = np.zeros((depth + 4) * slab, costs.dtype)
    g_down = np.zeros(depth * slab, costs.dtype)
    g_across = np.zeros_like(padded)
    g_padded = np.zeros_like(padded)
    for point in range(first, last):
        _minima(costs, point * size, smoothed, factor, shape, padded, across, down)
        for z in range(depth):
            source = point * size + z * height * width
            for y in range(height):
                _copy_row(gradient, source + y * width, spread, y * stride + BORDER, width)
            a, b, c, d, e = 0, stride, 2 * stride, 3 * stride, 4 * stride
            _average(spread, 0, spread, 1, spread, 2, spread, 3, spread, 4, half, e, plane, ninth)
            _average(half, a, half, b, half, c, half, d, half, e, g_mean, (z + 4) * slab, slab, ninth)
        a, b, c, d, e = 0, slab, 2 * slab, 3 * slab, 4 * slab
        _average(g_mean, a, g_mean, b, g_mean, c, g_mean, d, g_mean, e, g_deep, 0, (depth + 4) * slab, ninth)

        _fill(g_down, 0, depth * slab, zero)
        end = (depth - 1) * slab
        for z in (0, 1):
            _add(g_deep, z * slab, g_down, 0, slab)
            _add(g_deep, (depth + 2 + z) * slab, g_down, end, slab)
        for z in range(depth):
            before, after = max(z - 1, 0) * slab, min(z + 1, depth - 1) * slab
            _give(down, before, z * slab, after, g_deep, (z + 2) * slab, g_down, slab)

        _fill(g_across, 0, depth * plane, zero)
        for z in range(depth):
            begin, source = z * plane, z * slab
            end = begin + plane - stride
            for r in (0, 1):
                _add(g_down, source + r * stride, g_across, begin, stride)
                _add(g_down, source + (height + 2 + r) * stride, g_across, end, stride)
            second = begin + min(1, height - 1) * stride
            _give(across, begin, begin, second, g_down, source + 2 * stride, g_across, stride)
            if height > 1:
                _give(across, end - stride, end, end, g_down, source + (height + 1) * stride, g_across, stride)
            if height > 2:
                inner = (height - 2) * stride
                after = begin + 2 * stride
                _give(across, begin, begin + stride, after, g_down, source + 3 * stride, g_across, inner)

        # What the loop over all rows computed between two rows must not flow back.
        for row in range(depth * height):
            _fill(g_across, row * stride + width + 4, stride - width - 4, zero)
        _fill(g_padded, 0, depth * plane + 2 * BORDER, zero)
        _give(padded, 0, 1, 2, g_across, 0, g_padded, depth * plane)
        for row in range(depth * height):
            source, to = row * stride + 3, point * size + row * width
            _copy_row(g_padded, source, out, to, width)
            begin, end = zero, zero
            for i in range(1, 4):
                begin += load(g_padded, source - i)
                end += load(g_padded, source + width - 1 + i)
            store(out, to, load(out, to) + begin)
            store(out, to + width - 1, load(out, to + width - 1) + end)


def _shape(costs: Tensor, dimension: int) -> tuple[int, int, int]:
    return (*[1] * (3 - dimension), *costs.shape[-dimension:])


def min_convolution(
    costs: Tensor, dimension: int, *, smoothed: Tensor | None = None, factor: float = 0.0, out: Tensor | None = None
) -> Tensor:
    """Min-convolution of ``costs + factor * smoothed``; the result may replace either."""
    out = empty(costs.shape, costs) if out is None else out
    shape = _shape(costs, dimension)
    run(
        _min_convolution,
        costs.numel() // int(np.prod(shape)),
        flat(costs),
        flat(costs if smoothed is None else smoothed),
        costs.numpy().dtype.type(0 if smoothed is None else factor),
        shape,
        flat(out),
        grain=_GRAIN,
    )
    return out


def min_convolution_backward(
    costs: Tensor,
    gradient: Tensor,
    dimension: int,
    *,
    smoothed: Tensor | None = None,
    factor: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of ``costs + factor * smoothed``; the result may replace ``gradient``."""
    out = empty(costs.shape, costs) if out is None else out
    shape = _shape(costs, dimension)
    run(
        _min_convolution_backward,
        costs.numel() // int(np.prod(shape)),
        flat(costs),
        flat(costs if smoothed is None else smoothed),
        costs.numpy().dtype.type(0 if smoothed is None else factor),
        shape,
        flat(gradient),
        flat(out),
        grain=_GRAIN,
    )
    return out
