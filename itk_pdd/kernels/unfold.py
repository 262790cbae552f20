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

__all__ = ["smallest_determinants", "unfold"]

_GROW = 8  # every so many rounds the neighbours are moved as well


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
def _relax(field, scale, flat, minimum, cells, rounds, marked, moved):
    """Relax the given cells until they and their neighbours are above ``minimum``; returns what is left.

    ``cells`` are first nodes (n, 3); ``marked`` is all zero and comes back so; ``moved`` gets 1 where nodes changed.
    """
    depth, height, width = field.shape[:3]
    deep, components = (0, 2) if flat else (1, 3)
    todo = cells
    for turn in range(rounds):
        # The nodes of what folds are moved, and their neighbours as well where that did not help for long.
        reach = 1 if turn % _GROW == _GROW - 1 else 0
        count = 0
        nodes = np.empty((len(todo) * (2 + 2 * reach) ** 3, 3), np.int64)
        for i in range(len(todo)):
            for z in range(max(todo[i, 0] - reach * deep, 0), min(todo[i, 0] + deep + reach * deep + 1, depth)):
                for y in range(max(todo[i, 1] - reach, 0), min(todo[i, 1] + 2 + reach, height)):
                    for x in range(max(todo[i, 2] - reach, 0), min(todo[i, 2] + 2 + reach, width)):
                        if not marked[z, y, x]:
                            marked[z, y, x], moved[z, y, x] = 1, 1
                            nodes[count, 0], nodes[count, 1], nodes[count, 2] = z, y, x
                            count += 1
        work = np.empty((count, components), np.float32)
        for n in range(count):
            z, y, x = nodes[n, 0], nodes[n, 1], nodes[n, 2]
            for c in range(components):
                total = field[z, max(y - 1, 0), x, c] + field[z, min(y + 1, height - 1), x, c]
                total += field[z, y, max(x - 1, 0), c] + field[z, y, min(x + 1, width - 1), c]
                share = np.float32(4)
                if deep:
                    total += field[max(z - 1, 0), y, x, c] + field[min(z + 1, depth - 1), y, x, c]
                    share = np.float32(6)
                work[n, c] = np.float32(0.5) * (field[z, y, x, c] + total / share)
        for n in range(count):
            z, y, x = nodes[n, 0], nodes[n, 1], nodes[n, 2]
            marked[z, y, x] = 0
            for c in range(components):
                field[z, y, x, c] = work[n, c]
        # Only cells with a node that moved can have changed.
        found = 0
        left = np.empty((8 * count, 3), np.int64)
        for n in range(count):
            for z in range(max(nodes[n, 0] - deep, 0), min(nodes[n, 0], depth - 1 - deep) + 1):
                for y in range(max(nodes[n, 1] - 1, 0), min(nodes[n, 1], height - 2) + 1):
                    for x in range(max(nodes[n, 2] - 1, 0), min(nodes[n, 2], width - 2) + 1):
                        if marked[z, y, x] or _smallest(field, scale, z, y, x, flat) >= minimum:
                            continue
                        marked[z, y, x] = 1
                        left[found, 0], left[found, 1], left[found, 2] = z, y, x
                        found += 1
        todo = left[:found].copy()
        for i in range(found):
            marked[todo[i, 0], todo[i, 1], todo[i, 2]] = 0
        if found == 0:
            break
    return todo


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
    field: np.ndarray, *, scale: tuple[float, ...] = (1.0, 1.0, 1.0), minimum: float = 0.05, rounds: int = 400
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
    Every few rounds the neighbours of the nodes give way as well. A node takes part only while a cell at it is below
    the bound.
    """
    scale = tuple(float(s) for s in scale)
    bad = np.argwhere(smallest_determinants(field, scale) < minimum)
    if not len(bad):
        return field, 0, 0
    result = np.array(field, dtype=np.float32, order="C")
    marked, moved = (np.zeros(field.shape[:3], np.uint8) for _ in range(2))
    flat = field.shape[0] == 1
    left = _relax(result, np.asarray(scale, np.float32), flat, minimum, bad, rounds, marked, moved)
    return result, int(np.count_nonzero(moved)), len(left)
