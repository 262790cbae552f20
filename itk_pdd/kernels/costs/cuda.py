"""Displacement costs on CUDA tensors: a Triton kernel forward, torch's operators a part at a time backward.

Tensors are contiguous and in single precision. With ``TRITON_INTERPRET=1`` the kernel runs on CPU tensors, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from itk_pdd.kernels.interpolation.definition import interpolate

__all__ = ["displacement_costs", "displacement_costs_backward"]

_BLOCK = 1024  # displacements per program


@triton.jit
def _costs(samples, moving, low, high, weight, out, channels, points_y, points_x, count_y, count_x, total,
           size_y, size_x, voxels, points, starts_y, starts_x, scale, BLOCK: tl.constexpr):  # fmt: skip
    """A block of displacements of one control point. Tables of all axes follow each other: z, y, x."""
    point = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < total
    count_yx = count_y * count_x
    iz = (point // (points_y * points_x)) * (total // count_yx) + d // count_yx
    iy = starts_y + (point // points_x % points_y) * count_y + d // count_x % count_y
    ix = starts_x + (point % points_x) * count_x + d % count_x
    z0, z1 = tl.load(low + iz, mask=inside, other=0), tl.load(high + iz, mask=inside, other=0)
    y0, y1 = tl.load(low + iy, mask=inside, other=0), tl.load(high + iy, mask=inside, other=0)
    x0, x1 = tl.load(low + ix, mask=inside, other=0), tl.load(high + ix, mask=inside, other=0)
    wz = tl.load(weight + iz, mask=inside, other=0.0)
    wy = tl.load(weight + iy, mask=inside, other=0.0)
    wx = tl.load(weight + ix, mask=inside, other=0.0)
    r00, r01 = (z0 * size_y + y0) * size_x, (z0 * size_y + y1) * size_x
    r10, r11 = (z1 * size_y + y0) * size_x, (z1 * size_y + y1) * size_x
    total_cost = tl.zeros((BLOCK,), tl.float32)
    m = moving
    for c in range(channels):
        a = tl.load(m + r00 + x0, mask=inside, other=0.0)
        a += wx * (tl.load(m + r00 + x1, mask=inside, other=0.0) - a)
        b = tl.load(m + r01 + x0, mask=inside, other=0.0)
        b += wx * (tl.load(m + r01 + x1, mask=inside, other=0.0) - b)
        e = tl.load(m + r10 + x0, mask=inside, other=0.0)
        e += wx * (tl.load(m + r10 + x1, mask=inside, other=0.0) - e)
        f = tl.load(m + r11 + x0, mask=inside, other=0.0)
        f += wx * (tl.load(m + r11 + x1, mask=inside, other=0.0) - f)
        a += wy * (b - a)
        e += wy * (f - e)
        difference = tl.load(samples + c * points + point) - (a + wz * (e - a))
        total_cost += difference * difference
        m += voxels
    tl.store(out + point.to(tl.int64) * total + d, total_cost * scale, mask=inside)


def displacement_costs(samples: Tensor, moving: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
    """Mean squared differences; see :func:`itk_pdd.kernels.costs.cpu.displacement_costs`."""
    out = moving.new_empty((*samples.shape[1:], *[c.shape[1] for c in coordinates]))
    size = [1] * (4 - moving.ndim) + list(moving.shape[1:])
    tables = [torch.zeros(1, 1, dtype=torch.float64)] * (4 - moving.ndim) + list(coordinates)
    low, high, weight = [], [], []
    for table, n in zip(tables, size, strict=True):
        table = table.clamp(0, n - 1).flatten()
        first = table.floor().long()
        low.append(first)
        high.append((first + 1).clamp(max=n - 1))
        weight.append(table - first)
    points, counts = [t.shape[0] for t in tables], [t.shape[1] for t in tables]
    lengths = [t.numel() for t in tables]
    total = counts[0] * counts[1] * counts[2]
    number = points[0] * points[1] * points[2]
    _costs[(number, triton.cdiv(total, _BLOCK))](
        samples, moving, *(torch.cat(t).to(moving.device, torch.int32) for t in (low, high)),
        torch.cat(weight).to(moving), out, len(moving), points[1], points[2], counts[1], counts[2], total,
        size[1], size[2], size[0] * size[1] * size[2], number, lengths[0], lengths[0] + lengths[1], 1 / len(moving),
        BLOCK=_BLOCK,
    )  # fmt: skip
    return out


def displacement_costs_backward(
    samples: Tensor, moving: Tensor, coordinates: Sequence[Tensor], gradient: Tensor, *, with_moving: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the fixed samples and, if wanted, of the moving features, one leading displacement at a time."""
    with torch.enable_grad():
        fixed, moving = samples.detach().requires_grad_(), moving.detach().requires_grad_(with_moving)
        for index in range(coordinates[0].shape[1]):
            part = _at(fixed, interpolate(moving, coordinates[0][:, index], 1), coordinates, 1)
            part.backward(gradient.select(len(coordinates), index))
    return fixed.grad, moving.grad


def _at(fixed: Tensor, moving: Tensor, coordinates: Sequence[Tensor], axis: int) -> Tensor:
    table = coordinates[axis]
    if axis == len(coordinates) - 1:
        there = interpolate(moving, table.flatten(), axis + 1).unflatten(-1, table.shape)
        return (fixed.unsqueeze(-1) - there).square().mean(dim=0)
    parts = [_at(fixed, interpolate(moving, along, axis + 1), coordinates, axis + 1) for along in table.T]
    return torch.stack(parts, dim=len(coordinates))
