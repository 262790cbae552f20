"""Spanning tree of the control points whose edges follow similar intensities, for both versions of the min-sum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from itk_pdd.kernels.parallel import compiled

__all__ = ["SpanningTree", "spanning_tree"]


@dataclass(frozen=True)
class SpanningTree:
    """A rooted tree over control points, in an order in which each branch stands together (depth first).

    Parameters
    ----------
    order : numpy.ndarray
        Control points, each behind its parent.
    parent : numpy.ndarray
        Parent of each control point, -1 for the root.
    size : numpy.ndarray
        Number of control points of the branch that begins at ``order[i]``, itself included: it is
        ``order[i : i + size[i]]``.
    """

    order: np.ndarray
    parent: np.ndarray
    size: np.ndarray


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
    walk, parent = csgraph.breadth_first_order(tree, root, directed=False)
    walk, parent = walk.astype(np.int64), parent.astype(np.int64)
    parent[root] = -1
    order, size = np.empty_like(walk), np.empty_like(walk)
    _depth_first(walk, parent, order, size)
    return SpanningTree(order, parent, size)


@compiled
def _depth_first(walk, parent, order, size):
    """Turn a breadth-first walk into a depth-first one, with the sizes of the branches."""
    count = len(walk)
    branch = np.ones(count, np.int64)
    for i in range(count - 1, 0, -1):
        branch[parent[walk[i]]] += branch[walk[i]]
    following = np.zeros(count, np.int64)  # where the next child of a control point goes
    for i in range(count):
        node = walk[i]
        position = 0
        if i > 0:
            position = following[parent[node]]
            following[parent[node]] += branch[node]
        order[position], size[position] = node, branch[node]
        following[node] = position + 1
