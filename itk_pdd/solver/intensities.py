"""Intensities without outliers: a few voxels far beyond all others must not decide what counts as contrast."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from itk_pdd.io.volume import Volume

__all__ = ["without_outliers"]

log = logging.getLogger("itk_pdd")

_OUTLIER_SHARE = 1e-5  # of the voxels that may be outliers at each end of the intensities
_LEAST_OUTLIERS = 8  # voxels of a small image that may be
_OUTLIER_DISTANCE = 10.0  # beyond the other voxels, in units of their whole range
_SAMPLED_VOXELS = 200_000  # that are looked at first


def without_outliers(volume: Volume, name: str = "image") -> Volume:
    """Replace the few voxels whose intensities lie far beyond all others by the median of their neighbours.

    Outliers are at most 8 voxels, or one of 100,000, at each end of the intensities, farther from the others than ten
    times the range of these: damaged voxels, values that mark something, numbers that overflowed. Structures, noise and
    metal are not as far away. The log tells how many were replaced; ``volume`` itself is returned where there are none.
    """
    array = volume.array
    sample = array.reshape(-1)[:: max(1, array.size // _SAMPLED_VOXELS)]
    ends = float(array.min()), float(array.max())
    # Nearly always the extremes are near the bulk, and nothing needs to be sorted.
    low, high = (float(value) for value in np.quantile(sample, (0.01, 0.99)))
    if max(ends[1] - high, low - ends[0]) <= _OUTLIER_DISTANCE * (high - low):
        return volume
    most = min(max(_LEAST_OUTLIERS, int(_OUTLIER_SHARE * array.size)), (array.size - 1) // 2)
    ordered = np.partition(array, (most, array.size - 1 - most), axis=None)
    low, high = float(ordered[most]), float(ordered[-1 - most])
    distance = _OUTLIER_DISTANCE * (high - low)
    outliers = (array > high + distance) | (array < low - distance)
    # A few bright voxels on a constant background are all there is to see.
    if not distance or not outliers.any():
        return volume
    places = np.argwhere(outliers)
    log.warning(
        "%s: %d voxels lie far beyond the other intensities, which go from %.6g to %.6g (the extremes are %.6g and "
        "%.6g): they are taken as the median of their neighbours",
        name, len(places), low, high, *ends,
    )  # fmt: skip
    mended = array.copy()
    for place in places:
        around = tuple(slice(max(0, i - 1), i + 2) for i in place)
        known = array[around][~outliers[around]]
        mended[tuple(place)] = np.median(known) if known.size else np.clip(array[tuple(place)], low, high)
    return replace(volume, array=mended)
