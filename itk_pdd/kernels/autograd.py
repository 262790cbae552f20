"""Fast kernels as differentiable functions of tensors.

The functions take the module that computes them (such as :mod:`itk_pdd.kernels.costs.cpu`) as their first argument, so
that the way back is written once for all devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "Costs",
    "ExpectedValues",
    "MeanField",
    "MinConvolution",
    "MomentsOf",
    "ProbabilitiesAt",
    "Regularised",
    "ShiftedDifferences",
    "regularise_in_place",
]


def _temperature_gradient(costs: Tensor, gradient: Tensor, temperature: float, like: Tensor) -> Tensor:
    """Costs and temperature appear as a product only, so one gradient follows from the other."""
    return (torch.dot(costs.flatten(), gradient.flatten()) / temperature).to(like).reshape(like.shape)


class Costs(torch.autograd.Function):
    """Displacement costs of fixed features sampled at the control points and a moving feature map."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: ModuleType,
        samples: Tensor,
        moving: Tensor,
        coordinates: Sequence[Tensor],
    ) -> Tensor:
        ctx.save_for_backward(samples, moving)
        ctx.backend, ctx.coordinates = backend, coordinates
        return backend.displacement_costs(samples, moving, coordinates)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        samples, moving = ctx.saved_tensors
        back, back_moving = ctx.backend.displacement_costs_backward(
            samples, moving, ctx.coordinates, gradient.contiguous(), with_moving=ctx.needs_input_grad[2]
        )
        return None, back if ctx.needs_input_grad[1] else None, back_moving, None


class MinConvolution(torch.autograd.Function):
    """Min-convolution; which displacement was the minimum is found again on the way back."""

    @staticmethod
    def forward(ctx: Any, backend: ModuleType, costs: Tensor, dimension: int) -> Tensor:
        ctx.save_for_backward(costs)
        ctx.backend, ctx.dimension = backend, dimension
        return backend.min_convolution(costs, dimension)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (costs,) = ctx.saved_tensors
        return None, ctx.backend.min_convolution_backward(costs, gradient.contiguous(), ctx.dimension), None


class MeanField(torch.autograd.Function):
    """Mean field, a linear function."""

    @staticmethod
    def forward(ctx: Any, backend: ModuleType, costs: Tensor, dimension: int) -> Tensor:
        ctx.backend, ctx.dimension = backend, dimension
        return backend.mean_field(costs, dimension)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, ctx.backend.mean_field(gradient.contiguous(), ctx.dimension, transposed=True), None


def _smoothed(
    backend: ModuleType,
    costs: Tensor,
    result: Tensor | None,
    ratio: float,
    dimension: int,
    *,
    convolve: bool,
    average: bool,
    reuse: bool,
) -> Tensor:
    """One round; ``result`` of the round before, which may be overwritten if ``reuse``."""
    out = result if reuse else None
    if convolve:
        current = backend.min_convolution(costs, dimension, smoothed=result, factor=ratio, out=out)
    elif result is None:
        current = costs
    elif reuse:
        current = result.mul_(ratio).add_(costs)
    else:
        current = torch.add(costs, result, alpha=ratio)
    if average:
        current = backend.mean_field(current, dimension, out=None if current is costs else current)
    return current


def regularise_in_place(
    backend: ModuleType, costs: Tensor, ratio: float, dimension: int, *, rounds: int, convolve: bool, average: bool
) -> Tensor:
    """All rounds, at least one, where no gradients are wanted: one array beside the costs."""
    result = None
    for index in range(rounds):
        result = _smoothed(
            backend, costs, result, ratio, dimension, convolve=convolve, average=average, reuse=index > 0
        )
    return result


class ProbabilitiesAt(torch.autograd.Function):
    """Probabilities of given displacements; their derivatives are computed together with them."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: ModuleType,
        costs: Tensor,
        temperature: float,
        log_partition: Tensor,
        displacements: Sequence[Tensor],
        vectors: Tensor,
    ) -> Tensor:
        first = torch.tensor([float(d[0]) for d in displacements], dtype=torch.float64).numpy()
        step = torch.tensor([float(d[1] - d[0]) for d in displacements], dtype=torch.float64).numpy()
        found, slope = backend.probabilities_at(
            costs.flatten(0, 2).numpy(), temperature, log_partition.flatten().numpy(), first, step,
            vectors.detach().flatten(0, 2).contiguous().numpy(),
        )  # fmt: skip
        ctx.save_for_backward(torch.from_numpy(slope))
        ctx.shape = vectors.shape
        return torch.from_numpy(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return None, None, None, None, None, (slope * gradient[:, None]).reshape(ctx.shape)


class Regularised(torch.autograd.Function):
    """All rounds, at least one, with a convolution or an average in each; keeps the results before the last."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: ModuleType,
        costs: Tensor,
        ratio: Tensor,
        dimension: int,
        rounds: int,
        convolve: bool,
        average: bool,
    ) -> Tensor:
        result, kept = None, []
        for index in range(rounds):
            if index > 0:
                kept.append(result)
            result = _smoothed(
                backend, costs, result, float(ratio), dimension, convolve=convolve, average=average, reuse=False
            )
        ctx.save_for_backward(costs, ratio, *kept)
        ctx.backend, ctx.settings = backend, (dimension, rounds, convolve, average)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        costs, ratio, *kept = ctx.saved_tensors
        dimension, rounds, convolve, average = ctx.settings
        factor = float(ratio)
        total, ratio_gradient = None, 0.0
        current, owned = gradient.contiguous(), False  # not ours to overwrite
        for index in reversed(range(rounds)):
            if average:
                out = current if owned else None
                current, owned = ctx.backend.mean_field(current, dimension, transposed=True, out=out), True
            if convolve:
                current = ctx.backend.min_convolution_backward(
                    costs,
                    current,
                    dimension,
                    smoothed=kept[index - 1] if index > 0 else None,
                    factor=factor,
                    out=current if owned else None,
                )
            total = current if total is None else total.add_(current)
            if index > 0:
                ratio_gradient += torch.dot(current.flatten(), kept[index - 1].flatten())
                current, owned = current * factor, True
        if ctx.needs_input_grad[2]:
            ratio_gradient = torch.as_tensor(ratio_gradient).to(ratio).reshape(ratio.shape)
        else:
            ratio_gradient = None
        return None, total, ratio_gradient, None, None, None, None


class MomentsOf(torch.autograd.Function):
    """Mean, covariance, entropy and log-partition, always of three components, for (K, ...) control points."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: ModuleType,
        costs: Tensor,
        temperature: Tensor,
        displacements: Sequence[Tensor],
        second: bool,
    ) -> tuple[Tensor, ...]:
        results = backend.moments(costs, float(temperature), displacements, second=second)
        ctx.save_for_backward(costs, temperature, *results)
        ctx.backend, ctx.displacements = backend, displacements
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        costs, temperature, *results = ctx.saved_tensors
        value = float(temperature)
        # A gradient of no elements belongs to a result that was not asked for.
        gradients = [None if g is None or g.numel() == 0 else g for g in gradients]
        back = ctx.backend.moments_backward(costs, value, ctx.displacements, results, gradients)
        back_temperature = None
        if ctx.needs_input_grad[2]:
            back_temperature = _temperature_gradient(costs, back, value, temperature)
        return None, back if ctx.needs_input_grad[1] else None, back_temperature, None, None


class ExpectedValues(torch.autograd.Function):
    """Values of a map expected under the distribution; the map itself gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        backend: ModuleType,
        costs: Tensor,
        temperature: Tensor,
        moving: Tensor,
        coordinates: Sequence[Tensor],
    ) -> Tensor:
        value = float(temperature)
        # The sum over all displacements does not depend on where they lead.
        log_partition = backend.moments(costs, value, [c[0] for c in coordinates], second=False)[3]
        values = backend.expected_values(costs, value, log_partition, moving, coordinates)
        ctx.save_for_backward(costs, temperature, moving, log_partition, values)
        ctx.backend, ctx.coordinates = backend, coordinates
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        costs, temperature, moving, log_partition, values = ctx.saved_tensors
        value = float(temperature)
        back = ctx.backend.expected_values_backward(
            costs, value, log_partition, moving, ctx.coordinates, values, gradient.contiguous()
        )
        back_temperature = None
        if ctx.needs_input_grad[2]:
            back_temperature = _temperature_gradient(costs, back, value, temperature)
        return None, back if ctx.needs_input_grad[1] else None, back_temperature, None, None


class ShiftedDifferences(torch.autograd.Function):
    """A map sampled on pairs of shifted regular grids, the second of each subtracted from the first (CPU)."""

    @staticmethod
    def forward(
        ctx: Any, backend: ModuleType, source: Tensor, centres: Sequence[Tensor], shifts: Tensor, outside: str
    ) -> Tensor:
        # Shift (2, offsets, axes) and the positions along an axis make the coordinates (2 * offsets, n).
        moved = shifts.detach().double().reshape(-1, shifts.shape[-1])
        coordinates = [
            (centre.double() + moved[:, axis : axis + 1]).contiguous().numpy() for axis, centre in enumerate(centres)
        ]
        ctx.save_for_backward(source, shifts)
        ctx.backend, ctx.coordinates, ctx.outside = backend, coordinates, outside
        return torch.from_numpy(backend.shifted_differences(source.numpy(), coordinates, outside))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        source, shifts = ctx.saved_tensors
        back, moved = ctx.backend.shifted_differences_backward(
            source.numpy(), ctx.coordinates, ctx.outside, gradient.contiguous().numpy()
        )
        return None, torch.from_numpy(back), None, torch.from_numpy(moved).to(shifts).reshape(shifts.shape), None
