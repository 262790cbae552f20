"""Constants of MIND-SSC that its CPU and GPU kernels and its definition share. Free of torch."""

from __future__ import annotations

import itertools

import numpy as np

__all__ = ["VARIANCE_RANGE", "VARIANCE_STRIDE", "self_similarity_pairs"]

# The variance estimate is kept within these multiples of its mean over the image: noise in flat regions must not be
# stretched to structure.
VARIANCE_RANGE = (1e-3, 1e3)
# The mean is taken over every fourth voxel along each axis, which is plenty and lets the kernel find it cheaply.
VARIANCE_STRIDE = 4


def self_similarity_pairs(dimension: int) -> np.ndarray:
    """Pairs of face neighbours that are compared: all at a distance of sqrt(2) voxels.

    Returns
    -------
    numpy.ndarray
        Offsets in voxels, shape (12, 2, 3) in 3-D and (4, 2, 2) in 2-D, components in array order (z,) y, x.
    """
    neighbours = []
    for axis in range(dimension):
        for sign in (-1, 1):
            offset = [0] * dimension
            offset[axis] = sign
            neighbours.append(tuple(offset))
    pairs = [
        (a, b)
        for a, b in itertools.combinations(neighbours, 2)
        if sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) == 2
    ]
    return np.asarray(pairs, dtype=np.int64)
