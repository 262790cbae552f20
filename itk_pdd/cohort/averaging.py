"""Average images robustly on a grid, and measure how sharp an average is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.io.volume import Volume

__all__ = ["Moments", "common_grid", "robust_mean", "sharpness"]

_CUT = 0.2  # share of the values that is left out at either end
_WINDOW = (1.0, 99.0)  # percentiles that are brought to 0 and 1000
_SPAN = 1000.0


def common_grid(grids: Sequence[Grid]) -> Grid:
    """Choose a grid along the patient's axes that is as large and as fine as the grids are in the middle.

    The extent is the median one with a margin of a tenth, the spacing the median one, the centre that of the first
    grid.
    """
    canonical = [grid.canonical() for grid in grids]
    spacing = np.median([grid.spacing for grid in canonical], axis=0)
    size = np.ceil(1.1 * np.median([grid.extent for grid in canonical], axis=0) / spacing).astype(int)
    direction = np.asarray(canonical[0].direction)
    origin = canonical[0].centre - direction @ ((size - 1) / 2 * spacing)
    return Grid.create(size, spacing, origin, direction)


def robust_mean(
    paths: Sequence[str | Path], mappings: Sequence[Callable[[np.ndarray], np.ndarray]], grid: Grid, folder: Path
) -> Volume:
    """Average images under their mappings: at each voxel without a fifth of the values at either end.

    The mappings take points of the grid to those of each image. The 1st and the 99th percentile of each image are
    brought to 0 and 1000 before. Images do not count where they have no voxels. All warped images lie in a file in
    ``folder`` meanwhile: memory is needed for one of them alone.
    """
    from itk_pdd.kernels.interpolation.cpu import sample_linear

    with tempfile.TemporaryDirectory(dir=folder, prefix="average.") as place:
        shape = (len(paths), *grid.shape)
        warped = np.memmap(Path(place) / "warped", np.float32, "w+", shape=shape)
        for image, path, mapping in zip(warped, paths, mappings, strict=True):
            volume = Volume.from_image(path, name="scan")
            array = _levelled(volume.array)[..., None]
            for slab, points in slabs(grid):
                found = volume.grid.to_index(mapping(points))
                values = sample_linear(array, found, outside="nearest")[..., 0]
                image[slab] = np.where(volume.grid.contains_index(found), values, np.nan)
        mean = np.empty(grid.shape, np.float32)
        for first in range(0, grid.shape[0], 8):
            part = slice(first, first + 8)
            mean[part] = _trimmed(np.array(warped[:, part]))
        del warped
    return Volume(mean, grid)


def _levelled(array: np.ndarray) -> np.ndarray:
    low, high = np.percentile(array, _WINDOW)
    scaled = (array.astype(np.float32) - np.float32(low)) * np.float32(_SPAN / max(high - low, 1e-12))
    return np.clip(scaled, -_SPAN, 3 * _SPAN)


def _trimmed(values: np.ndarray) -> np.ndarray:
    """Average over the first axis without the ends; NaN do not count, and a voxel of NaN alone becomes 0."""
    values = np.sort(values, axis=0)  # NaN last
    count = np.isfinite(values).sum(axis=0)
    cut = np.floor(_CUT * count).astype(int)
    rank = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    used = (rank >= cut) & (rank < count - cut)
    return np.where(used, np.nan_to_num(values), 0).sum(axis=0) / np.maximum(used.sum(axis=0), 1)


def sharpness(volume: Volume) -> float:
    """Measure how sharp an image is: the mean length of its gradient per voxel, in its standard deviations.

    Only the middle half of the image along each axis counts, where all scans have voxels.
    """
    inner = tuple(slice(n // 4, n - n // 4) for n in volume.array.shape)
    array = volume.array[inner].astype(float)
    slope = np.sqrt(sum(np.gradient(array, axis=axis) ** 2 for axis in range(array.ndim)))
    return float(slope.mean() / max(array.std(), 1e-12))


class Moments:
    """Mean and standard deviation of arrays that come one after the other."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Any = 0.0
        self._square: Any = 0.0

    def add(self, array: np.ndarray) -> None:
        """Take an array in."""
        self.count += 1
        self._sum = self._sum + array.astype(float)
        self._square = self._square + array.astype(float) ** 2

    @property
    def mean(self) -> np.ndarray:
        """The mean, float32."""
        return (np.asarray(self._sum) / self.count).astype(np.float32)

    @property
    def spread(self) -> np.ndarray:
        """The standard deviation, float32."""
        variance = np.asarray(self._square) / self.count - (np.asarray(self._sum) / self.count) ** 2
        return np.sqrt(np.maximum(variance, 0)).astype(np.float32)
