"""Dense displacement costs: how badly the moving features at k + d match the fixed feature at k, for every d.

Everything here works in continuous indices of the feature maps. Sequences with one entry per axis are in array order,
(z,) y, x; vectors have their components in the order x, y(, z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from itk_pdd.errors import RegistrationError

__all__ = ["ControlGrid", "DisplacementSet", "check_lattice", "displacement_costs", "interpolate", "sample"]


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

    @classmethod
    def create(cls, radius: int | Sequence[int], step: float | Sequence[float], *, dimension: int) -> DisplacementSet:
        """A set from numbers that hold for all axes or sequences in the order (z,) y, x."""
        radii = [radius] * dimension if isinstance(radius, int) else radius
        steps = [step] * dimension if isinstance(step, int | float) else step
        return cls(tuple(int(r) for r in radii), tuple(float(s) for s in steps))

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
    def covering(
        cls,
        size: Sequence[int],
        *,
        shape: Sequence[int] | None = None,
        spacing: float | Sequence[float] | None = None,
    ) -> ControlGrid:
        """Spread control points over a feature map, centred: the same margin is left at either end of an axis.

        Parameters
        ----------
        size : sequence of int
            Shape of the feature map, (z,) y, x.
        shape : sequence of int, optional
            Number of control points; each then stands in the middle of an equal share of the extent.
        spacing : float or sequence of float, optional
            Distance between them in feature voxels; as many as fit between the first and the last voxel.

        Raises
        ------
        RegistrationError
            Unless exactly one of ``shape`` and ``spacing`` is given and positive.
        """
        if (shape is None) == (spacing is None):
            raise RegistrationError("a control grid needs either a shape or a spacing, found both or neither")
        if shape is None:
            spacing = [float(spacing)] * len(size) if isinstance(spacing, int | float) else [float(s) for s in spacing]
            if any(not s > 0 for s in spacing):
                raise RegistrationError(f"the spacing of a control grid must be above 0, found {spacing}")
            # A ratio of 6.9999999 from rounding must not lose a control point.
            shape = [int((n - 1) / s + 1e-6) + 1 for n, s in zip(size, spacing, strict=True)]
        else:
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

    def positions(self) -> tuple[Tensor, ...]:
        """Feature voxel indices of the control points along each axis (z,) y, x, in double precision on the CPU."""
        return tuple(
            torch.arange(n, dtype=torch.float64) * s + f
            for n, f, s in zip(self.shape, self.first, self.spacing, strict=True)
        )


def interpolate(values: Tensor, coordinates: Tensor, axis: int, *, outside: str = "nearest") -> Tensor:
    """Interpolate linearly along one axis; differentiable in the values and in the coordinates.

    Parameters
    ----------
    values : Tensor
        Any shape.
    coordinates : Tensor, shape (n,)
        Continuous indices along ``axis``.
    axis : int
        The axis that is replaced by the ``n`` coordinates.
    outside : {"nearest", "zero"}
        What lies beyond the ends: the end value, or zeros (to which the end value falls off within one voxel).
    """
    size = values.shape[axis]
    if outside == "nearest":
        coordinates = coordinates.clamp(0, size - 1)
    low = coordinates.detach().floor()
    high = low + 1
    weight = coordinates - low
    parts = []
    shares = [(low, 1 - weight), (high, weight)]
    if not coordinates.requires_grad and not bool(weight.any()):
        shares.pop()  # nothing between two entries
    for index, share in shares:
        if outside == "zero":
            share = torch.where((index >= 0) & (index <= size - 1), share, torch.zeros_like(share))
        share = share.to(device=values.device, dtype=values.dtype)
        share = share.reshape([-1 if a == axis % values.ndim else 1 for a in range(values.ndim)])
        index = index.clamp(0, size - 1).long().to(values.device)
        parts.append(values.index_select(axis, index) * share)
    return sum(parts[1:], parts[0])


def sample(values: Tensor, coordinates: Sequence[Tensor], *, outside: str = "nearest") -> Tensor:
    """Interpolate linearly on the grid spanned by one set of coordinates per axis.

    Parameters
    ----------
    values : Tensor, shape (C, *spatial)
        Feature map.
    coordinates : sequence of Tensor
        Continuous indices along each spatial axis, (z,) y, x.
    outside : {"nearest", "zero"}
        See :func:`interpolate`.

    Returns
    -------
    Tensor, shape (C, *numbers of coordinates)
    """
    for axis, along in enumerate(coordinates):
        values = interpolate(values, along, axis + 1, outside=outside)
    return values


def check_lattice(
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
    positions, displacements = check_lattice(fixed, moving, positions, displacements)
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
