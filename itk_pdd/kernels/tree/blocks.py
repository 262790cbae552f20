"""The min-sum on a tree in blocks of control points: in the memory that is there, and the same numbers to the last bit.

A branch of the tree needs to know of the rest only what comes down through its root. So the costs of one block of
branches after the other are computed and swept towards the root, where only the control points that join the branches
(the trunk) are kept; then each block is computed once more and swept back. Usually one block holds everything, and
nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from itk_pdd.kernels.hamming.cpu import MaskedCosts
from itk_pdd.kernels.parallel import run
from itk_pdd.kernels.tree.cpu import branches_of, downward, towards_root, upward
from itk_pdd.kernels.tree.spanning import SpanningTree

__all__ = ["min_sum_means"]


def min_sum_means(
    costs: MaskedCosts,
    means: Callable[[np.ndarray, np.ndarray], np.ndarray],
    tree: SpanningTree,
    *,
    alpha: float,
    taps: int,
    base: np.ndarray | None = None,
    memory: float | None = None,
) -> np.ndarray:
    """Expected displacement of each control point under its min-marginals, see :mod:`itk_pdd.kernels.tree.cpu`.

    Parameters
    ----------
    costs : MaskedCosts
        Makes the costs of control points.
    means : callable
        Takes control points (n,) and their min-marginals (n, dz, dy, width) to expected displacements (n, 3); each
        control point is among them once.
    tree : SpanningTree
        Tree over the control points.
    alpha, taps
        See :func:`itk_pdd.kernels.tree.cpu.min_marginals`.
    base : numpy.ndarray, optional
        Displacement of each control point found so far, in displacement steps, shape (kz, ky, kx, 3).
    memory : float, optional
        Bytes that costs and messages may take; all that they need by default. Less makes blocks, of which each is
        computed twice: the result stays the same. The trunk and the largest branch are the least.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, 3).
    """
    sweeps = _Sweeps(tree, costs.displacements, base, memory)
    settings = (np.float32(alpha), taps)
    costs(sweeps.trunk, sweeps.energies(sweeps.trunk))
    for number in reversed(range(len(sweeps.blocks))):
        nodes = sweeps.take(number)
        costs(nodes, sweeps.energies(nodes))
        sweeps.up(*settings)
        sweeps.join(*settings)
    sweeps.down_the_trunk(*settings)
    result = np.empty((len(tree.order), 3), np.float32)
    for number in range(len(sweeps.blocks)):
        if number > 0:  # the first one was the last to be swept up, and is still there
            nodes = sweeps.take(number)
            costs(nodes, sweeps.energies(nodes))
            sweeps.up(*settings)
        sweeps.down(*settings)
        result[nodes] = means(nodes, sweeps.energies(nodes))
    result[sweeps.trunk] = means(sweeps.trunk, sweeps.energies(sweeps.trunk))
    return result


class _Sweeps:
    """The sweeps over the trunk, which stays, and over the block of branches that is taken at the moment.

    Energies and messages lie in rows: first those of the trunk, then those of the block. The tree is renumbered to rows
    for the kernels.
    """

    def __init__(
        self, tree: SpanningTree, displacements: tuple[int, int, int], base: np.ndarray | None, memory: float | None
    ) -> None:
        branches, joints = branches_of(tree)
        size, kept = int(np.prod(displacements)), len(joints)
        rows = len(tree.order) - kept
        if memory is not None:
            least = int(tree.size[branches].max(initial=0))
            rows = min(rows, max(int(memory // (8 * size)) - kept, least))
        self._tree, self._displacements = tree, displacements
        self.trunk = tree.order[joints]
        # A piece is a branch or a control point of the trunk; all of them in the order of the tree.
        self._pieces = np.union1d(branches, joints)
        self._is_branch = np.isin(self._pieces, branches)
        self._lengths = np.where(self._is_branch, tree.size[self._pieces], 1)
        self.blocks = _parts(np.where(self._is_branch, self._lengths, 0), rows)
        self._energy, self._message = (np.empty((kept + rows, size), np.float32) for _ in range(2))
        self._row = np.full(len(tree.order), -1)
        self._parent = np.full(kept + rows, -1)
        self._offset = np.zeros((kept + rows, 3), np.float32)
        self._base = None if base is None else base.reshape(-1, 3)
        self._number(self.trunk, 0)

    def _number(self, nodes: np.ndarray, first: int) -> None:
        """Give control points the rows from ``first`` on."""
        rows = np.arange(first, first + len(nodes))
        self._row[nodes] = rows
        above = self._tree.parent[nodes]
        self._parent[rows] = np.where(above < 0, -1, self._row[above])
        if self._base is not None:
            self._offset[rows] = self._base[nodes]

    def take(self, number: int) -> np.ndarray:
        """Make room for a block: its control points (n,) beside those of the trunk."""
        first, last = self.blocks[number]
        pieces, lengths = self._pieces[first:last], self._lengths[first:last]
        self._order = self._tree.order[pieces[0] : pieces[-1] + lengths[-1]]
        self._starts, self._sizes, self._branch = pieces - pieces[0], lengths, self._is_branch[first:last]
        nodes = self._order[np.repeat(self._branch, lengths)]
        self._number(nodes, len(self.trunk))
        return nodes

    def energies(self, nodes: np.ndarray) -> np.ndarray:
        """Return the energies of the trunk's control points or of those of the block, (n, dz, dy, width)."""
        first = 0 if nodes is self.trunk else len(self.trunk)
        return self._energy[first : first + len(nodes)].reshape(-1, *self._displacements)

    def _rest(self, order: np.ndarray, alpha: np.float32, taps: int) -> tuple:
        shape = np.asarray(self._displacements, np.int64)
        width = self._displacements[-1]
        return self._row[order], self._parent, alpha, taps, self._offset, shape, width, self._energy, self._message

    def up(self, alpha: np.float32, taps: int) -> None:
        """Towards the root, within the branches of the block."""
        starts, sizes = self._starts[self._branch], self._sizes[self._branch]
        run(upward, len(starts), starts, sizes, *self._rest(self._order, alpha, taps))

    def join(self, alpha: np.float32, taps: int) -> None:
        """Towards the root, where the branches of the block join."""
        towards_root(self._starts, self._branch, *self._rest(self._order, alpha, taps))

    def down_the_trunk(self, alpha: np.float32, taps: int) -> None:
        """Away from the root, in the trunk."""
        steps = np.arange(len(self.trunk))
        downward(0, len(steps), steps, np.ones_like(steps), *self._rest(self.trunk, alpha, taps))

    def down(self, alpha: np.float32, taps: int) -> None:
        """Away from the root, within the branches of the block."""
        starts, sizes = self._starts[self._branch], self._sizes[self._branch]
        run(downward, len(starts), starts, sizes, *self._rest(self._order, alpha, taps))


def _parts(lengths: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Cut a sequence into as few parts as follow from filling each up to a sum of ``most``: (first, last) of each."""
    parts, first, total = [], 0, 0
    for i, length in enumerate(lengths.tolist()):
        if total + length > most:
            parts.append((first, i))
            first, total = i, 0
        total += length
    return [*parts, (first, len(lengths))]
