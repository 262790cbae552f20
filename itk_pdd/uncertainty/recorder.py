"""What the search tells about its certainty while it runs: widths of the marginals, disagreement, hypotheses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd import kernels
from itk_pdd.kernels.control_grid.cpu import compose, per_axis, restrict
from itk_pdd.kernels.interpolation.cpu import sample_lines
from itk_pdd.kernels.parallel import compiled, run

if TYPE_CHECKING:
    from itk_pdd.solver.settings import Stage

__all__ = ["Recorder", "StageRecord", "relaid"]

_MODES = 8  # hypotheses that are kept at a control point
_LEAST_RATIO = 0.2  # probability of a hypothesis, relative to the best one, below which it is none


@dataclass
class StageRecord:
    """What one stage found at its control points. Lengths are working voxels, arrays have the axes z, y, x.

    Attributes
    ----------
    dimension : int
        2 or 3.
    block : tuple of int
        Working voxels per control point along z, y, x.
    step : float
        Distance of neighbouring displacements.
    mean : numpy.ndarray
        Displacement found, shape (kz, ky, kx, 3), components x, y, z.
    increment : numpy.ndarray
        What the stage added to it.
    covariance : numpy.ndarray
        Of the marginal distribution, shape (kz, ky, kx, 3, 3).
    entropy : numpy.ndarray
        Of the marginal distribution in nats, shape (kz, ky, kx).
    modes, weights, where : numpy.ndarray
        Control points with several hypotheses (n, 3) as z, y, x; their displacements (n, count, 3), NaN where there
        are fewer, and probabilities (n, count), the largest first.
    disagreement : numpy.ndarray
        How far a point ends from where it began when it goes forward and back, before both fields are made
        consistent: root mean square over each cell. None for a stage without backward field.
    """

    dimension: int
    block: tuple[int, int, int]
    step: float
    mean: np.ndarray
    increment: np.ndarray
    covariance: np.ndarray
    entropy: np.ndarray
    where: np.ndarray
    modes: np.ndarray
    weights: np.ndarray
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
    """Listens to :func:`itk_pdd.solver.search.search`; without one nothing of all this is computed.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the working grid along z, y, x.
    dimension : int
        2 or 3.
    temperature : float
        Factor of the stages' own temperature at which their marginals are probabilities: these are minima over whole
        fields, which makes them too sure of themselves where many control points depend on one another. Below 1 makes
        them wider.
    """

    def __init__(self, shape: tuple[int, int, int], dimension: int, temperature: float = 1.0) -> None:
        self.shape, self.dimension, self.temperature = shape, dimension, temperature
        self.stages: list[StageRecord] = []
        self.refined = 0.0
        """Root mean square of what the instance optimisation changed, on the last stage's control points."""

    def begin(self, stage: Stage, points: tuple[int, ...], found: np.ndarray | None) -> None:
        """A stage begins.

        Parameters
        ----------
        stage : Stage
            Its settings.
        points : tuple of int
            Its control points along z, y, x.
        found : numpy.ndarray, optional
            Displacement of the control points before the stage, in its voxels.
        """
        scale, count = np.float32(stage.shrink), int(np.prod(points))
        base = np.zeros((*points, 3), np.float32) if found is None else found * scale
        self._stage, self._base = stage, base
        self._covariance, self._entropy = np.empty((count, 3, 3), np.float32), np.empty(count, np.float32)
        self._several: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def marginals(self, nodes: np.ndarray, costs: Any, offsets: Any) -> None:
        """Take in the distributions of some control points; each is told once.

        Parameters
        ----------
        nodes : numpy.ndarray
            The control points (n,), counted through.
        costs : torch.Tensor
            Regularised costs, shape (n, dz, dy, width).
        offsets : sequence of torch.Tensor
            Displacements along z, y, x in voxels of the stage, padded with zeros along x.
        """
        stage, scale = self._stage, np.float32(self._stage.shrink)
        temperature = self.temperature * stage.temperature
        moments = kernels.displacement_moments(costs, temperature, offsets, second=True)
        self._covariance[nodes] = moments.covariance.cpu().numpy() * scale**2
        self._entropy[nodes] = moments.entropy.cpu().numpy()
        several, modes, weights = _hypotheses(costs.cpu().numpy(), temperature, 2 * stage.radius + 1)
        axes = [np.asarray(o.cpu().numpy() * scale, np.float32) for o in offsets]
        vectors = np.stack([axes[2 - i][np.maximum(modes[..., 2 - i], 0)] for i in range(3)], axis=-1)
        places = nodes[several]
        vectors += self._base.reshape(-1, 3)[places][:, None]
        vectors[modes[..., 0] < 0] = np.nan
        self._several.append((places, vectors, weights))

    def end(self, increment: np.ndarray) -> None:
        """The stage has added ``increment`` (kz, ky, kx, 3), in its voxels, to the displacements."""
        stage, points = self._stage, self._base.shape[:3]
        increment = increment * np.float32(stage.shrink)
        places, vectors, weights = (np.concatenate(each) for each in zip(*self._several, strict=True))
        order = np.argsort(places)
        where = np.stack(np.unravel_index(places[order], points), axis=-1)
        self.stages.append(
            StageRecord(
                self.dimension, per_axis(stage.cell * stage.shrink, self.dimension), float(stage.step * stage.shrink),
                self._base + increment, increment, self._covariance.reshape(*points, 3, 3),
                self._entropy.reshape(points), where, vectors[order], weights[order],
            )
        )  # fmt: skip
        del self._base, self._covariance, self._entropy, self._several

    def fields(self, found: list[np.ndarray], lattice: int) -> None:
        """Take in both fields of the last stage, in units of and on a lattice of ``lattice`` working voxels.

        Forward and backward; of a stage that has no backward one there is nothing to take in.
        """
        if len(found) < 2:
            return
        record = self.stages[-1]
        square = np.sum(np.square(compose(found[1], found[0])), axis=-1) * np.float32(lattice**2)
        cell = tuple(b // s for b, s in zip(record.block, per_axis(lattice, self.dimension), strict=True))
        record.disagreement = np.sqrt(restrict(square, cell))

    def refinement(self, before: np.ndarray, block: int, after: np.ndarray, lattice: int) -> None:
        """Take in the field before and after the instance optimisation.

        Both in working voxels, at the centres of blocks of ``block`` and of ``lattice`` working voxels along each axis.
        """
        fine = per_axis(lattice, self.dimension)
        start = relaid(before, per_axis(block, self.dimension), fine, self.shape)
        change = np.sum(np.square(after - start), axis=-1)
        self.refined = np.sqrt(relaid(change, fine, self.stages[-1].block, self.shape))


def relaid(
    values: np.ndarray, block: tuple[int, ...], target: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:  # fmt: skip
    """Values at the centres of blocks of working voxels, linearly interpolated to those of blocks of another size.

    Parameters
    ----------
    values : numpy.ndarray
        Axes z, y, x, and optionally channels.
    block, target : tuple of int
        Working voxels per block along z, y, x: as it is, and as it shall be.
    shape : tuple of int
        Working voxels along z, y, x.
    """
    positions = tuple(
        ((np.arange(-(-n // t)) + 0.5) * t - 0.5 - (b - 1) / 2) / b
        for b, t, n in zip(block, target, shape, strict=True)
    )
    return sample_lines(values, positions)


@compiled
def _find(first, last, costs, temperature, count, limit, found, weight):
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


def _hypotheses(costs: np.ndarray, temperature: float, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of the control points have at least two modes, indices of these (n, modes, 3) as z, y, x, probabilities."""
    flat = np.ascontiguousarray(costs)
    found = np.full((len(flat), _MODES, 3), -1, np.int16)
    weight = np.zeros((len(flat), _MODES), np.float32)
    limit = np.float32(-np.log(_LEAST_RATIO) / temperature)
    run(_find, len(flat), flat, np.float32(temperature), count, limit, found, weight, grain=16)
    several = np.flatnonzero(found[:, 1, 0] >= 0)
    return several, found[several], weight[several]
