"""Regularisation of displacement costs: min-convolution over displacements and mean field over control points.

The costs have the axes (..., Nz, Ny, Nx, Dz, Dy, Dx), in 2-D (..., Ny, Nx, Dy, Dx): control points first, then
displacements, after any number of leading axes. These are the definitions, in plain differentiable torch; the
functions of the same names in :mod:`itk_pdd.kernels` give the same numbers faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from itk_pdd.errors import RegistrationError

__all__ = ["Regularisation", "lower_envelope", "mean_field", "min_convolution", "regularise"]


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


def lower_envelope(costs: Tensor, curvature: float | Sequence[float] | Tensor, dimension: int) -> Tensor:
    """Exact min-convolution with a parabola: ``min_e costs(e) + sum_axis curvature (d - e)^2``.

    Parameters
    ----------
    costs : Tensor, shape (..., *displacements)
        The last ``dimension`` axes are those of the displacements.
    curvature : float or sequence of float or Tensor
        Penalty of a difference of one displacement step, for all axes or for each, (z,) y, x; at least 0. The larger,
        the closer the result to the costs.
    dimension : int
        2 or 3.

    References
    ----------
    P. F. Felzenszwalb, D. P. Huttenlocher, "Distance Transforms of Sampled Functions", Theory of Computing 2012
    (the same function; here every pair of displacements of an axis is compared, which suits a few dozen of them).
    """
    check_costs(costs, dimension)
    curvature = torch.as_tensor(curvature, dtype=costs.dtype, device=costs.device).expand(dimension)
    if bool((curvature < 0).any()):
        raise RegistrationError(f"curvature must be at least 0, found {curvature.tolist()}")
    for axis in range(-dimension, 0):
        steps = torch.arange(costs.shape[axis], dtype=costs.dtype, device=costs.device)
        result = None
        for e in range(costs.shape[axis]):
            penalty = (curvature[axis] * (steps - e).square()).reshape(-1, *[1] * (-axis - 1))
            candidate = costs.narrow(axis, e, 1) + penalty
            result = candidate if result is None else torch.where(candidate < result, candidate, result)
        costs = result
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


class Regularisation(nn.Module):
    """The regularisation with its learned factors: a temperature and a ratio.

    The six factors of the paper have these two degrees of freedom. Shifting all costs of a control point alike changes
    no probability, and both smoothing operations commute with shifts and with positive factors.

    Parameters
    ----------
    temperature : float
        Factor of the (channel-averaged) costs in the softmax, above 0. The larger, the sharper the distributions.
    ratio : float
        Factor of the smoothed costs of the first round beside the costs in the second. The author's published models
        have positive and negative ones.
    rounds, convolve, average
        See :func:`regularise`.
    """

    def __init__(
        self,
        *,
        temperature: float = 100.0,
        ratio: float = 1.0,
        rounds: int = 2,
        convolve: bool = True,
        average: bool = True,
    ) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise RegistrationError(f"temperature must be above 0, found {temperature!r}")
        if not math.isfinite(ratio):
            raise RegistrationError(f"ratio must be a finite number, found {ratio!r}")
        if rounds < 0:
            raise RegistrationError(f"rounds must be at least 0, found {rounds}")
        # A temperature is known up to a factor: its logarithm is learned.
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.ratio = nn.Parameter(torch.tensor(float(ratio)))
        self.rounds, self.convolve, self.average = rounds, convolve, average

    @classmethod
    def from_alpha(cls, alpha: Sequence[float], *, channels: int, **options: object) -> Regularisation:
        """Convert the six factors of the author's published models, exactly.

        There the costs are ``a1 D + a2`` with ``D`` summed over the channels, the second round works on ``a3`` times
        these plus ``a4`` times the smoothed ones plus ``a5``, and the softmax is over ``-a6`` times the result. So the
        temperature is ``a6 a1 a3``, times the number of channels because costs are averaged here, and the ratio
        ``a4 / a3``.

        Parameters
        ----------
        alpha : sequence of 6 floats
            a1 to a6.
        channels : int
            Number of feature channels of that model.
        **options
            Further arguments of the constructor.

        Raises
        ------
        RegistrationError
            If there are not six numbers, or they have no counterpart (a factor that would turn minima into maxima).
        """
        values = [float(a) for a in alpha]
        if len(values) != 6:
            raise RegistrationError(f"alpha must hold 6 factors, found {len(values)}")
        a1, _, a3, a4, _, a6 = values
        if not (a1 > 0 and a3 > 0 and a6 > 0):
            raise RegistrationError(f"alpha must have positive 1st, 3rd and 6th factors, found {values}")
        return cls(temperature=a6 * a1 * a3 * channels, ratio=a4 / a3, **options)

    @property
    def temperature(self) -> Tensor:
        """Factor of the costs in the softmax."""
        return self.log_temperature.exp()

    def forward(self, costs: Tensor, dimension: int) -> Tensor:
        """Smoothed costs, same shape; to be multiplied by the temperature in the softmax."""
        from itk_pdd import kernels

        return kernels.regularise(
            costs, self.ratio, dimension, rounds=self.rounds, convolve=self.convolve, average=self.average
        )

    def extra_repr(self) -> str:
        return (
            f"temperature={self.temperature.item():.4g}, ratio={self.ratio.item():.4g}, rounds={self.rounds}, "
            f"convolve={self.convolve}, average={self.average}"
        )
