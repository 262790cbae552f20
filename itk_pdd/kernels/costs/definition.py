"""Displacement costs: the mean squared difference of features at every control point and displacement, in plain torch.

Positions and displacements are continuous indices of the feature maps. Sequences with one entry per axis are in array
order, (z,) y, x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.interpolation.definition import interpolate, sample

__all__ = ["check_positions", "displacement_costs", "weighted"]


def check_positions(
    fixed: Tensor, moving: Tensor, positions: Sequence[Tensor], displacements: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Check what is common to all functions of features, control points and displacements.

    Returns
    -------
    positions, displacements : lists of Tensor
        In double precision on the CPU: coordinates of hundreds of voxels lose too much in single precision.
    """
    dimension = fixed.ndim - 1
    if dimension not in (2, 3) or moving.ndim != fixed.ndim:
        raise RegistrationError(
            "fixed and moving must be feature maps (channels, (z,) y, x) of the same dimension, found shapes "
            f"{tuple(fixed.shape)} and {tuple(moving.shape)}"
        )
    if fixed.shape[0] != moving.shape[0]:
        raise RegistrationError(
            f"fixed and moving must have the same number of channels, found {fixed.shape[0]} and {moving.shape[0]}"
        )
    for name, along in (("positions", positions), ("displacements", displacements)):
        if len(along) != dimension or any(a.ndim != 1 or a.numel() == 0 for a in along):
            raise RegistrationError(
                f"{name} must be one non-empty 1-D tensor for each of the {dimension} axes, found shapes "
                f"{[tuple(a.shape) for a in along]}"
            )
    return ([p.detach().double().cpu() for p in positions], [d.detach().double().cpu() for d in displacements])


def weighted(fixed: Tensor, moving: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both feature maps with each channel multiplied by the root of its weight."""
    if weights is None:
        return fixed, moving
    if weights.shape != fixed.shape[:1] or not bool((weights > 0).all()):
        raise RegistrationError(
            f"weights must be one number above 0 for each of the {fixed.shape[0]} channels, found shape "
            f"{tuple(weights.shape)} with minimum {float(weights.min()):.4g}"
        )
    root = weights.to(fixed).sqrt().reshape(-1, *[1] * (fixed.ndim - 1))
    return fixed * root, moving * root


def displacement_costs(
    fixed: Tensor,
    moving: Tensor,
    *,
    positions: Sequence[Tensor],
    displacements: Sequence[Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of the features at every control point and every displacement.

    The channels are averaged, as in the paper; its author's program sums them, which amounts to another temperature.
    The features are interpolated linearly along one axis after the other, border values continue outside.
    This is the definition, differentiable in both feature maps; :func:`itk_pdd.kernels.displacement_costs` is faster.

    Parameters
    ----------
    fixed : Tensor, shape (C, *spatial)
        Features of the fixed image, axes (z,) y, x.
    moving : Tensor, shape (C, *spatial')
        Features of the moving image, indexed in the same coordinates; the size may differ.
    positions : sequence of Tensor
        Control points: continuous feature voxel indices along each axis, (z,) y, x.
    displacements : sequence of Tensor
        Displacements in feature voxels along each axis, (z,) y, x.
    weights : Tensor, shape (C,), optional
        Positive factors of the channels' squared differences; 1 by default.

    Returns
    -------
    Tensor, shape (Nz, Ny, Nx, Dz, Dy, Dx), in 2-D (Ny, Nx, Dy, Dx)

    Raises
    ------
    RegistrationError
        If dimensions, channels, positions, displacements or weights do not fit together.

    References
    ----------
    M. P. Heinrich, "Closing the Gap between Deep and Conventional Image Registration using Probabilistic Dense
    Displacement Networks", MICCAI 2019.
    """
    positions, displacements = check_positions(fixed, moving, positions, displacements)
    fixed, moving = weighted(fixed, moving, weights)
    return _costs(sample(fixed, positions), moving, positions, displacements, 0)


def _costs(fixed: Tensor, moving: Tensor, positions: list[Tensor], displacements: list[Tensor], axis: int) -> Tensor:
    """Costs with the moving features already sampled along the axes before ``axis``."""
    dimension = len(positions)
    if axis == dimension - 1:
        coordinates = positions[axis][:, None] + displacements[axis]
        samples = interpolate(moving, coordinates.flatten(), axis + 1).unflatten(-1, coordinates.shape)
        return (fixed.unsqueeze(-1) - samples).square().mean(dim=0)

    def at(displacement: Tensor, fixed: Tensor, moving: Tensor) -> Tensor:
        sampled = interpolate(moving, positions[axis] + displacement, axis + 1)
        return _costs(fixed, sampled, positions, displacements, axis + 1)

    if axis == 0 and torch.is_grad_enabled() and (fixed.requires_grad or moving.requires_grad):
        # Sampled features are computed again on the way back: kept, they would be the costs times the channels.
        slabs = [checkpoint(at, d, fixed, moving, use_reentrant=False) for d in displacements[axis]]
    else:
        slabs = [at(d, fixed, moving) for d in displacements[axis]]
    return torch.stack(slabs, dim=dimension)
