"""Scans brought to where a network works: anatomical axes, isotropic voxels, normalised intensities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume

__all__ = ["Intensity", "canonical_volume", "largest_share", "prepare_image", "prepare_labels"]


@dataclass(frozen=True)
class Intensity:
    """Map intensities to numbers from -1 to 1; those beyond are clipped."""

    # "range", "percentiles", "linear": whether ``low`` and ``high`` are intensities (calibrated scans such as CT) or
    # percentiles of the scan at hand; "linear" is "range" without clipping.
    kind: str = "percentiles"
    low: float = 1.0  # intensities or percentiles that become -1 and 1
    high: float = 99.0

    def __post_init__(self) -> None:
        if self.kind not in ("range", "percentiles", "linear"):
            raise RegistrationError(f"intensity kind is {self.kind!r}, expected 'range', 'percentiles' or 'linear'")
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise RegistrationError(f"intensity low and high are {self.low} and {self.high}, expected low below high")
        if self.kind == "percentiles" and not 0 <= self.low < self.high <= 100:
            raise RegistrationError(f"intensity percentiles are {self.low} and {self.high}, expected 0 to 100")

    def normalise(self, array: np.ndarray) -> np.ndarray:
        """The array as float32 numbers, ``low`` as -1 and ``high`` as 1."""
        low, high = self.low, self.high
        if self.kind == "percentiles":
            low, high = (float(value) for value in np.percentile(array, (self.low, self.high)))
            high = high if high > low else low + 1.0
        scaled = (np.asarray(array, dtype=np.float32) - np.float32(low)) * np.float32(2 / (high - low)) - 1
        return scaled if self.kind == "linear" else np.clip(scaled, -1, 1, out=scaled)


def canonical_volume(volume: Volume) -> Volume:
    """The same voxels with the index axes along the anatomical axes (to the left, to the back, up)."""
    order, flipped = volume.grid.canonical_axes()
    dimension = volume.grid.dimension
    # Array axes run z, y, x: axis a of the array is index axis dimension - 1 - a.
    array = volume.array.transpose([dimension - 1 - order[dimension - 1 - a] for a in range(dimension)])
    array = array[tuple(slice(None, None, -1) if flipped[dimension - 1 - a] else slice(None) for a in range(dimension))]
    return Volume(np.ascontiguousarray(array), volume.grid.canonical())


def largest_share(shares: Iterable[tuple[int, Volume]], grid: Grid, dtype: type[np.integer]) -> Volume:
    """Give each voxel of a grid the number whose share, a volume on any grid, is the largest there."""
    best, winner = np.full(grid.shape, -np.inf, np.float32), np.zeros(grid.shape, dtype)
    for number, share in shares:
        found = resample(share, grid).array
        better = found > best
        winner[better], best[better] = number, found[better]
    return Volume(winner, grid)


def prepare_image(volume: Volume, spacing: float, intensity: Intensity) -> Volume:
    """A scan on its working grid, along the anatomical axes with voxels of ``spacing`` mm, float32 from -1 to 1."""
    volume = canonical_volume(volume)
    grid = volume.grid.canonical().with_spacing(spacing)
    if not volume.grid.same_space(grid):
        volume = resample(volume, grid)
    return Volume(intensity.normalise(volume.array), grid)


def prepare_labels(volume: Volume, spacing: float, values: Sequence[int]) -> Volume:
    """A label map on its working grid, uint8 indices into ``values`` (0 for any value that is not among them).

    Where voxels have to be interpolated, the class with the largest share wins, which keeps thin organs better than the
    nearest voxel does.
    """
    volume = canonical_volume(volume)
    grid = volume.grid.canonical().with_spacing(spacing)
    index = np.zeros(volume.array.shape, np.uint8)
    for number, value in enumerate(values):
        index[volume.array == value] = number
    if volume.grid.same_space(grid):
        return Volume(index, grid)
    numbers = np.unique(np.append(index, 0))
    shares = ((number, Volume((index == number).astype(np.float32), volume.grid)) for number in numbers)
    return largest_share(shares, grid, np.uint8)
