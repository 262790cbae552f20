"""Exact min-sum regularisation of displacement costs on a spanning tree of the control points, on the CPU.

Minimises, over one displacement u(k) per control point, the sum of its costs and of alpha |u(k) - u(parent(k))|^2 over
the edges of the tree. Two sweeps give the *min-marginals*: for every control point and displacement the smallest
energy of all fields that take it, up to a constant per control point. The edges follow similar intensities, so that
the field may jump where the image does (organs that slide along each other).

References
----------
Heinrich M.P. et al., "MRF-based deformable registration and ventilation estimation of lung CT", IEEE TMI 32(7), 2013;
Felzenszwalb P. and Huttenlocher D., "Efficient belief propagation for early vision", IJCV 70(1), 2006.
"""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import allocating, compiled, inlined, run
from itk_pdd.kernels.tree.spanning import SpanningTree
from itk_pdd.kernels.vectors import FAR, FLOATS, lowest8, lowest16

__all__ = ["branches_of", "downward", "min_marginals", "towards_root", "upward"]

_BRANCHES = 128  # about as many branches of the tree are shared among threads


@inlined
def _envelope(source, target, outer, length, inner, taps, delta, alpha, prices):
    """target[o, i] = min over j of source[o, j] + alpha (i - j + delta)^2; rows of ``inner`` values, a multiple of 8.

    Candidates lie within ``taps`` of the best one, or between that and i, so that there always is one.
    """
    best = int(np.floor(delta + np.float32(0.5)))
    low, high = max(min(best - taps, 0), 1 - length), min(max(best + taps, 0), length - 1)
    for t in range(low, high + 1):
        prices[t - low] = alpha * (np.float32(t) - delta) ** 2
    for o in range(outer):
        for i in range(length):
            first = max(low, -i)
            # Where the candidates lie beyond the displacements, those at the end are what is left.
            count = min(high, length - 1 - i) - first + 1
            to, of = (o * length + i) * inner, (o * length + i + first) * inner
            if inner % 16 == 0:
                for x in range(0, inner, 16):
                    lowest16(target, to + x, source, of + x, inner, prices, first - low, count)
            else:
                for x in range(0, inner, 8):
                    lowest8(target, to + x, source, of + x, inner, prices, first - low, count)


@inlined
def _message(costs, shape, alpha, taps, delta, buffers, out):
    """out[d] = min over e of costs[e] + alpha |d - e + delta|^2, axis by axis; all flat, rows padded to ``width``."""
    rows, prices, nothing, work = buffers
    count_z, count_y, count_x = shape[0], shape[1], shape[2]
    width = rows.shape[0] // (2 * count_y + 1)
    best = int(np.floor(delta[0] + np.float32(0.5)))
    low, high = max(min(best - taps, 0), 1 - count_x), min(max(best + taps, 0), count_x - 1)
    for t in range(low, high + 1):
        prices[t - low] = alpha * (np.float32(t) - delta[0]) ** 2
    plane = count_y * width
    for i in range(0, count_z * plane, plane):
        # Between the rows stands padding for the displacements that do not exist. A plane is copied before it is read
        # again: what has just been written cannot be read at another offset without waiting.
        for y in range(count_y):
            for x in range(0, width, 8):
                lowest8(rows, (2 * y + 1) * width + x, costs, i + y * width + x, 0, nothing, 0, 1)
        for y in range(count_y):
            to, of = i + y * width, (2 * y + 1) * width + low
            if width % 16 == 0:
                for x in range(0, width, 16):
                    lowest16(out, to + x, rows, of + x, 1, prices, 0, high - low + 1)
            else:
                for x in range(0, width, 8):
                    lowest8(out, to + x, rows, of + x, 1, prices, 0, high - low + 1)
    if count_y > 1:
        _envelope(out, work, count_z, count_y, width, taps, delta[1], alpha, prices)
    else:
        for i in range(len(out)):
            work[i] = out[i]
    if count_z > 1:
        _envelope(work, out, 1, count_z, count_y * width, taps, delta[2], alpha, prices)
    else:
        for i in range(len(out)):
            out[i] = work[i]
    # The energy of whole branches would drown the differences in single precision.
    lowest8(work, 0, out, 0, 8, nothing, 0, len(nothing))
    smallest = work[0]
    for i in range(8):
        smallest = min(smallest, work[i])
    for i in range(len(out)):
        out[i] -= smallest


@inlined
def _add(total, values):
    # A loop: numba takes a second to compile the sum of two arrays.
    for i in range(len(total)):
        total[i] += values[i]


@allocating
def _buffers(shape, width):
    rows = np.full((2 * shape[1] + 1) * width, FAR, np.float32)
    size = shape[0] * shape[1] * width
    prices = np.empty(2 * max(shape[0], shape[1], shape[2]), np.float32)
    return rows, prices, np.zeros(size // 8, np.float32), np.empty(size, np.float32)


@compiled
def upward(first, last, branches, size, order, parent, alpha, taps, offset, shape, width, energy, message):
    """Towards the root, within branches: what each control point tells its parent."""
    buffers = _buffers(shape, width)
    for b in range(first, last):
        begin = branches[b]
        for i in range(begin + size[b] - 1, begin - 1, -1):
            node = order[i]
            up = parent[node]
            if up < 0:
                continue
            _message(energy[node], shape, alpha, taps, offset[up] - offset[node], buffers, message[node])
            # What joins two branches is added when both are known.
            if i > begin:
                _add(energy[up], message[node])


@compiled
def downward(first, last, branches, size, order, parent, alpha, taps, offset, shape, width, energy, message):
    """Away from the root, within branches: what is known outside each branch."""
    buffers = _buffers(shape, width)
    rest, out = np.empty_like(buffers[3]), np.empty_like(buffers[3])
    for b in range(first, last):
        for i in range(branches[b], branches[b] + size[b]):
            node = order[i]
            up = parent[node]
            if up < 0:
                continue
            above, own = energy[up], message[node]
            for k in range(len(rest)):
                rest[k] = above[k] - own[k]
            _message(rest, shape, alpha, taps, offset[node] - offset[up], buffers, out)
            _add(energy[node], out)


@compiled
def towards_root(positions, branch, order, parent, alpha, taps, offset, shape, width, energy, message):
    """Towards the root, from where the branches end."""
    buffers = _buffers(shape, width)
    for i in range(len(positions) - 1, -1, -1):
        node = order[positions[i]]
        up = parent[node]
        if up < 0:
            continue
        if not branch[i]:
            _message(energy[node], shape, alpha, taps, offset[up] - offset[node], buffers, message[node])
        _add(energy[up], message[node])


def branches_of(tree: SpanningTree) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the roots of branches small enough to share among threads, and those of what joins them."""
    limit = max(len(tree.order) // _BRANCHES, 16)
    above = np.empty(len(tree.order), np.int64)
    above[tree.order] = tree.size
    above = np.where(tree.parent[tree.order] >= 0, above[tree.parent[tree.order]], len(tree.order) + limit + 1)
    branches = np.flatnonzero((tree.size <= limit) & (above > limit))
    return branches, np.flatnonzero(tree.size > limit)


def min_marginals(
    costs: np.ndarray, tree: SpanningTree, *, alpha: float, taps: int = 4, base: np.ndarray | None = None
) -> np.ndarray:
    """Min-marginals of the costs under quadratic smoothness along the edges of a tree.

    Parameters
    ----------
    costs : numpy.ndarray
        float32, shape (kz, ky, kx, dz, dy, width), rows along x padded as
        :func:`itk_pdd.kernels.hamming.cpu.hamming_costs` does; they are overwritten.
    tree : SpanningTree
        Tree over the control points.
    alpha : float
        Weight of the squared difference of neighbouring displacements, in costs per squared displacement step; larger
        is smoother.
    taps : int
        Displacement steps by which neighbours may differ along an axis; more is slower.
    base : numpy.ndarray, optional
        Displacement of each control point found so far, in displacement steps, shape (kz, ky, kx, 3), components x, y,
        z: the smoothness is that of the sum.

    Returns
    -------
    numpy.ndarray
        The same array: only differences within a control point mean something.
    """
    shape, width = np.asarray(costs.shape[3:], dtype=np.int64), costs.shape[5]
    if costs.dtype != np.float32 or not costs.flags.c_contiguous or width % FLOATS:
        raise ValueError(f"costs are {costs.dtype} of shape {costs.shape}, expected contiguous float32, padded rows")
    energy = costs.reshape(-1, int(np.prod(shape)))
    offset = np.zeros((len(energy), 3), np.float32) if base is None else base.reshape(-1, 3).astype(np.float32)
    message = np.empty_like(energy)
    branches, trunk = branches_of(tree)
    rest = (tree.order, tree.parent, np.float32(alpha), taps, offset, shape, width, energy, message)
    run(upward, len(branches), branches, tree.size[branches], *rest)
    joined = np.union1d(branches, trunk)
    towards_root(joined, tree.size[joined] <= tree.size[branches].max(initial=0), *rest)
    downward(0, len(trunk), trunk, np.ones(len(trunk), np.int64), *rest)
    run(downward, len(branches), branches, tree.size[branches], *rest)
    return costs
