"""Record the certainty of a PDD network's searches: moments and modes of their distributions, not the distributions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import PointMap
from itk_pdd.geometry.resampling import interpolate
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.uncertainty.recorder import Recorder, StageRecord, distinct_modes

__all__ = ["SearchRecorder"]

_BLOCK = 4
"""Working voxels between the points of the records along each axis: about as dense as the last search's."""


@dataclass(frozen=True)
class _Search:
    """The findings of one search; vectors are physical, lengths are millimetres."""

    mean: DisplacementField  # mean displacement at the control points, before the instance optimisation
    covariance: np.ndarray  # of the displacement, (*control points, 3, 3)
    entropy: np.ndarray  # of the distribution in nats, (*control points)
    step: float  # distance of neighbouring displacements (root mean square over the axes)
    before: PointMap  # the searches before it, from points of the fixed image on
    # Control points with several modes (n, 3), the displacements of these (n, modes, 3), NaN where there are fewer, and
    # their probabilities (n, modes).
    places: np.ndarray
    modes: np.ndarray
    weights: np.ndarray


class SearchRecorder:
    """Listens to the searches of a PDD network; without one nothing of this is computed.

    A distribution has thousands of probabilities at each of a hundred thousand control points. It is reduced while it
    is there.

    Parameters
    ----------
    temperature : float
        Factor of the network's temperature at which the distributions are probabilities. The temperature was chosen for
        the mean; below 1 makes them wider.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self._searches: list[_Search] = []

    def clear(self) -> None:
        """Forget all searches."""
        self._searches.clear()

    def search(
        self,
        distribution: DisplacementDistribution,
        mean: Tensor,
        *,
        scale: tuple[float, ...],
        points: Grid,
        grid: Grid,
        before: PointMap,
    ) -> None:
        """Take in the distribution of a search.

        Parameters
        ----------
        distribution : DisplacementDistribution
            Of a 3-D search, in feature voxels.
        mean : Tensor
            Its mean, (*control points, 3).
        scale : tuple of float
            Working voxels per feature voxel along z, y, x.
        points, grid : Grid
            The control points, and the working grid.
        before : callable
            The searches before this one: physical points to physical points, without the initial transform.
        """
        matrix = (grid.matrix * np.asarray(scale[::-1])).astype(np.float32)  # from feature voxels to millimetres
        moments = distribution.moments(sharpness=self.temperature)
        assert moments.covariance is not None and moments.entropy is not None
        steps = [float(d[1] - d[0]) if len(d) > 1 else 0.0 for d in distribution.displacements]
        temperature = self.temperature * float(distribution.temperature)
        count = distribution.displacement_shape[-1]
        costs = distribution.costs.detach().flatten(0, 2).cpu().numpy()
        several, index, weights = distinct_modes(costs, temperature, count)
        axes = [d.cpu().numpy() for d in distribution.displacements]
        modes = np.stack([axes[2 - i][np.maximum(index[..., 2 - i], 0)] for i in range(3)], axis=-1) @ matrix.T
        modes[index[..., 0] < 0] = np.nan
        self._searches.append(
            _Search(
                mean=DisplacementField(np.ascontiguousarray(_numpy(mean) @ matrix.T), points),
                covariance=matrix @ _numpy(moments.covariance) @ matrix.T,
                entropy=_numpy(moments.entropy),
                step=float(np.linalg.norm(matrix @ np.diag(steps[::-1])) / np.sqrt(3)),
                before=before,
                places=points.to_physical(np.stack(np.unravel_index(several, points.shape), axis=-1)[:, ::-1]),
                modes=modes.astype(np.float32),
                weights=weights,
            )
        )

    def records(self, grid: Grid) -> list[StageRecord]:
        """Put the findings onto blocks of a working grid, one record for each search.

        Parameters
        ----------
        grid : Grid
            3-D, the same spacing along all axes; need not be the grid on which the network searched.
        """
        blocks = grid.blocks(_BLOCK)
        points, inverse = blocks.points(), np.linalg.inv(grid.matrix).astype(np.float32)
        result = []
        for each in self._searches:
            increment = each.mean.at(points, outside="nearest")
            covariance = interpolate(each.covariance.reshape(*each.mean.grid.shape, 9), each.mean.grid, blocks)
            known = ~np.isnan(each.modes[..., 0])
            modes = np.full_like(each.modes, np.nan)
            places = np.broadcast_to(each.places[:, None], modes.shape)[known]
            modes[known] = (each.before(places + each.modes[known]) - places) @ inverse.T
            result.append(
                StageRecord(
                    dimension=3,
                    block=(_BLOCK,) * 3,
                    step=each.step / float(min(grid.spacing)),
                    mean=((each.before(points + increment) - points) @ inverse.T).astype(np.float32),
                    increment=(increment @ inverse.T).astype(np.float32),
                    covariance=inverse @ covariance.reshape(*blocks.shape, 3, 3) @ inverse.T,
                    entropy=interpolate(each.entropy, each.mean.grid, blocks),
                    where=blocks.to_index(each.places)[:, ::-1],
                    modes=modes,
                    weights=each.weights,
                )
            )
        return result

    def recorder(self, grid: Grid) -> Recorder:
        """Make the recorder of a search that has had these searches for its stages; see :meth:`records`."""
        made = Recorder(self.temperature)
        made.stages = self.records(grid)
        return made


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float32, copy=False)
