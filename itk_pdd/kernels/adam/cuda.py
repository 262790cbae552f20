"""A step of Adam on tensors of any device, in plain torch."""

from __future__ import annotations

import math

from torch import Tensor

from itk_pdd.kernels.adam.cpu import EPSILON, FADING
from itk_pdd.kernels.volume_change.cuda import add_volume_gradient

__all__ = ["adam_step"]


def adam_step(
    coefficients: Tensor,
    mean: Tensor,
    square: Tensor,
    derivative: Tensor,
    start: Tensor,
    *,
    step: int,
    rate: float,
    cell: tuple[int, ...],
    diffusion: float,
    volume: float,
) -> Tensor:
    """See :func:`itk_pdd.kernels.adam.cpu.adam_step`."""
    whole = start + coefficients
    gradient = derivative / math.prod(cell)
    gradient += diffusion * _diffusion_gradient(whole, cell)
    if volume:
        add_volume_gradient(whole, gradient, weight=volume, scale=cell[::-1])
    mean.lerp_(gradient, 1 - FADING[0])
    square.lerp_(gradient.square(), 1 - FADING[1])
    scale = square.div(1 - FADING[1] ** step).sqrt_().add_(EPSILON)
    return coefficients.addcdiv_(mean, scale, value=-rate / (1 - FADING[0] ** step))


def _diffusion_gradient(control: Tensor, cell: tuple[int, ...]) -> Tensor:
    """Differentiate the sum of squared differences of neighbouring control points, per squared voxel distance."""
    result = control.new_zeros(control.shape)
    for axis, size in enumerate(cell):
        if (count := control.shape[axis]) > 1:
            difference = control.diff(dim=axis) * (2 / size**2)
            result.narrow(axis, 0, count - 1).sub_(difference)
            result.narrow(axis, 1, count - 1).add_(difference)
    return result
