"""Values of a map expected at displaced control points, under the softmax of negated, scaled costs, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.costs.definition import check_positions
from itk_pdd.kernels.interpolation.definition import interpolate

__all__ = ["check_shape", "expected_values", "weighted"]


def check_shape(costs: Tensor, positions: Sequence[Tensor], displacements: Sequence[Tensor]) -> None:
    """Raise unless the costs are those of these control points and displacements."""
    expected = (*[len(p) for p in positions], *[len(d) for d in displacements])
    if costs.shape != expected:
        raise RegistrationError(
            f"costs must have the shape {expected} of these positions and displacements, found {tuple(costs.shape)}"
        )


def expected_values(
    costs: Tensor,
    temperature: Tensor | float,
    moving: Tensor,
    *,
    positions: Sequence[Tensor],
    displacements: Sequence[Tensor],
) -> Tensor:
    """Values of the moving image expected at every control point, over the distribution of displacements.

    The map is sampled linearly at all displaced positions (border values continue outside) and averaged with the
    probabilities. This is the definition; :func:`itk_pdd.kernels.expected_values` is faster.

    Parameters
    ----------
    costs : Tensor, shape (*control points, *displacements)
    temperature : Tensor or float
        Factor of the costs in the softmax.
    moving : Tensor, shape (L, *spatial)
        One-hot or soft labels, or any other values.
    positions, displacements : sequences of Tensor
        Control points and displacements along each axis, (z,) y, x, in voxels of ``moving``.

    Returns
    -------
    Tensor, shape (L, *control points)
    """
    positions, displacements = check_positions(moving, moving, positions, displacements)
    check_shape(costs, positions, displacements)
    dimension = len(positions)
    logits = -temperature * costs.flatten(dimension)
    probabilities = torch.softmax(logits, dim=-1).unflatten(-1, costs.shape[dimension:])
    coordinates = [p[:, None] + d for p, d in zip(positions, displacements, strict=True)]
    return weighted(probabilities, moving, coordinates, 0)


def weighted(probabilities: Tensor, moving: Tensor, coordinates: Sequence[Tensor], axis: int) -> Tensor:
    """Sum over the displacements, from ``axis`` on, of probabilities times the map at the coordinates of the tables."""
    table = coordinates[axis]
    if axis == len(coordinates) - 1:
        there = interpolate(moving, table.flatten(), axis + 1).unflatten(-1, table.shape)
        return (probabilities * there).sum(dim=-1)
    result = None
    for index, along in enumerate(table.T):
        rest = probabilities.select(len(coordinates), index)
        part = weighted(rest, interpolate(moving, along, axis + 1), coordinates, axis + 1)
        result = part if result is None else result + part
    return result
