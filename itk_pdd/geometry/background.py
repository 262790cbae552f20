"""The background of an image."""

from __future__ import annotations

import numpy as np

__all__ = ["background_of"]

_BINS = 256
_SAMPLE = 2_000_000  # voxels from which the range of intensities is estimated
_END = 0.1  # a background lies in the darkest or brightest tenth of the range
_LARGEST = 1e300  # of an intensity here: the range of larger ones overflows, in float32 far earlier
_NEAR_ZERO = 0.03  # of the range: the noise about a background of 0


def background_of(array: np.ndarray) -> float:
    """Estimate the value that an image has where there is nothing, such as -1000 for the air of a CT or 0 for an MR.

    It is the most frequent value at the border of the image, if it belongs to the darkest or the brightest tenth of
    its intensities; otherwise the border shows anatomy, and the smallest intensity is taken. In an image without
    negative values, a value next to 0 is the noise about it: 0 is taken. An image of one value has no background: 0.

    Parameters
    ----------
    array : numpy.ndarray
        Intensities, 2-D or 3-D.
    """
    least, most = float(array.min()), float(array.max())
    if least == most:
        return 0.0
    sample = array[(slice(None, None, _step(array, _SAMPLE)),) * array.ndim]
    low, high = np.percentile(np.clip(sample, -_LARGEST, _LARGEST, dtype=np.float64), (0.1, 99.9))
    border = np.concatenate([array.take(end, axis).ravel() for axis in range(array.ndim) for end in (0, -1)])
    found = _most_frequent(border)
    if not (found <= low + _END * (high - low) or found >= high - _END * (high - low)):
        found = least
    return 0.0 if least >= 0 and found <= _NEAR_ZERO * most else found


def _step(array: np.ndarray, voxels: int) -> int:
    return max(1, round((array.size / voxels) ** (1 / array.ndim)))


def _most_frequent(values: np.ndarray) -> float:
    """Return the mode: of whole numbers the most frequent one, else the middle of the fullest bin."""
    if values.dtype.kind in "iub":
        found, counts = np.unique(values, return_counts=True)
        if counts.max() > 0.05 * values.size:
            return float(found[np.argmax(counts)])
    values = np.clip(values, -_LARGEST, _LARGEST, dtype=np.float64)
    counts, edges = np.histogram(values, _BINS, range=tuple(np.percentile(values, (0.1, 99.9))))
    k = int(np.argmax(counts))
    within = values[(values >= edges[k]) & (values <= edges[k + 1])]
    return float(np.median(within)) if within.size else float(np.median(values))
