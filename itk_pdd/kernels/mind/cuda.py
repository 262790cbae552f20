"""Binary codes of MIND-SSC features on tensors of any device: see :mod:`itk_pdd.kernels.mind.cpu`.

Shifted slices and sums along one axis after the other, in the order of the CPU kernel, so that the bits are the same
but where a comparison is decided by the last digit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.kernels.mind.pairs import VARIANCE_RANGE, VARIANCE_STRIDE, self_similarity_pairs

__all__ = ["add_codes"]


def add_codes(image: Tensor, codes: Tensor, *, bits: int, shift: int = 0, radius: int = 1, dilation: int = 2) -> None:
    """See :func:`itk_pdd.kernels.mind.cpu.add_codes`.

    Parameters
    ----------
    image : Tensor
        Intensities, axes (z,) y, x.
    codes : Tensor
        int64, shape (z, y, x) (z = 1 for a 2-D image), where the bits of the unsigned codes are set.
    bits, shift, radius, dilation
        As there.
    """
    dimension = image.ndim
    pairs = dilation * self_similarity_pairs(dimension)
    image = image.float()
    padded = functional.pad(image[None, None], (radius + dilation,) * (2 * dimension), mode="replicate")[0, 0]
    distances = [_patches(padded, *pair, dilation, radius) for pair in pairs]
    total, smallest = distances[0].clone(), distances[0].clone()
    for distance in distances[1:]:
        total += distance
        torch.minimum(smallest, distance, out=smallest)
    variance = total.div_(len(distances)).sub_(smallest)
    mean = variance[(slice(None, None, VARIANCE_STRIDE),) * dimension].mean(dtype=torch.float64)
    variance.clamp_(*((factor * mean).float() for factor in VARIANCE_RANGE))
    # e bits >= j + 1/2 for e = exp(-x) is x <= log(bits / (j + 1/2)).
    thresholds = [variance * float(np.float32(np.log(bits / (j + 0.5)))) for j in range(bits)]
    together = 31 // bits  # channels whose bits fit a word of 32, sign excluded: half the memory to go through
    target = codes.view(image.shape)
    for first in range(0, len(distances), together):
        word = torch.zeros_like(smallest, dtype=torch.int32)
        for c, distance in enumerate(distances[first : first + together]):
            distance -= smallest
            for j, threshold in enumerate(thresholds):
                word.add_(distance <= threshold, alpha=1 << (c * bits + j))
        target |= word.long() << (shift + first * bits)


def _patches(padded: Tensor, first: np.ndarray, second: np.ndarray, dilation: int, radius: int) -> Tensor:
    """Sums of squared differences of the patches at two offsets from each voxel."""
    result = (_window(padded, first, dilation) - _window(padded, second, dilation)).square_()
    for axis in reversed(range(padded.ndim)):
        length = result.shape[axis] - 2 * radius
        sums = result.narrow(axis, 0, length)
        for k in range(1, 2 * radius + 1):
            # The first sum makes a new tensor, which the others are added to.
            sums = sums.add(result.narrow(axis, k, length)) if k == 1 else sums.add_(result.narrow(axis, k, length))
        result = sums
    return result


def _window(padded: Tensor, offset: np.ndarray, margin: int) -> Tensor:
    index = (slice(margin + int(o), n - margin + int(o)) for o, n in zip(offset, padded.shape, strict=True))
    return padded[tuple(index)]
