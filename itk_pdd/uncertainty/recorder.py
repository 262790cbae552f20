"""What the search tells about its certainty while it runs: widths of the marginals, disagreement, hypotheses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.kernels.interpolation import sample_lines
from itk_pdd.kernels.lattice import compose, restrict
from itk_pdd.kernels.parallel import compiled, run

if TYPE_CHECKING:
    from itk_pdd.stages import Stage

__all__ = ["Recorder", "StageRecord", "relaid"]

_MODES = 8  # hypotheses that are kept at a control point
_LEAST_RATIO = 0.2  # probability of a hypothesis, relative to the best one, below which it is none


@dataclass
class StageRecord:
    """What one stage found at its control points. Lengths are working voxels, arrays have the axes z, y, x.

    Attributes
    ----------
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
        flat = sum(b == 1 for b in self.block) if min(self.block) == 1 < max(self.block) else 0
        quantisation = (3 - flat) * self.step**2 / 12
        return np.sqrt(np.trace(self.covariance, axis1=-2, axis2=-1) + quantisation)


class Recorder:
    """Listens to :func:`itk_pdd.search.search`; without one nothing of all this is computed.

    Parameters
    ----------
    shape : tuple of int
        Voxels of the working grid along z, y, x.
    dimension : int
        2 or 3.
    """

    def __init__(self, shape: tuple[int, int, int], dimension: int) -> None:
        self.shape, self.dimension = shape, dimension
        self.stages: list[StageRecord] = []
        self.refined = 0.0
        """Root mean square of what the instance optimisation changed, on the last stage's control points."""

    def _per_axis(self, value: int) -> tuple[int, int, int]:
        return (value if self.dimension == 3 else 1, value, value)

    def marginals(self, stage: Stage, costs: Any, offsets: Any, moments: Any, found: np.ndarray | None) -> None:
        """Take in the distribution of a stage.

        Parameters
        ----------
        stage : Stage
            Its settings.
        costs : torch.Tensor
            Regularised costs, shape (kz, ky, kx, dz, dy, width).
        offsets : sequence of torch.Tensor
            Displacements along z, y, x in voxels of the stage, padded with zeros along x.
        moments : Moments
            Mean, covariance and entropy under the softmax.
        found : numpy.ndarray, optional
            Displacement of the control points before the stage, in its voxels.
        """
        scale = np.float32(stage.shrink)
        increment = moments.mean.cpu().numpy() * scale
        base = np.zeros_like(increment) if found is None else found * scale
        covariance = moments.covariance.cpu().numpy() * scale**2
        block = self._per_axis(stage.cell * stage.shrink)
        step = float(stage.step * stage.shrink)
        count = 2 * stage.radius + 1
        # Two hypotheses, three steps apart, of which the weaker has a probability of 0.1, have this variance.
        several = np.argwhere(np.trace(covariance, axis1=-2, axis2=-1) > 0.8 * step**2)
        where, modes, weights = _hypotheses(costs.cpu().numpy(), stage.temperature, several, count)
        axes = [np.asarray(o.cpu().numpy() * scale, np.float32) for o in offsets]
        vectors = np.stack([axes[2 - i][np.maximum(modes[..., 2 - i], 0)] for i in range(3)], axis=-1)
        vectors += base[tuple(where.T)][:, None]
        vectors[modes[..., 0] < 0] = np.nan
        self.stages.append(
            StageRecord(
                block, step, base + increment, increment, covariance, moments.entropy.cpu().numpy(), where, vectors,
                weights,
            )
        )  # fmt: skip

    def fields(self, stage: Stage, found: list[np.ndarray], lattice: int) -> None:
        """Take in forward and backward field of a stage, in units of and on a lattice of ``lattice`` working voxels."""
        if len(found) < 2:
            return
        record = self.stages[-1]
        square = np.sum(np.square(compose(found[1], found[0])), axis=-1) * np.float32(lattice**2)
        cell = tuple(b // s for b, s in zip(record.block, self._per_axis(lattice), strict=True))
        record.disagreement = np.sqrt(restrict(square, cell))

    def refinement(self, before: np.ndarray, after: np.ndarray) -> None:
        """Take in the field in working voxels before and after the instance optimisation."""
        self.refined = np.sqrt(restrict(np.sum(np.square(after - before), axis=-1), self.stages[-1].block))


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
        ((np.arange(-(-n // t)) + 0.5) * t - 0.5 - (b - 1) / 2) / b for b, t, n in zip(block, target, shape, strict=True)
    )
    return sample_lines(values, positions)


@compiled()
def _find(first, last, costs, chosen, temperature, count, limit, found, weight):
    depth, height = costs.shape[1:3]
    room = found.shape[1]
    for task in range(first, last):
        grid = costs[chosen[task]]
        least = grid[0, 0, 0]
        for z in range(depth):
            for y in range(height):
                for x in range(count):
                    least = min(least, grid[z, y, x])
        total = 0.0
        for z in range(depth):
            for y in range(height):
                for x in range(count):
                    total += np.exp(temperature * (least - grid[z, y, x]))
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
                                before = (i, j, k) < (z, y, x)
                                if other < value or (before and other == value):
                                    summit = False
                    if not summit:
                        continue
                    around /= total
                    # Insertion by weight.
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


def _hypotheses(
    costs: np.ndarray, temperature: float, points: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Control points (n, 3) with at least two modes, indices of the modes (n, modes, 3) as z, y, x, probabilities."""
    chosen = np.ravel_multi_index(tuple(points.T), costs.shape[:3]) if len(points) else np.empty(0, np.int64)
    found = np.full((len(points), _MODES, 3), -1, np.int64)
    weight = np.zeros((len(points), _MODES), np.float32)
    flat = costs.reshape(-1, *costs.shape[3:])
    limit = np.float32(-np.log(_LEAST_RATIO) / temperature)
    run(_find, len(points), flat, chosen, np.float32(temperature), count, limit, found, weight, grain=16)
    several = found[:, 1, 0] >= 0
    return points[several], found[several], weight[several]
