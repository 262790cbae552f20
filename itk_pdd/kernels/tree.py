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

from dataclasses import dataclass

import numpy as np

from itk_pdd.kernels.parallel import compiled, inlined, run
from itk_pdd.kernels.vectors import FLOATS, lower_by

__all__ = ["SpanningTree", "min_marginals", "spanning_tree"]

_FAR = np.float32(1e30)
_GRAIN = 4  # control points per work item: waking a thread costs about as much as one message


@dataclass(frozen=True)
class SpanningTree:
    """A rooted tree over control points, in the order of a breadth-first walk.

    Parameters
    ----------
    order : numpy.ndarray
        Control points in the order of the walk.
    parent : numpy.ndarray
        Parent of each control point, -1 for the root.
    first_child, children : numpy.ndarray
        The children of k stand in ``order[first_child[k] : first_child[k] + children[k]]``.
    level_start : numpy.ndarray
        Where each level of the tree begins in ``order``; control points of one level are independent.
    """

    order: np.ndarray
    parent: np.ndarray
    first_child: np.ndarray
    children: np.ndarray
    level_start: np.ndarray


def spanning_tree(guide: np.ndarray) -> SpanningTree:
    """Minimum spanning tree of the control grid; an edge weighs the difference of the intensities of its ends.

    Parameters
    ----------
    guide : numpy.ndarray
        Mean intensity of each control point's cell, shape (kz, ky, kx).
    """
    from scipy import sparse
    from scipy.sparse import csgraph

    index = np.arange(guide.size).reshape(guide.shape)
    values = np.asarray(guide, dtype=np.float64).ravel()
    scale = np.ptp(values) or 1.0
    first, second = [], []
    for axis in range(guide.ndim):
        first.append(np.take(index, range(guide.shape[axis] - 1), axis).ravel())
        second.append(np.take(index, range(1, guide.shape[axis]), axis).ravel())
    first, second = np.concatenate(first), np.concatenate(second)
    # An edge of weight zero would not be stored; where nothing differs (background) the tree is arbitrary anyway.
    weight = np.abs(values[first] - values[second]) / scale + 1e-4
    graph = sparse.csr_matrix((weight, (first, second)), shape=(guide.size, guide.size))
    tree = csgraph.minimum_spanning_tree(graph)
    root = int(index[tuple(n // 2 for n in guide.shape)])
    order, parent = csgraph.breadth_first_order(tree, root, directed=False)
    order, parent = order.astype(np.int64), parent.astype(np.int64)
    parent[root] = -1
    children = np.bincount(parent[order[1:]], minlength=guide.size)
    # In a breadth-first walk the children of a node stand together.
    position = np.arange(1, len(order))
    first_child = np.zeros(guide.size, np.int64)
    first_child[parent[order[1:]][::-1]] = position[::-1]
    level_start = [0, 1]
    while level_start[-1] < len(order):
        last = order[level_start[-2] : level_start[-1]]
        level_start.append(level_start[-1] + int(children[last].sum()))
    return SpanningTree(order, parent, first_child, children, np.asarray(level_start))


@inlined
def _message(costs, shape, alpha, taps, delta, row, work, out):
    """work[d] = min over e of costs[e] + alpha |d - e + delta|^2, separable, over 2 taps + 1 values per axis.

    ``costs`` is contiguous, ``work`` and ``out`` have rows padded to ``width``; all are flat. The window of candidates
    follows delta, but never leaves the displacements altogether.
    """
    count_z, count_y, count_x = shape[0], shape[1], shape[2]
    width = row.shape[0] // 3
    cz = min(max(int(np.floor(delta[2] + np.float32(0.5))), 1 - count_z), count_z - 1)
    cy = min(max(int(np.floor(delta[1] + np.float32(0.5))), 1 - count_y), count_y - 1)
    cx = min(max(int(np.floor(delta[0] + np.float32(0.5))), 1 - count_x), count_x - 1)
    work[:] = _FAR
    for i in range(count_z * count_y):
        for x in range(count_x):
            row[width + x] = costs[i * count_x + x]
        for t in range(max(cx - taps, 1 - count_x), min(cx + taps, count_x - 1) + 1):
            penalty = alpha * (np.float32(t) - delta[0]) ** 2
            for x in range(0, width, FLOATS):
                lower_by(work, i * width + x, row, width + t + x, penalty)
    plane = count_y * width
    out[:] = _FAR
    for t in range(max(cy - taps, 1 - count_y), min(cy + taps, count_y - 1) + 1):
        penalty = alpha * (np.float32(t) - delta[1]) ** 2
        for z in range(count_z):
            for y in range(max(0, -t), min(count_y, count_y - t)):
                for x in range(0, width, FLOATS):
                    lower_by(out, z * plane + y * width + x, work, z * plane + (y + t) * width + x, penalty)
    work[:] = _FAR
    for t in range(max(cz - taps, 1 - count_z), min(cz + taps, count_z - 1) + 1):
        penalty = alpha * (np.float32(t) - delta[2]) ** 2
        first, last = max(0, -t), min(count_z, count_z - t)
        for i in range(first * plane, last * plane, FLOATS):
            lower_by(work, i, out, i + t * plane, penalty)


@inlined
def _buffers(shape, width):
    row = np.full(3 * width, _FAR, np.float32)
    size = shape[0] * shape[1] * width
    return row, np.empty(size, np.float32), np.empty(size, np.float32)


@compiled()
def _upward(first, last, begin, costs, order, first_child, children, alpha, taps, offset, shape, width, total):
    for i in range(begin + first, begin + last):
        node = order[i]
        own = total[node]
        own[:] = costs[node]
        if children[node] > 0:
            row, work, out = _buffers(shape, width)
            for j in range(first_child[node], first_child[node] + children[node]):
                child = order[j]
                _message(total[child], shape, alpha, taps, offset[node] - offset[child], row, work, out)
                # The energy of whole branches would drown the differences in single precision.
                smallest = work.min()
                for k in range(shape[0] * shape[1]):
                    for x in range(shape[2]):
                        own[k * shape[2] + x] += work[k * width + x] - smallest


@compiled()
def _downward(first, last, begin, total, order, parent, alpha, taps, offset, shape, width, result):
    for i in range(begin + first, begin + last):
        node = order[i]
        up = parent[node]
        row, work, out = _buffers(shape, width)
        rest = np.empty(total.shape[1], np.float32)
        # What the parent knows without this branch, passed down to it.
        _message(total[node], shape, alpha, taps, offset[up] - offset[node], row, work, out)
        for k in range(shape[0] * shape[1]):
            for x in range(shape[2]):
                rest[k * shape[2] + x] = result[up, k * shape[2] + x] - work[k * width + x]
        _message(rest, shape, alpha, taps, offset[node] - offset[up], row, work, out)
        smallest = work.min()
        own = result[node]
        for k in range(shape[0] * shape[1]):
            for x in range(shape[2]):
                own[k * shape[2] + x] = total[node, k * shape[2] + x] + (work[k * width + x] - smallest)


def min_marginals(
    costs: np.ndarray, tree: SpanningTree, *, alpha: float, taps: int = 4, base: np.ndarray | None = None
) -> np.ndarray:
    """Min-marginals of the costs under quadratic smoothness along the edges of a tree.

    Parameters
    ----------
    costs : numpy.ndarray
        float32, shape (kz, ky, kx, dz, dy, dx).
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
        float32, shape of the costs; only differences within a control point mean something.
    """
    shape = np.asarray(costs.shape[3:], dtype=np.int64)
    flat = np.ascontiguousarray(costs, dtype=np.float32).reshape(-1, int(np.prod(shape)))
    width = -(-int(shape[2]) // FLOATS) * FLOATS
    offset = np.zeros((len(flat), 3), np.float32) if base is None else base.reshape(-1, 3).astype(np.float32)
    alpha = np.float32(alpha)
    levels = list(zip(tree.level_start[:-1], tree.level_start[1:], strict=True))
    total = np.empty_like(flat)
    for begin, end in reversed(levels):
        run(
            _upward,
            end - begin,
            begin,
            flat,
            tree.order,
            tree.first_child,
            tree.children,
            alpha,
            taps,
            offset,
            shape,
            width,
            total,
            grain=_GRAIN,
        )
    result = np.empty_like(flat)
    result[tree.order[0]] = total[tree.order[0]]
    for begin, end in levels[1:]:
        run(
            _downward,
            end - begin,
            begin,
            total,
            tree.order,
            tree.parent,
            alpha,
            taps,
            offset,
            shape,
            width,
            result,
            grain=_GRAIN,
        )
    return result.reshape(costs.shape)
