"""The mean field along one axis as a matrix, the same for all devices."""

from __future__ import annotations

import numpy as np

__all__ = ["diagonals"]


def diagonals(size: int, *, transposed: bool = False) -> np.ndarray:
    """The five diagonals of the smoothing matrix along an axis: entry [k, t] weighs number k + t - 2 in result k."""
    matrix = np.zeros((size, size))
    for k in range(size):
        for t, weight in zip(range(-2, 3), (1, 2, 3, 2, 1), strict=True):
            matrix[k, min(max(k + t, 0), size - 1)] += weight / 9
    if transposed:
        matrix = matrix.T
    result = np.zeros((size, 5))
    for k in range(size):
        for t in range(-2, 3):
            if 0 <= k + t < size:
                result[k, t + 2] = matrix[k, k + t]
    return result
