"""Linear interpolation of tensors, differentiable in values and coordinates: the definition, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["interpolate", "sample"]


def interpolate(values: Tensor, coordinates: Tensor, axis: int, *, outside: str = "nearest") -> Tensor:
    """Interpolate linearly along one axis; differentiable in the values and in the coordinates.

    Parameters
    ----------
    values : Tensor
        Any shape.
    coordinates : Tensor, shape (n,)
        Continuous indices along ``axis``.
    axis : int
        The axis that is replaced by the ``n`` coordinates.
    outside : {"nearest", "zero"}
        What lies beyond the ends: the end value, or zeros (to which the end value falls off within one voxel).
    """
    size = values.shape[axis]
    if outside == "nearest":
        coordinates = coordinates.clamp(0, size - 1)
    low = coordinates.detach().floor()
    high = low + 1
    weight = coordinates - low
    parts = []
    shares = [(low, 1 - weight), (high, weight)]
    if not coordinates.requires_grad and not bool(weight.any()):
        shares.pop()  # nothing between two entries
    for index, share in shares:
        if outside == "zero":
            share = torch.where((index >= 0) & (index <= size - 1), share, torch.zeros_like(share))
        share = share.to(device=values.device, dtype=values.dtype)
        share = share.reshape([-1 if a == axis % values.ndim else 1 for a in range(values.ndim)])
        index = index.clamp(0, size - 1).long().to(values.device)
        parts.append(values.index_select(axis, index) * share)
    return sum(parts[1:], parts[0])


def sample(values: Tensor, coordinates: Sequence[Tensor], *, outside: str = "nearest") -> Tensor:
    """Interpolate linearly on the grid spanned by one set of coordinates per axis.

    Parameters
    ----------
    values : Tensor, shape (C, *spatial)
        Feature map.
    coordinates : sequence of Tensor
        Continuous indices along each spatial axis, (z,) y, x.
    outside : {"nearest", "zero"}
        See :func:`interpolate`.

    Returns
    -------
    Tensor, shape (C, *numbers of coordinates)
    """
    for axis, along in enumerate(coordinates):
        values = interpolate(values, along, axis + 1, outside=outside)
    return values
