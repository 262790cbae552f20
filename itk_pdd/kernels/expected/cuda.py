"""Values of a map expected under a distribution on CUDA tensors, by torch's operators a part at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itk_pdd.kernels.expected.definition import weighted
from itk_pdd.kernels.interpolation.definition import interpolate
from itk_pdd.kernels.moments.cuda import moments

__all__ = ["expected_values", "expected_values_backward", "moments"]


def _expected(costs: Tensor, temperature: float, log_partition: Tensor, dimension: int) -> Tensor:
    logs = -temperature * costs.flatten(dimension) - log_partition.reshape(*costs.shape[:dimension], 1)
    return logs.exp().view(costs.shape)


def expected_values(
    costs: Tensor, temperature: float, log_partition: Tensor, moving: Tensor, coordinates: Sequence[Tensor]
) -> Tensor:
    """Expected values of a map, (L, *control points)."""
    return weighted(_expected(costs, temperature, log_partition, len(coordinates)), moving, coordinates, 0)


def expected_values_backward(
    costs: Tensor,
    temperature: float,
    log_partition: Tensor,
    moving: Tensor,
    coordinates: Sequence[Tensor],
    values: Tensor,
    gradient: Tensor,
) -> Tensor:
    """Gradient of the costs from that of the expected ``values``."""
    out = torch.empty_like(costs)
    _products(gradient, moving, coordinates, 0, out)
    dimension = len(coordinates)
    centre = (values * gradient).sum(dim=0)
    out.sub_(centre.reshape(*centre.shape, *[1] * dimension))
    return out.mul_(_expected(costs, temperature, log_partition, dimension)).mul_(-temperature)


def _products(gradient: Tensor, moving: Tensor, coordinates: Sequence[Tensor], axis: int, out: Tensor) -> None:
    """Sum over the channels of gradient and moving map at every displaced position."""
    table = coordinates[axis]
    if axis == len(coordinates) - 1:
        there = interpolate(moving, table.flatten(), axis + 1).unflatten(-1, table.shape)
        out.copy_((gradient.unsqueeze(-1) * there).sum(dim=0))
        return
    for index, along in enumerate(table.T):
        part = out.select(len(coordinates), index)
        _products(gradient, interpolate(moving, along, axis + 1), coordinates, axis + 1, part)
