"""Smooth, endlessly repeated noise that can be sampled at any point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itk_pdd.geometry.grid import Grid

__all__ = ["NoiseTile", "texture_sigmas"]

_NODES_PER_SIGMA = 2.0


@dataclass(frozen=True)
class NoiseTile:
    """Gaussian noise of zero mean and unit variance on a periodic tile."""

    values: np.ndarray  # float32 values on the nodes of the tile, axes (z,) y, x
    step: float  # distance of the nodes, in the unit of the coordinates it is sampled at

    @classmethod
    def draw(cls, rng: np.random.Generator, dimension: int, sigma: float, extent: float, largest: int) -> NoiseTile:
        """Draw noise smoothed by a Gaussian of ``sigma``; it repeats after ``extent`` or ``largest`` nodes."""
        from scipy import ndimage

        step = sigma / _NODES_PER_SIGMA
        nodes = int(np.clip(np.ceil(extent / step), 16, largest))
        values = rng.standard_normal((nodes,) * dimension, dtype=np.float32)
        values = ndimage.gaussian_filter(values, sigma / step, mode="wrap", truncate=3.0)
        return cls((values - values.mean()) / values.std(), step)

    def sample(self, coordinates: Sequence[np.ndarray], shift: Sequence[float] | None = None) -> np.ndarray:
        """Interpolate linearly at points x, y(, z); coordinates beyond the dimension of the tile are ignored.

        Another ``shift`` of the coordinates gives another, practically independent noise.
        """
        from scipy import ndimage

        dimension = self.values.ndim
        index = np.empty((dimension, *coordinates[0].shape), dtype=np.float32)
        for axis in range(dimension):
            offset = 0.0 if shift is None else shift[axis]
            np.multiply(coordinates[axis], 1 / self.step, out=index[dimension - 1 - axis], casting="unsafe")
            index[dimension - 1 - axis] += offset / self.step
        return ndimage.map_coordinates(self.values, index, order=1, mode="grid-wrap", prefilter=False)


def texture_sigmas(grid: Grid) -> tuple[float, float, float]:
    """Smoothness of fine, middle and coarse texture in millimetres, never finer than the voxels can show."""
    coarsest = max(grid.spacing)
    return max(2.5, 0.9 * coarsest), max(6.0, 2.0 * coarsest), max(16.0, 5.0 * coarsest)
