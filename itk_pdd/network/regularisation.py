"""The paper's regularisation of displacement costs, with its two learned factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError

__all__ = ["Regularisation"]


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
    average : bool
        Whether the costs of neighbours are averaged after the min-convolution of each round.
    """

    def __init__(self, *, temperature: float = 100.0, ratio: float = 1.0, average: bool = True) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise RegistrationError(f"temperature must be above 0, found {temperature!r}")
        if not math.isfinite(ratio):
            raise RegistrationError(f"ratio must be a finite number, found {ratio!r}")
        # A temperature is known up to a factor: its logarithm is learned.
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.ratio = nn.Parameter(torch.tensor(float(ratio)))
        self.average = average

    @classmethod
    def from_alpha(cls, alpha: Sequence[float], *, channels: int, **options: object) -> Regularisation:
        """Convert the six factors a1 to a6 of the author's published models, exactly.

        There the costs are ``a1 D + a2`` with ``D`` summed over the channels, the second round works on ``a3`` times
        these plus ``a4`` times the smoothed ones plus ``a5``, and the softmax is over ``-a6`` times the result. So the
        temperature is ``a6 a1 a3``, times the number of channels because costs are averaged here, and the ratio ``a4 /
        a3``. RegistrationError for a factor that would turn minima into maxima.
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
        return kernels.regularise(costs, self.ratio, dimension, average=self.average)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature.item():.4g}, ratio={self.ratio.item():.4g}, average={self.average}"
