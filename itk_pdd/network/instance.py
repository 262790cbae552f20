"""Instance optimisation: the displacements of one pair by gradient descent on their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd import kernels
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.network.settings import InstanceOptimisation

__all__ = ["diffusion", "optimise"]

# The paper sums squared differences of neighbours of 32 control points in units of half the extent, where these are
# 2 / 31 apart. As a gradient, which has no units, the same weight holds for any grid and any shape of the image.
_PAPER = (2 / 31) ** 2


def diffusion(vectors: Tensor, spacing: Sequence[float]) -> Tensor:
    """Mean squared gradient of a field (z, y, x, 3), summed over the axes, in the units of the paper: a scalar.

    ``spacing`` is the distance of the points along z, y, x in the unit of the displacements. The paper multiplies it by
    1.5 to 2.
    """
    total = vectors.new_zeros(())
    for axis, step in enumerate(spacing):
        total = total + (vectors.diff(dim=axis) / step).square().mean()
    return _PAPER * total


@torch.enable_grad()
def optimise(
    distribution: DisplacementDistribution, start: Tensor, settings: InstanceOptimisation, *, half: float
) -> Tensor:
    """Move displacements to where they are probable and smooth; the network is not asked again.

    Maximises the mean over the control points of the probability of their displacement, interpolated linearly between
    the displacements of the set, minus the diffusion. What is optimised is smoothed twice over 3 control points per
    axis before it is looked at. Displacements (*control points, 3) are in feature voxels, components x, y, z; there are
    two or more control points along each axis. ``half`` is half the extent in feature voxels, the unit of
    ``settings.rate``.
    """
    spacing = [float(p[1] - p[0]) for p in distribution.positions]
    costs = distribution.costs.detach()
    temperature = torch.as_tensor(distribution.temperature).detach().to(costs)
    log_partition = distribution.log_partition().detach()
    control = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([control], lr=settings.rate * half)
    for _ in range(settings.iterations):
        vectors = _smoothed(control)
        probable = kernels.probabilities_at(costs, temperature, log_partition, distribution.displacements, vectors)
        loss = settings.diffusion * diffusion(vectors, spacing) - probable.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return _smoothed(control).detach()


def _smoothed(vectors: Tensor) -> Tensor:
    field = functional.pad(vectors.movedim(-1, 0)[None], (2,) * 6, mode="replicate")
    return functional.avg_pool3d(functional.avg_pool3d(field, 3, stride=1), 3, stride=1)[0].movedim(0, -1)
