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

    It is the most frequent value at the border of the image, if it belongs to the darkest or the brightest tenth of its
    intensities; otherwise the border shows anatomy, and the smallest intensity is taken. In an image without negative
    values, a value next to 0 is the noise about it: 0 is taken. An image of one value has no background: 0. NaN and
    infinite values do not count.
    """
    step = max(1, round((array.size / _SAMPLE) ** (1 / array.ndim)))
    sample = _finite(array[(slice(None, None, step),) * array.ndim])
    border = _finite(np.concatenate([array.take(end, axis).ravel() for axis in range(array.ndim) for end in (0, -1)]))
    if not sample.size or not border.size:
        return 0.0
    least, most = (float(end(array, where=np.isfinite(array), initial=border[0])) for end in (np.min, np.max))
    if least == most:
        return 0.0
    low, high = np.percentile(sample.astype(np.float64), (0.1, 99.9))
    found = _most_frequent(border)
    if not (found <= low + _END * (high - low) or found >= high - _END * (high - low)):
        found = least
    return 0.0 if least >= 0 and found <= _NEAR_ZERO * most else found


def _finite(values: np.ndarray) -> np.ndarray:
    """Return the values that are numbers, clipped to a range that does not overflow."""
    if values.dtype.kind != "f":
        return values
    return np.clip(values[np.isfinite(values)], -_LARGEST, _LARGEST, dtype=np.float64)


def _most_frequent(values: np.ndarray) -> float:
    """Return the mode: of whole numbers the most frequent one, else the middle of the fullest bin."""
    if values.dtype.kind in "iub":
        found, counts = np.unique(values, return_counts=True)
        if counts.max() > 0.05 * values.size:
            return float(found[np.argmax(counts)])
    counts, edges = np.histogram(values, _BINS, range=tuple(np.percentile(values, (0.1, 99.9))))
    k = int(np.argmax(counts))
    within = values[(values >= edges[k]) & (values <= edges[k + 1])]
    return float(np.median(within)) if within.size else float(np.median(values))
