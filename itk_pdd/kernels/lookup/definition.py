"""The probability of given displacements, interpolated between those of the set, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["probabilities_at"]


def probabilities_at(
    costs: Tensor, temperature: Tensor, log_partition: Tensor, displacements: Sequence[Tensor], vectors: Tensor
) -> Tensor:
    """Probability of one displacement at each control point of a 3-D search; differentiable in the displacement.

    This is the definition; :func:`itk_pdd.kernels.probabilities_at` is faster.

    Parameters
    ----------
    costs : Tensor, shape (z, y, x, Dz, Dy, Dx)
        Of the displacements at the control points.
    temperature : Tensor
        Factor of the costs in the softmax; a number.
    log_partition : Tensor, shape (z, y, x)
        Logarithm of the sum of exp(-temperature costs).
    displacements : sequence of Tensor
        Displacements along each axis z, y, x, evenly spaced.
    vectors : Tensor, shape (z, y, x, 3)
        Components x, y, z, in the unit of ``displacements``. Between these probabilities are interpolated linearly,
        beyond them the outermost ones hold.

    Returns
    -------
    Tensor, shape (z * y * x,)
    """
    flat, shape = costs.flatten(3).flatten(0, 2), costs.shape[3:]
    point = torch.arange(flat.shape[0], device=costs.device)
    lows, shares = [], []
    for axis, along in enumerate(displacements):
        step = float(along[1] - along[0])
        index = ((vectors[..., 2 - axis].flatten() - float(along[0])) / step).clamp(0, len(along) - 1)
        low = index.detach().floor().clamp(max=len(along) - 2)
        lows.append(low.long())
        shares.append((1 - (index - low), index - low))
    result = torch.zeros_like(shares[0][0])
    for corner in range(8):
        bits = [corner >> axis & 1 for axis in range(3)]
        z, y, x = (low + bit for low, bit in zip(lows, bits, strict=True))
        found = flat[point, (z * shape[1] + y) * shape[2] + x]
        weight = shares[0][bits[0]] * shares[1][bits[1]] * shares[2][bits[2]]
        result = result + weight * torch.exp(-temperature * found - log_partition.flatten())
    return result
