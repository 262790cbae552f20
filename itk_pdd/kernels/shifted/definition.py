"""Differences of a map sampled on pairs of shifted regular grids, as the Obelisk network does it, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itk_pdd.kernels.interpolation.definition import sample

__all__ = ["shifted_differences"]


def shifted_differences(source: Tensor, centres: Sequence[Tensor], shifts: Tensor, *, outside: str = "zero") -> Tensor:
    """Differences of a map sampled on two shifted regular grids, for many pairs of shifts.

    This is the definition; :func:`itk_pdd.kernels.shifted_differences` is faster.

    Parameters
    ----------
    source : Tensor, shape (C, *spatial)
        The map.
    centres : sequence of Tensor
        Continuous indices along each axis, (z,) y, x: the grid before it is shifted.
    shifts : Tensor, shape (2, offsets, dim)
        Shifts of first and second grids in voxels of the map, components (z,) y, x.
    outside : {"zero", "nearest"}
        What lies beyond the map.

    Returns
    -------
    Tensor, shape (C, offsets, *numbers of positions)
    """

    def at(shift: Tensor) -> Tensor:
        return sample(source, [c + s for c, s in zip(centres, shift, strict=True)], outside=outside)

    return torch.stack([at(one) - at(other) for one, other in zip(*shifts, strict=True)], dim=1)
