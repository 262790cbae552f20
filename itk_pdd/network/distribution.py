"""The distribution over displacements at every control point, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.expected.definition import check_shape
from itk_pdd.kernels.moments.definition import Moments
from itk_pdd.kernels.regularisation.definition import check_costs

__all__ = ["DisplacementDistribution"]


class DisplacementDistribution:
    """A probability for each displacement of a set, at every control point: the softmax of negated, scaled costs.

    Only the costs are kept. What is asked for is computed from them without holding all probabilities, except where
    these are asked for.

    Parameters
    ----------
    costs : Tensor, shape (*control points, *displacements)
        Regularised costs, axes (Nz,) Ny, Nx, (Dz,) Dy, Dx.
    temperature : Tensor or float
        Factor of the costs in the softmax; above 0.
    positions : sequence of Tensor
        Control points: continuous feature voxel indices along each axis, (z,) y, x.
    displacements : sequence of Tensor
        Displacements in feature voxels along each axis, (z,) y, x.

    Raises
    ------
    RegistrationError
        If the shapes do not fit together.
    """

    def __init__(
        self,
        costs: Tensor,
        *,
        temperature: Tensor | float,
        positions: Sequence[Tensor],
        displacements: Sequence[Tensor],
    ) -> None:
        dimension = len(positions)
        check_costs(costs, dimension)
        check_shape(costs, positions, displacements)
        if not temperature > 0:
            raise RegistrationError(f"temperature must be above 0, found {temperature}")
        self.costs = costs
        self.temperature = temperature
        self.positions = tuple(positions)
        self.displacements = tuple(displacements)

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of control points along the axes (z,) y, x."""
        return tuple(self.costs.shape[: self.dimension])

    @property
    def displacement_shape(self) -> tuple[int, ...]:
        """Number of displacements along the axes (z,) y, x."""
        return tuple(self.costs.shape[self.dimension :])

    def __repr__(self) -> str:
        points = " x ".join(str(n) for n in self.shape[::-1])
        displacements = " x ".join(str(n) for n in self.displacement_shape[::-1])
        reach = " x ".join(f"{float(d.abs().max()):.3g}" for d in self.displacements[::-1])
        return (
            f"DisplacementDistribution({points} control points, {displacements} displacements up to {reach} feature "
            f"voxels, temperature {torch.as_tensor(self.temperature).item():.4g})"
        )

    def probabilities(self) -> Tensor:
        """All probabilities, shape (*control points, *displacements); as large as the costs."""
        logits = -self.temperature * self.costs.flatten(self.dimension)
        return torch.softmax(logits, dim=-1).unflatten(-1, self.displacement_shape)

    def mean(self) -> Tensor:
        """Expected displacement, shape (*control points, dim), components x, y(, z), in feature voxels."""
        return self._moments().mean

    def moments(self, *, sharpness: float = 1.0) -> Moments:
        """Compute mean, covariance and entropy of the displacement; all probabilities are never held.

        Parameters
        ----------
        sharpness : float
            Factor of the temperature; below 1 makes the probabilities more alike.

        Returns
        -------
        Moments
            Mean (*control points, dim), covariance (*control points, dim, dim), entropy in nats (*control points).
        """
        return kernels.displacement_moments(self.costs, sharpness * self.temperature, self.displacements, second=True)

    def log_partition(self) -> Tensor:
        """Logarithm of the sum of exp(-temperature costs), shape (*control points)."""
        return self._moments().log_partition

    def _moments(self) -> Moments:
        return kernels.displacement_moments(self.costs, self.temperature, self.displacements)

    def expected_labels(
        self,
        labels: Tensor,
        *,
        positions: Sequence[Tensor] | None = None,
        displacements: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Labels expected at the control points, (L, *control points): the operand of the non-local label loss.

        Parameters
        ----------
        labels : Tensor, shape (L, *spatial)
            One-hot or soft labels of the moving image.
        positions, displacements : sequences of Tensor, optional
            The control points and displacements in voxels of the label map, where its grid is not that of the features.
        """
        return kernels.expected_values(
            self.costs,
            self.temperature,
            labels,
            positions=self.positions if positions is None else positions,
            displacements=self.displacements if displacements is None else displacements,
        )

    def log_probability(self, vectors: Tensor) -> Tensor:
        """Logarithm of the probability of displacements, (*control points): what to maximise where the truth is known.

        Between the displacements of the set the costs are interpolated linearly; outside, those at its border hold.
        ``vectors`` (*control points, dim) are in feature voxels, components x, y(, z).
        """
        if vectors.shape != (*self.shape, self.dimension):
            raise RegistrationError(
                f"vectors must have the shape {(*self.shape, self.dimension)}, found {tuple(vectors.shape)}"
            )
        flat = self.costs.reshape(-1, *self.displacement_shape)
        index = [torch.arange(flat.shape[0], device=flat.device)]
        cost = 0.0
        taps = []
        for axis, offsets in enumerate(self.displacements):
            offsets = offsets.to(self.costs)
            wanted = vectors[..., self.dimension - 1 - axis].reshape(-1).to(offsets)
            high = torch.searchsorted(offsets, wanted.contiguous()).clamp(min(1, len(offsets) - 1), len(offsets) - 1)
            low = (high - 1).clamp(min=0)
            width = (offsets[high] - offsets[low]).clamp(min=torch.finfo(offsets.dtype).tiny)
            weight = ((wanted - offsets[low]) / width).clamp(0, 1)
            taps.append(((low, 1 - weight), (high, weight)))
        for corner in range(2**self.dimension):
            chosen = [taps[axis][corner >> axis & 1] for axis in range(self.dimension)]
            share = torch.stack([weight for _, weight in chosen]).prod(dim=0)
            cost = cost + share * flat[(*index, *[i for i, _ in chosen])]
        return -self.temperature * cost.reshape(self.shape) - self.log_partition()
