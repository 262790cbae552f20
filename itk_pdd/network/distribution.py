"""The distribution over displacements at every control point, and what can be asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError
from itk_pdd.kernels.expected.definition import check_shape
from itk_pdd.kernels.moments.definition import Moments, displacement_vectors
from itk_pdd.kernels.regularisation.definition import check_costs

__all__ = ["DisplacementDistribution"]

# Probabilities computed at a time where they are not wanted themselves: 64 MB in single precision.
_CHUNK = 1 << 24


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
        return self._moments(second=False).mean

    def covariance(self) -> Tensor:
        """Covariance of the displacement, shape (*control points, dim, dim), components x, y(, z)."""
        return self.moments().covariance

    def entropy(self) -> Tensor:
        """Entropy in nats, shape (*control points); the logarithm of the number of equally good displacements."""
        return self.moments().entropy

    def moments(self) -> Moments:
        """Mean, covariance, entropy and log-partition in one pass."""
        return self._moments(second=True)

    def log_partition(self) -> Tensor:
        """Logarithm of the sum of exp(-temperature costs), shape (*control points)."""
        return self._moments(second=False).log_partition

    def _moments(self, *, second: bool) -> Moments:
        return kernels.displacement_moments(self.costs, self.temperature, self.displacements, second=second)

    def expected_labels(
        self,
        labels: Tensor,
        *,
        positions: Sequence[Tensor] | None = None,
        displacements: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Labels expected at the control points: the operand of the non-local label loss.

        Parameters
        ----------
        labels : Tensor, shape (L, *spatial)
            One-hot or soft labels of the moving image.
        positions, displacements : sequences of Tensor, optional
            The control points and displacements in voxels of the label map, where its grid is another than that of
            the features.

        Returns
        -------
        Tensor, shape (L, *control points)
        """
        return kernels.expected_values(
            self.costs,
            self.temperature,
            labels,
            positions=self.positions if positions is None else positions,
            displacements=self.displacements if displacements is None else displacements,
        )

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Costs of some control points at a time, shape (n, number of displacements)."""
        flat = self.costs.reshape(-1, self.costs[(0,) * self.dimension].numel())
        size = max(1, _CHUNK // flat.shape[1])
        for start in range(0, flat.shape[0], size):
            yield slice(start, start + size), flat[start : start + size]

    def _vectors(self) -> Tensor:
        return displacement_vectors(self.displacements, like=self.costs).flatten(0, -2)

    @torch.no_grad()
    def mode(self) -> Tensor:
        """The most probable displacement, shape (*control points, dim), components x, y(, z), in feature voxels."""
        vectors = self._vectors()
        best = torch.cat([vectors[costs.argmin(dim=-1)] for _, costs in self._chunks()])
        return best.reshape(*self.shape, self.dimension)

    @torch.no_grad()
    def modes(self, count: int) -> tuple[Tensor, Tensor]:
        """The most probable hypotheses: displacements more probable than all their neighbours in the set.

        Parameters
        ----------
        count : int
            How many at each control point; at least 1.

        Returns
        -------
        displacements : Tensor, shape (*control points, count, dim)
            In feature voxels, components x, y(, z), the most probable first. NaN where there are fewer.
        probabilities : Tensor, shape (*control points, count)
            Of each hypothesis together with its neighbours, 3 along each axis; 0 where there are fewer.
        """
        if count < 1:
            raise RegistrationError(f"count must be at least 1, found {count}")
        dimension, vectors = self.dimension, self._vectors()
        count_found = min(count, vectors.shape[0])
        pool = torch.nn.functional.max_pool3d if dimension == 3 else torch.nn.functional.max_pool2d
        average = torch.nn.functional.avg_pool3d if dimension == 3 else torch.nn.functional.avg_pool2d
        where, weight = [], []
        for _, costs in self._chunks():
            grid = costs.unflatten(-1, (1, *self.displacement_shape))
            summit = -grid >= pool(-grid, 3, stride=1, padding=1)
            probabilities = torch.softmax(-self.temperature * costs, dim=-1)
            around = average(probabilities.reshape(grid.shape), 3, stride=1, padding=1) * 3**dimension
            height, index = torch.where(summit.flatten(1), probabilities, -1.0).topk(count_found, dim=-1)
            found = height >= 0
            where.append(torch.where(found.unsqueeze(-1), vectors[index], torch.nan))
            weight.append(torch.where(found, around.flatten(1).gather(-1, index), 0.0))
        where, weight = torch.cat(where), torch.cat(weight)
        if count_found < count:
            where = torch.nn.functional.pad(where, (0, 0, 0, count - count_found), value=torch.nan)
            weight = torch.nn.functional.pad(weight, (0, count - count_found))
        return where.reshape(*self.shape, count, dimension), weight.reshape(*self.shape, count)

    @torch.no_grad()
    def sample(self, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw displacements, at each control point for itself.

        Parameters
        ----------
        count : int
            Number of samples.
        generator : torch.Generator, optional
            Source of randomness, on the device of the costs; seed it for repeatable samples.

        Returns
        -------
        Tensor, shape (count, *control points, dim)
            In feature voxels, components x, y(, z).
        """
        if count < 1:
            raise RegistrationError(f"count must be at least 1, found {count}")
        vectors, drawn = self._vectors(), []
        for _, costs in self._chunks():
            probabilities = torch.softmax(-self.temperature * costs, dim=-1)
            index = torch.multinomial(probabilities, count, replacement=True, generator=generator)
            drawn.append(vectors[index])
        return torch.cat(drawn).transpose(0, 1).reshape(count, *self.shape, self.dimension)

    def log_probability(self, vectors: Tensor) -> Tensor:
        """Logarithm of the probability of given displacements; what to maximise where the truth is known.

        Between the displacements of the set the costs are interpolated linearly; outside, those at its border hold.

        Parameters
        ----------
        vectors : Tensor, shape (*control points, dim)
            In feature voxels, components x, y(, z).

        Returns
        -------
        Tensor, shape (*control points)
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
        log_partition = self._moments(second=False).log_partition
        return -self.temperature * cost.reshape(self.shape) - log_partition
