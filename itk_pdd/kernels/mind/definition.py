"""MIND-SSC: hand-made features that describe local self-similarity, for images of any modality.

References
----------
Heinrich M.P. et al., "Towards realtime multimodal fusion for image-guided interventions using self-similarities",
MICCAI 2013.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch.nn import functional

__all__ = ["mind_ssc", "self_similarity_pairs"]

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


def mind_ssc(image: torch.Tensor, *, radius: int = 1, dilation: int = 2) -> torch.Tensor:
    """Self-similarity context of an image.

    Parameters
    ----------
    image : torch.Tensor
        Intensities, shape ((z,) y, x); any scale: the result does not change under a x + b.
    radius : int
        Patches have 2 radius + 1 voxels per axis; larger ones are less noisy and less local.
    dilation : int
        Distance of the compared patches from the voxel, in voxels; larger ones describe coarser structure.

    Returns
    -------
    torch.Tensor
        Features in (0, 1], shape (C, (z,) y, x), C = 12 in 3-D and 4 in 2-D; beyond the border the nearest voxel
        counts.
    """
    dimension = image.ndim
    margin = radius + dilation
    padded = functional.pad(image[None, None], (margin,) * (2 * dimension), mode="replicate")[0, 0]
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[dimension]
    distances = []
    for first, second in self_similarity_pairs(dimension):
        difference = _window(padded, dilation * first, dilation) - _window(padded, dilation * second, dilation)
        distances.append(pool(difference.square()[None, None], 2 * radius + 1, stride=1)[0, 0])
    distance = torch.stack(distances)
    distance = distance - distance.amin(0, keepdim=True)
    variance = distance.mean(0, keepdim=True)
    mean = variance[(slice(None),) + (slice(None, None, VARIANCE_STRIDE),) * dimension].mean()
    variance = variance.clamp(VARIANCE_RANGE[0] * mean, VARIANCE_RANGE[1] * mean)
    return torch.where(variance > 0, torch.exp(-distance / variance), 1.0)


def _window(padded: torch.Tensor, offset: np.ndarray, margin: int) -> torch.Tensor:
    """The part of a padded image that lies ``margin`` voxels inside its border, moved by an offset."""
    return padded[
        tuple(slice(margin + int(o), size - margin + int(o)) for o, size in zip(offset, padded.shape, strict=True))
    ]
