"""Moments of the displacement under the softmax of negated, scaled costs, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Moments", "displacement_moments", "displacement_vectors"]


class Moments(NamedTuple):
    """Hold the mean of a displacement, its covariance and entropy.

    Vectors have components x, y(, z); lengths are feature voxels.
    """

    mean: Tensor
    """Expected displacement, shape (*control points, dim)."""
    covariance: Tensor | None
    """Covariance of the displacement, shape (*control points, dim, dim); None where it was not asked for."""
    entropy: Tensor | None
    """Entropy in nats, shape (*control points); None where it was not asked for."""
    log_partition: Tensor
    """Logarithm of the sum of exp(-temperature costs), shape (*control points)."""


def displacement_vectors(displacements: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """All displacements of a set, shape (Dz, Dy, Dx, dim), components x, y, z, in the type of ``like``."""
    axes = torch.meshgrid(*[d.to(like) for d in displacements], indexing="ij")
    return torch.stack(axes[::-1], dim=-1)


def displacement_moments(
    costs: Tensor, temperature: Tensor | float, displacements: Sequence[Tensor], *, second: bool = False
) -> Moments:
    """Expectation of the displacement under the softmax of the negated, scaled costs.

    This is the definition; :func:`itk_pdd.kernels.displacement_moments` is faster.

    Parameters
    ----------
    costs : Tensor, shape (..., *displacements)
        Any axes, then those of the displacements.
    temperature : Tensor or float
        Factor of the costs.
    displacements : sequence of Tensor
        Displacements along each axis, (z,) y, x.
    second : bool
        Whether to return covariance and entropy as well.

    Returns
    -------
    Moments
    """
    lead = costs.shape[: costs.ndim - len(displacements)]
    vectors = displacement_vectors(displacements, like=costs).flatten(0, -2)
    logits = -temperature * costs.flatten(len(lead))
    log_partition = torch.logsumexp(logits, dim=-1)
    logs = logits - log_partition.unsqueeze(-1)
    probabilities = logs.exp()
    mean = probabilities @ vectors
    if not second:
        return Moments(mean, None, None, log_partition)
    products = vectors.unsqueeze(-1) * vectors.unsqueeze(-2)
    square = (probabilities @ products.flatten(1)).unflatten(-1, products.shape[1:])
    covariance = square - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    return Moments(mean, covariance, -(probabilities * logs).sum(dim=-1), log_partition)
