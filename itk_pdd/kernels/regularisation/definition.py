"""Min-convolution over displacements and mean field over control points, in plain torch.

The costs have the axes (..., Nz, Ny, Nx, Dz, Dy, Dx), in 2-D (..., Ny, Nx, Dy, Dx): control points first, then
displacements, after any number of leading axes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError

__all__ = ["check_costs", "mean_field", "min_convolution", "regularise"]


def check_costs(costs: Tensor, dimension: int) -> None:
    """Raise unless there are control and displacement axes for this dimension."""
    if dimension not in (2, 3):
        raise RegistrationError(f"dimension must be 2 or 3, found {dimension!r}")
    if costs.ndim < 2 * dimension or not costs.is_floating_point():
        raise RegistrationError(
            f"costs must be floating point with {dimension} axes of control points and {dimension} of displacements, "
            f"found {costs.dtype} of shape {tuple(costs.shape)}"
        )


def _replicated(values: Tensor, axis: int, border: int) -> Tensor:
    size = values.shape[axis]
    index = torch.arange(-border, size + border, device=values.device).clamp(0, size - 1)
    return values.index_select(axis, index)


def _minimum_of_three(values: Tensor, axis: int) -> Tensor:
    """Minimum of neighbours, two entries shorter; of equal ones the first gets the whole gradient."""
    size = values.shape[axis] - 2
    result = values.narrow(axis, 0, size)
    for shift in (1, 2):
        other = values.narrow(axis, shift, size)
        result = torch.where(other < result, other, result)
    return result


def _average_of_three(values: Tensor, axis: int) -> Tensor:
    size = values.shape[axis] - 2
    return (values.narrow(axis, 0, size) + values.narrow(axis, 1, size) + values.narrow(axis, 2, size)) / 3


def min_convolution(costs: Tensor, dimension: int) -> Tensor:
    """Smooth lower envelope of the costs over the displacements, the paper's approximation of a min-convolution.

    A border of 3 is replicated, then the minimum over windows of 3 and twice the average over windows of 3 are taken,
    along each displacement axis. Gradients go to the minimum of each window; of equal ones, to the first in the order
    z, y, x.

    Parameters
    ----------
    costs : Tensor, shape (..., *displacements)
        The last ``dimension`` axes are those of the displacements.
    dimension : int
        2 or 3.
    """
    check_costs(costs, dimension)
    axes = range(-dimension, 0)
    for axis in axes:
        costs = _replicated(costs, axis, 3)
    # The last axis first: so the first of equal minima is the one that comes first in memory.
    for axis in reversed(axes):
        costs = _minimum_of_three(costs, axis)
    for axis in axes:
        costs = _average_of_three(_average_of_three(costs, axis), axis)
    return costs


def mean_field(costs: Tensor, dimension: int) -> Tensor:
    """Mean-field message passing: the costs averaged twice over 3 neighbouring control points along each axis.

    A border of 2 is replicated.

    Parameters
    ----------
    costs : Tensor, shape (..., *control points, *displacements)
    dimension : int
        2 or 3.
    """
    check_costs(costs, dimension)
    for axis in range(-2 * dimension, -dimension):
        costs = _average_of_three(_average_of_three(_replicated(costs, axis, 2), axis), axis)
    return costs


def regularise(
    costs: Tensor,
    ratio: Tensor | float,
    dimension: int,
    *,
    rounds: int = 2,
    convolve: bool = True,
    average: bool = True,
) -> Tensor:
    """Rounds of min-convolution and mean field; each after the first works on the costs plus the smoothed costs.

    Parameters
    ----------
    costs : Tensor, shape (..., *control points, *displacements)
    ratio : Tensor or float
        Factor of the smoothed costs when they are added to the costs.
    dimension : int
        2 or 3.
    rounds : int
        How often to smooth; 2 in the paper, 0 leaves the costs alone.
    convolve, average : bool
        Whether to use the min-convolution and the mean field.
    """
    check_costs(costs, dimension)
    result = costs
    for index in range(rounds):
        if index > 0:
            result = costs + ratio * result
        if convolve:
            result = min_convolution(result, dimension)
        if average:
            result = mean_field(result, dimension)
    return result
