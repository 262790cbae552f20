"""Record the certainty of a search while it runs: widths of the marginals, disagreement, hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.geometry.blockfield import BlockField, relaid
from itk_pdd.kernels.control_grid.cpu import compose, restrict
from itk_pdd.kernels.operations import HOST, Array, Operations
from itk_pdd.kernels.parallel import compiled, run

__all__ = ["Recorder", "StageRecord", "distinct_modes"]

_MAX_MODES = 8  # hypotheses that are kept at a control point
_LEAST_RATIO = 0.2  # probability of a hypothesis, relative to the best one, below which it is none


@dataclass
class StageRecord:
    """The findings of one stage at its control points. Lengths are working voxels, arrays have the axes z, y, x."""

    dimension: int  # 2 or 3
    block: tuple[int, int, int]  # working voxels per control point along z, y, x
    step: float  # distance of neighbouring displacements
    mean: np.ndarray  # displacement found, (kz, ky, kx, 3), components x, y, z
    increment: np.ndarray  # displacement that the stage added
    covariance: np.ndarray  # of the marginal distribution, (kz, ky, kx, 3, 3)
    entropy: np.ndarray  # of the marginal distribution in nats, (kz, ky, kx)
    where: np.ndarray  # control points with several hypotheses (n, 3) as z, y, x
    modes: np.ndarray  # their displacements (n, count, 3), NaN where there are fewer
    weights: np.ndarray  # their probabilities (n, count), the largest first
    # How far a point ends from where it began when it goes forward and back, before both fields are made consistent:
    # root mean square over each cell; None for a stage without backward field.
    disagreement: np.ndarray | None = None

    @property
    def width(self) -> np.ndarray:
        """Standard deviation of the marginal distribution (root of the trace), quantisation included."""
        return np.sqrt(np.trace(self.covariance, axis1=-2, axis2=-1) + self.dimension * self.step**2 / 12)

    @property
    def ambiguity(self) -> np.ndarray:
        """Variance beyond a step along each axis, which neighbouring displacements make: other places are possible."""
        usual = self.dimension * self.step**2
        return np.maximum(np.trace(self.covariance, axis1=-2, axis2=-1) - np.float32(usual), 0)


class Recorder:
    """Listens to a search (see :class:`itk_pdd.solver.search.Listener`); without one nothing of this is computed.

    ``temperature`` is the factor of the stages' own temperature at which their marginals are probabilities: these are
    minima over whole fields, which makes them too sure of themselves where many control points depend on one another.
    Below 1 makes them wider.
    """

    def __init__(self, temperature: float = 1.0, operations: Operations = HOST) -> None:
        self.temperature, self._operations = temperature, operations
        self.stages: list[StageRecord] = []
        self.refined: Any = 0.0
        """Root mean square of the change by the refinement, on the last stage's control points."""

    def begin(self, before: BlockField, *, scale: int, step: int, count: int, temperature: float) -> None:
        """Begin a stage; see :meth:`itk_pdd.solver.search.Listener.begin`."""
        self._before, self._scale, self._step, self._count = before, np.float32(scale), step, count
        self._temperature = self.temperature * temperature
        points = int(np.prod(before.nodes))
        self._covariance, self._entropy = np.empty((points, 3, 3), np.float32), np.empty(points, np.float32)
        self._several: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def marginals(self, nodes: np.ndarray, costs: Array, offsets: Sequence[np.ndarray]) -> None:
        """Take in the distributions of some control points; see :meth:`itk_pdd.solver.search.Listener.marginals`."""
        _, covariance, entropy, _ = self._operations.moments(costs, self._temperature, offsets, second=True)
        self._covariance[nodes] = self._operations.numpy(covariance) * self._scale**2
        self._entropy[nodes] = self._operations.numpy(entropy)
        several, modes, weights = distinct_modes(self._operations.numpy(costs), self._temperature, self._count)
        axes = [np.asarray(o * self._scale, np.float32) for o in offsets]
        vectors = np.stack([axes[2 - i][np.maximum(modes[..., 2 - i], 0)] for i in range(3)], axis=-1)
        places = nodes[several]
        vectors += self._before.vectors.reshape(-1, 3)[places][:, None]
        vectors[modes[..., 0] < 0] = np.nan
        self._several.append((places, vectors, weights))

    def end(self, increment: np.ndarray) -> None:
        """End the stage: it adds ``increment`` (kz, ky, kx, 3), in its voxels, to the displacements."""
        before, points = self._before, self._before.nodes
        increment = increment * self._scale
        places, vectors, weights = (np.concatenate(each) for each in zip(*self._several, strict=True))
        order = np.argsort(places)
        self.stages.append(
            StageRecord(
                dimension=before.dimension,
                block=before.block,
                step=float(self._step * self._scale),
                mean=before.vectors + increment,
                increment=increment,
                covariance=self._covariance.reshape(*points, 3, 3),
                entropy=self._entropy.reshape(points),
                where=np.stack(np.unravel_index(places[order], points), axis=-1),
                modes=vectors[order],
                weights=weights[order],
            )
        )
        del self._before, self._covariance, self._entropy, self._several

    def fields(self, forward: BlockField, backward: BlockField) -> None:
        """Take in the fields of both directions of the last stage, before they are made consistent."""
        size, record = np.float32(forward.size), self.stages[-1]
        square = np.sum(np.square(compose(backward.vectors / size, forward.vectors / size)), axis=-1) * size**2
        cell = tuple(b // s for b, s in zip(record.block, forward.block, strict=True))
        record.disagreement = np.sqrt(restrict(square, cell))

    def refinement(self, before: BlockField, after: BlockField) -> None:
        """Take in the field before and after the refinement."""
        start = relaid(before.vectors, before.block, after.block, after.shape)
        change = np.sum(np.square(after.vectors - start), axis=-1)
        self.refined = np.sqrt(relaid(change, after.block, self.stages[-1].block, after.shape))


@compiled
def _find(
    first: int, last: int, costs: Any, temperature: Any, count: int, limit: Any, found: Any, weight: Any
) -> None:  # fmt: skip
    depth, height = costs.shape[1:3]
    room = found.shape[1]
    for task in range(first, last):
        grid = costs[task]
        least = grid[0, 0, 0]
        for z in range(depth):
            for y in range(height):
                for x in range(count):
                    least = min(least, grid[z, y, x])
        modes = 0
        for z in range(depth):
            for y in range(height):
                for x in range(count):
                    value = grid[z, y, x]
                    if value > least + limit:
                        continue
                    summit, around = True, 0.0
                    for i in range(max(z - 1, 0), min(z + 2, depth)):
                        for j in range(max(y - 1, 0), min(y + 2, height)):
                            for k in range(max(x - 1, 0), min(x + 2, count)):
                                other = grid[i, j, k]
                                around += np.exp(temperature * (least - other))
                                # Of equal neighbours the first one is the summit.
                                before = i < z or (i == z and (j < y or (j == y and k < x)))
                                if other < value or (before and other == value):
                                    summit = False
                    if not summit:
                        continue
                    modes += 1
                    place = room
                    while place > 0 and (found[task, place - 1, 0] < 0 or weight[task, place - 1] < around):
                        place -= 1
                    if place == room:
                        continue
                    for m in range(room - 1, place, -1):
                        weight[task, m] = weight[task, m - 1]
                        for c in range(3):
                            found[task, m, c] = found[task, m - 1, c]
                    weight[task, place] = around
                    found[task, place, 0], found[task, place, 1], found[task, place, 2] = z, y, x
        if modes > 1:
            total = 0.0
            for z in range(depth):
                for y in range(height):
                    for x in range(count):
                        total += np.exp(temperature * (least - grid[z, y, x]))
            for m in range(room):
                weight[task, m] /= total


def distinct_modes(costs: np.ndarray, temperature: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the control points whose distribution has several modes.

    Parameters
    ----------
    costs : numpy.ndarray
        float32, shape (control points, dz, dy, width).
    temperature : float
        Factor of the costs in the softmax.
    count : int
        Displacements along x; the rest of the width is padding.

    Returns
    -------
    several : numpy.ndarray
        These control points (n,).
    modes : numpy.ndarray
        Indices z, y, x of their displacements, int16 (n, modes, 3), -1 where there are fewer; the most probable first.
    weights : numpy.ndarray
        Probabilities of a mode and its direct neighbours, (n, modes).
    """
    flat = np.ascontiguousarray(costs)
    found = np.full((len(flat), _MAX_MODES, 3), -1, np.int16)
    weight = np.zeros((len(flat), _MAX_MODES), np.float32)
    limit = np.float32(-np.log(_LEAST_RATIO) / temperature)
    run(_find, len(flat), flat, np.float32(temperature), count, limit, found, weight, grain=16)
    several = np.flatnonzero(found[:, 1, 0] >= 0)
    return several, found[several], weight[several]
