"""A step of Adam on the control points of a field, with the gradients of its smoothness.

The operations and their order are those of plain torch: early steps of Adam depend on little more than the sign of a
gradient, so that a difference in the last digit may move a control point.

References
----------
Kingma D.P., Ba J., "Adam: a method for stochastic optimization", ICLR 2015.
"""

from __future__ import annotations

import math

import numpy as np

from itk_pdd.kernels.parallel import exactly_compiled, inlined, run
from itk_pdd.kernels.volume_change.cpu import add_volume_gradient

__all__ = ["EPSILON", "FADING", "adam_step"]

FADING = (0.9, 0.999)
"""Share of the averages of gradients and of their squares that is kept from one step to the next."""
EPSILON = 1e-8
"""Added to the root of the mean square, in the unit of the gradient."""

_GRAIN = 16384  # numbers a thread takes at a time


@exactly_compiled
def _smoothness(first, last, start, coefficients, factors, share, diffusion, whole, gradient):
    """Set the whole displacement, and the gradient from its diffusion and the derivative per share.

    Parameters
    ----------
    start, coefficients, whole, gradient : arrays (z, y, 3 x)
        ``gradient`` holds the derivative of the images' difference, and is overwritten.
    factors : array (3,)
        2 over the squared voxels per control point along z, y, x.
    """
    depth, height, length = start.shape
    sums = np.empty(length, np.float32)
    for z in range(first, last):
        for y in range(height):
            own, before = whole[z, y], start[z, y]
            added = coefficients[z, y]
            for i in range(length):
                own[i] = before[i] + added[i]
                sums[i] = 0
            for axis in range(2):
                for sign in (1, -1):
                    other_z, other_y = z + sign * (axis == 0), y + sign * (axis == 1)
                    if 0 <= other_z < depth and 0 <= other_y < height:
                        before, added = start[other_z, other_y], coefficients[other_z, other_y]
                        for i in range(length):
                            sums[i] -= ((before[i] + added[i]) - own[i]) * factors[axis]
            for i in range(length - 3):
                sums[i] -= (own[i + 3] - own[i]) * factors[2]
            for i in range(length - 3):
                sums[i + 3] += (own[i + 3] - own[i]) * factors[2]
            row = gradient[z, y]
            for i in range(length):
                row[i] = row[i] / share + diffusion * sums[i]


@inlined
def _towards(value, target, share):
    return value + share * (target - value)


@exactly_compiled
def _step(first, last, gradient, share_mean, share_square, correction, epsilon, rate, mean, square, coefficients):
    for i in range(first, last):
        g = gradient[i]
        mean[i] = _towards(mean[i], g, share_mean)
        square[i] = _towards(square[i], g * g, share_square)
        scale = np.sqrt(square[i] / correction) + epsilon
        coefficients[i] += rate * mean[i] / scale


def adam_step(
    coefficients: np.ndarray,
    mean: np.ndarray,
    square: np.ndarray,
    derivative: np.ndarray,
    start: np.ndarray,
    *,
    step: int,
    rate: float,
    cell: tuple[int, ...],
    diffusion: float,
    volume: float,
) -> np.ndarray:
    """Move the coefficients of a field by one step of Adam, in place.

    The gradient is the derivative of the images' difference per voxel of a control point, plus those of the diffusion
    and of the changes of volume of the whole displacement, ``start`` plus the coefficients.

    Parameters
    ----------
    coefficients : numpy.ndarray
        Displacements of the control points, float32 (z, y, x, 3), components x, y, z in voxels.
    mean, square : numpy.ndarray
        Adam's averages of the gradient and of its square, of the same shape; changed in place, zeros at first.
    derivative : numpy.ndarray
        Derivative of the images' difference by each coefficient, of the same shape; overwritten.
    start : numpy.ndarray
        Displacements that the coefficients are added to, of the same shape.
    step : int
        Number of the step, from 1.
    rate : float
        Length of a step in voxels; larger gets further and less exactly so.
    cell : tuple of int
        Voxels per control point along z, y, x.
    diffusion, volume : float
        Weights of the diffusion and of the changes of volume; larger makes the field smoother.

    Returns
    -------
    numpy.ndarray
        ``coefficients``.
    """
    whole, depth = np.empty_like(coefficients), len(coefficients)
    factors = np.asarray([2 / size**2 for size in cell], np.float32)
    rows = [each.reshape(depth, coefficients.shape[1], -1) for each in (start, coefficients, whole, derivative)]
    share, weight = np.float32(math.prod(cell)), np.float32(diffusion)
    run(_smoothness, depth, *rows[:2], factors, share, weight, *rows[2:])
    if volume:
        add_volume_gradient(whole, derivative, weight=volume, scale=cell[::-1])
    numbers = [
        np.float32(number)
        for number in (
            1 - FADING[0], 1 - FADING[1], 1 - FADING[1] ** step, EPSILON, -rate / (1 - FADING[0] ** step)
        )
    ]  # fmt: skip
    arrays = (each.reshape(-1) for each in (mean, square, coefficients))
    run(_step, coefficients.size, derivative.reshape(-1), *numbers, *arrays, grain=_GRAIN)
    return coefficients
