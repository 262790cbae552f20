"""Control points and displacements of a dense search.

Both are in continuous indices of a feature map. Sequences with one entry per axis are in array order, (z,) y, x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from itk_pdd.errors import RegistrationError

__all__ = ["ControlGrid", "DisplacementSet"]


@dataclass(frozen=True)
class DisplacementSet:
    """A regular set of displacements, symmetric about zero: ``step * {-radius, ..., radius}`` along each axis.

    Parameters
    ----------
    radius : tuple of int
        Steps to either side along the axes (z,) y, x.
    step : tuple of float
        Length of a step in feature voxels along the axes (z,) y, x.
    """

    radius: tuple[int, ...]
    step: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.radius) != len(self.step) or len(self.radius) not in (2, 3):
            raise RegistrationError(
                f"a displacement set needs one radius and one step for each of 2 or 3 axes, found {self.radius} and "
                f"{self.step}"
            )
        if any(r < 0 or r != int(r) for r in self.radius) or any(not s > 0 for s in self.step):
            raise RegistrationError(
                f"a displacement set needs whole radii of at least 0 and steps above 0, found {self.radius} and "
                f"{self.step}"
            )

    @property
    def dimension(self) -> int:
        """Number of axes."""
        return len(self.radius)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of displacements along the axes (z,) y, x."""
        return tuple(2 * r + 1 for r in self.radius)

    @property
    def reach(self) -> tuple[float, ...]:
        """The largest displacement along the axes (z,) y, x in feature voxels."""
        return tuple(r * s for r, s in zip(self.radius, self.step, strict=True))

    def offsets(self) -> tuple[Tensor, ...]:
        """Displacements along each axis (z,) y, x in feature voxels, in double precision on the CPU."""
        return tuple(
            torch.arange(-r, r + 1, dtype=torch.float64) * s for r, s in zip(self.radius, self.step, strict=True)
        )


@dataclass(frozen=True)
class ControlGrid:
    """A regular grid of control points over a feature map.

    Parameters
    ----------
    shape : tuple of int
        Number of control points along the axes (z,) y, x.
    first : tuple of float
        Feature voxel index of the first control point along the axes (z,) y, x.
    spacing : tuple of float
        Distance of neighbouring control points in feature voxels along the axes (z,) y, x.
    """

    shape: tuple[int, ...]
    first: tuple[float, ...]
    spacing: tuple[float, ...]

    @classmethod
    def covering(cls, size: Sequence[int], *, shape: Sequence[int]) -> ControlGrid:
        """Spread ``shape`` control points over a feature map of ``size`` voxels, both (z,) y, x.

        Each stands in the middle of an equal share of the extent.
        """
        shape = [int(n) for n in shape]
        if any(n < 1 for n in shape):
            raise RegistrationError(f"a control grid needs at least 1 point along each axis, found {shape}")
        spacing = [n / k for n, k in zip(size, shape, strict=True)]
        first = [(n - 1 - (k - 1) * s) / 2 for n, k, s in zip(size, shape, spacing, strict=True)]
        return cls(tuple(shape), tuple(first), tuple(spacing))

    @property
    def dimension(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def part(self, block: Sequence[slice]) -> ControlGrid:
        """The control points in a block, slices along the axes (z,) y, x."""
        first = tuple(f + s * b.start for f, s, b in zip(self.first, self.spacing, block, strict=True))
        return ControlGrid(tuple(b.stop - b.start for b in block), first, self.spacing)

    def positions(self) -> tuple[Tensor, ...]:
        """Feature voxel indices of the control points along each axis (z,) y, x, in double precision on the CPU."""
        return tuple(
            torch.arange(n, dtype=torch.float64) * s + f
            for n, f, s in zip(self.shape, self.first, self.spacing, strict=True)
        )
