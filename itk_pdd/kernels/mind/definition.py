"""MIND-SSC: hand-made features that describe local self-similarity, for images of any modality.

References
----------
Heinrich M.P. et al., "Towards realtime multimodal fusion for image-guided interventions using self-similarities",
MICCAI 2013.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from itk_pdd.kernels.mind.pairs import VARIANCE_RANGE, VARIANCE_STRIDE, self_similarity_pairs

__all__ = ["mind_ssc", "self_similarity_pairs"]


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
