"""Removing folds from a displacement field: the few places where space is turned inside out are relaxed.

Between the nodes of its lattice a field is interpolated linearly along each axis, and its Jacobian determinant at the
corners of a cell follows from the edges of that cell that meet there (in three dimensions it may still be smaller
between them). Cells with a corner below a bound are relaxed: their nodes move half-way to the mean of their neighbours
on the lattice, again and again, until no such cell is left or the rounds are used up. The rest of the field stays as
it is, to the bit.
"""

from __future__ import annotations

import numpy as np

from itk_pdd.kernels.parallel import compiled, inlined, run

__all__ = ["smallest_determinants", "unfold", "widened"]

_GRAIN = 4096  # nodes or cells for one thread at a time


@inlined
def _corner(field, scale, z, y, x, az, ay, ax, flat):
    """Jacobian determinant at a corner of a cell: node (z, y, x), edges towards the signs ``a``."""
    one = np.float32(1)
    here = field[z, y, x]
    along_x, along_y = field[z, y, x + ax], field[z, y + ay, x]
    sx, sy = np.float32(ax) / scale[0], np.float32(ay) / scale[1]
    xx, yx = one + (along_x[0] - here[0]) * sx, (along_x[1] - here[1]) * sx
    xy, yy = (along_y[0] - here[0]) * sy, one + (along_y[1] - here[1]) * sy
    if flat:
        return xx * yy - xy * yx
    along_z, sz = field[z + az, y, x], np.float32(az) / scale[2]
    zx, zy = (along_x[2] - here[2]) * sx, (along_y[2] - here[2]) * sy
    xz, yz, zz = (along_z[0] - here[0]) * sz, (along_z[1] - here[1]) * sz, one + (along_z[2] - here[2]) * sz
    return xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)


@inlined
def _smallest(field, scale, z, y, x, flat):
    """Smallest determinant over the corners of the cell whose first node is (z, y, x)."""
    smallest = np.float32(np.inf)
    for cz in range(1 if flat else 2):
        for cy in range(2):
            for cx in range(2):
                found = _corner(field, scale, z + cz, y + cy, x + cx, 1 - 2 * cz, 1 - 2 * cy, 1 - 2 * cx, flat)
                smallest = min(smallest, found)
    return smallest


@compiled
def _smallest_everywhere(first, last, field, scale, flat, out):
    for z in range(first, last):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                out[z, y, x] = _smallest(field, scale, z, y, x, flat)


@compiled
def _around(items, below, above, limits, marked, out):
    """All (z, y, x) from ``below`` before to ``above`` after one of the items, within the limits, each once.

    ``marked`` is all zero and comes back so; returns how many were written to ``out``.
    """
    count = 0
    for i in range(len(items)):
        for z in range(max(items[i, 0] - below[0], 0), min(items[i, 0] + above[0] + 1, limits[0])):
            for y in range(max(items[i, 1] - below[1], 0), min(items[i, 1] + above[1] + 1, limits[1])):
                for x in range(max(items[i, 2] - below[2], 0), min(items[i, 2] + above[2] + 1, limits[2])):
                    if not marked[z, y, x]:
                        marked[z, y, x] = 1
                        out[count, 0], out[count, 1], out[count, 2] = z, y, x
                        count += 1
    for i in range(count):
        marked[out[i, 0], out[i, 1], out[i, 2]] = 0
    return count


@compiled
def _halfway(first, last, nodes, field, flat, out):
    """Compute the values of the nodes half-way to the mean of their neighbours."""
    depth, height, width = field.shape[:3]
    for n in range(first, last):
        z, y, x = nodes[n, 0], nodes[n, 1], nodes[n, 2]
        for c in range(2 if flat else 3):
            total = field[z, max(y - 1, 0), x, c] + field[z, min(y + 1, height - 1), x, c]
            total += field[z, y, max(x - 1, 0), c] + field[z, y, min(x + 1, width - 1), c]
            share = np.float32(4)
            if not flat:
                total += field[max(z - 1, 0), y, x, c] + field[min(z + 1, depth - 1), y, x, c]
                share = np.float32(6)
            out[n, c] = np.float32(0.5) * (field[z, y, x, c] + total / share)


@compiled
def _move(first, last, nodes, values, flat, field, moved):
    for n in range(first, last):
        z, y, x = nodes[n, 0], nodes[n, 1], nodes[n, 2]
        moved[z, y, x] = 1
        for c in range(2 if flat else 3):
            field[z, y, x, c] = values[n, c]


@compiled
def _judge(first, last, cells, field, scale, flat, minimum, out):
    for n in range(first, last):
        out[n] = _smallest(field, scale, cells[n, 0], cells[n, 1], cells[n, 2], flat) < minimum


def widened(turn: int) -> int:
    """Return how many neighbours in each direction move as well in a round, the first being 0.

    One in every eighth round. Cells that still fold after a hundred rounds are held by nodes farther out: one more
    neighbour moves then, and so on.
    """
    return 1 + turn // 100 if turn % 8 == 7 else 0


def _relax(field: np.ndarray, scale: np.ndarray, minimum: float, cells: np.ndarray, rounds: int) -> tuple[int, int]:
    """Relax the given cells, first nodes (n, 3), until they and their neighbours are above ``minimum``, in place.

    Returns how many nodes moved and how many cells are left.
    """
    flat = field.shape[0] == 1
    deep = np.array([0 if flat else 1, 1, 1])
    shape = np.array(field.shape[:3])
    marked, moved = (np.zeros(field.shape[:3], np.uint8) for _ in range(2))
    for turn in range(rounds):
        # The nodes of what folds are moved, and their neighbours as well where that did not help for long.
        reach = deep * widened(turn)
        room = min(len(cells) * int(np.prod(deep + 1 + 2 * reach)), marked.size)
        nodes = np.empty((room, 3), np.int32)
        nodes = nodes[: _around(cells, reach, reach + deep, shape, marked, nodes)]
        values = np.empty((len(nodes), 3), np.float32)
        run(_halfway, len(nodes), nodes, field, flat, values, grain=_GRAIN)
        run(_move, len(nodes), nodes, values, flat, field, moved, grain=_GRAIN)
        # Only cells with a node that moved can have changed.
        found = np.empty((min(8 * len(nodes), marked.size), 3), np.int32)
        found = found[: _around(nodes, deep, np.zeros_like(deep), shape - deep, marked, found)]
        bad = np.empty(len(found), np.bool_)
        run(_judge, len(found), found, field, scale, flat, minimum, bad, grain=_GRAIN)
        cells = found[bad]
        if not len(cells):
            break
    return int(np.count_nonzero(moved)), len(cells)


def smallest_determinants(field: np.ndarray, scale: tuple[float, ...]) -> np.ndarray:
    """Smallest Jacobian determinant at the corners of every cell of the lattice.

    Parameters
    ----------
    field : numpy.ndarray
        float32, shape (z, y, x, 3), components x, y, z; a 2-D field is one slice.
    scale : tuple of float
        Distance of neighbouring nodes along x, y, z in the unit of the displacements.

    Returns
    -------
    numpy.ndarray
        float32, one less along each axis than ``field`` (one slice stays one).
    """
    flat = field.shape[0] == 1
    shape = [max(n - 1, 0) for n in field.shape[:3]]
    shape[0] = 1 if flat else shape[0]
    out = np.empty(shape, np.float32)
    if out.size:
        run(_smallest_everywhere, shape[0], field, np.asarray(scale, np.float32), flat, out, grain=2)
    return out


def unfold(
    field: np.ndarray, *, scale: tuple[float, ...] = (1.0, 1.0, 1.0), minimum: float = 0.05, rounds: int = 1000
) -> tuple[np.ndarray, int, int]:
    """A field without folds: where a cell of the lattice is turned inside out or nearly so, it is relaxed.

    Parameters
    ----------
    field : numpy.ndarray
        float32, shape (z, y, x, 3), components x, y, z; a 2-D field is one slice, whose z component stays.
    scale : tuple of float
        Distance of neighbouring nodes along x, y, z in the unit of the displacements.
    minimum : float
        Smallest Jacobian determinant that is left at the corners of a cell; larger bends less and changes more.
    rounds : int
        After so many the search is given up.

    Returns
    -------
    numpy.ndarray
        The field, relaxed; ``field`` itself where nothing folds.
    int
        Nodes that were moved.
    int
        Cells that are still below ``minimum``: 0 unless ``rounds`` did not suffice.

    Notes
    -----
    Every few rounds the neighbours of the nodes give way as well (see :func:`widened`). A node takes part only while a
    cell at it or near it is below the bound.
    """
    scale = tuple(float(s) for s in scale)
    # In the order of memory of the cells of later rounds: kernels are compiled for one.
    cells = np.ascontiguousarray(np.argwhere(smallest_determinants(field, scale) < minimum), np.int32)
    if not len(cells):
        return field, 0, 0
    result = np.array(field, dtype=np.float32, order="C")
    return result, *_relax(result, np.asarray(scale, np.float32), minimum, cells, rounds)
