"""Masks in the dense search: control points and displacements that say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itk_pdd import kernels
from itk_pdd.kernels.interpolation.definition import sample

__all__ = ["Masks", "masked"]

Masks = tuple[Tensor | None, Tensor | None]
"""Masks (z', y', x') of the fixed and the moving image on the grid of their features, 1 inside and 0 outside."""


def masked(costs: Tensor, masks: Masks, positions: Sequence[Tensor], displacements: Sequence[Tensor]) -> Tensor:
    """Make costs (*control points, *displacements) say nothing where an image is masked out.

    A displacement to a masked place of the moving image costs as much as the others of its control point do on average.
    At a masked place of the fixed image all displacements cost the same; neighbours decide there. Positions and
    displacements are in feature voxels along z, y, x.
    """
    fixed, moving = masks
    axes = tuple(range(len(positions), costs.ndim))
    if moving is not None:
        # The squared difference of the mask and zero is the mask.
        known = kernels.displacement_costs(
            torch.zeros_like(moving)[None], moving[None], positions=positions, displacements=displacements
        )
        known = (known > 0.25).to(costs)
        mean = (costs * known).sum(axes, keepdim=True) / known.sum(axes, keepdim=True).clamp(min=1)
        costs = torch.lerp(mean.expand_as(costs), costs, known)
    if fixed is not None:
        inside = (sample(fixed[None], positions)[0] > 0.5).to(costs)
        costs = costs * inside.reshape(*inside.shape, *(1 for _ in axes))
    return costs
