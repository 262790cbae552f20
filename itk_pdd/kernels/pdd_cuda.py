"""The operations of the network on CUDA tensors, by Triton kernels: what :mod:`itk_pdd.kernels.autograd` calls.

Tensors are contiguous and in single precision. Costs, smoothing and moments are fused kernels; what has none of its own
(the way back through costs, minima and moments, and expected values) uses torch's operators a part at a time.
With ``TRITON_INTERPRET=1`` the kernels run on CPU tensors, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from itk_pdd.kernels.stencil import diagonals
from itk_pdd.network import distribution, regularisation
from itk_pdd.network.costs import interpolate

__all__ = [
    "displacement_costs",
    "displacement_costs_backward",
    "expected_values",
    "expected_values_backward",
    "mean_field",
    "min_convolution",
    "min_convolution_backward",
    "moments",
    "moments_backward",
]

_BLOCK = 1024
_CHUNK = 1 << 25  # numbers handled at once where a step is not fused: 128 MB


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


@triton.jit
def _stencil(source, added, factor, weights, out, size_in, size_out, inner, shift, total,
             MINIMUM: tl.constexpr, ADD: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Along one axis of (outer, size, inner): minimum of 3, or weighted sum of 5, entries; the ends replicated."""
    block = tl.program_id(0)
    if WIDE:  # divisions of 64 bits would take longer than the memory
        block = block.to(tl.int64)
    i = block * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    column = i % inner
    k = i // inner % size_out
    base = i // (inner * size_out) * size_in * inner + column
    result = tl.zeros((BLOCK,), tl.float32)
    for tap in tl.static_range(3 if MINIMUM else 5):
        entry = tl.minimum(tl.maximum(k + tap - shift, 0), size_in - 1)
        value = tl.load(source + base + entry * inner, mask=inside, other=0.0)
        if ADD:
            value += factor * tl.load(added + base + entry * inner, mask=inside, other=0.0)
        if MINIMUM:
            result = value if tap == 0 else tl.minimum(result, value)
        else:
            result += tl.load(weights + k * 5 + tap, mask=inside, other=0.0) * value
    tl.store(out + i, result, mask=inside)


@triton.jit
def _moments(costs, temperature, vectors, sums, log_partition, total, BLOCK: tl.constexpr):
    """For one control point: 1 + 3 + 6 + 1 sums of probabilities times 1, d, products of d, and their logarithm."""
    point = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, BLOCK)
    least = tl.full((), float("inf"), tl.float32)
    for start in range(0, total, BLOCK):
        d = start + lanes
        c = tl.load(costs + point * total + d, mask=d < total, other=float("inf"))
        least = tl.minimum(least, tl.min(c, axis=0))
    s = tl.zeros((BLOCK,), tl.float32)
    sx, sy, sz, h = s, s, s, s
    xx, yy, zz, xy, xz, yz = s, s, s, s, s, s
    for start in range(0, total, BLOCK):
        d = start + lanes
        inside = d < total
        t = temperature * (least - tl.load(costs + point * total + d, mask=inside, other=0.0))
        p = tl.where(inside, tl.exp(t), 0.0)
        x = tl.load(vectors + 3 * d, mask=inside, other=0.0)
        y = tl.load(vectors + 3 * d + 1, mask=inside, other=0.0)
        z = tl.load(vectors + 3 * d + 2, mask=inside, other=0.0)
        s += p
        sx += p * x
        sy += p * y
        sz += p * z
        xx += p * x * x
        yy += p * y * y
        zz += p * z * z
        xy += p * x * y
        xz += p * x * z
        yz += p * y * z
        h += tl.where(inside, p * t, 0.0)
    z_sum = tl.sum(s, axis=0)
    to = sums + point * 10
    tl.store(to, tl.sum(sx, axis=0) / z_sum)
    tl.store(to + 1, tl.sum(sy, axis=0) / z_sum)
    tl.store(to + 2, tl.sum(sz, axis=0) / z_sum)
    tl.store(to + 3, tl.sum(xx, axis=0) / z_sum)
    tl.store(to + 4, tl.sum(xy, axis=0) / z_sum)
    tl.store(to + 5, tl.sum(xz, axis=0) / z_sum)
    tl.store(to + 6, tl.sum(yy, axis=0) / z_sum)
    tl.store(to + 7, tl.sum(yz, axis=0) / z_sum)
    tl.store(to + 8, tl.sum(zz, axis=0) / z_sum)
    tl.store(to + 9, tl.log(z_sum) - tl.sum(h, axis=0) / z_sum)
    tl.store(log_partition + point, tl.log(z_sum) - temperature * least)


def displacement_costs(samples: Tensor, moving: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
    """Mean squared differences; see :func:`itk_pdd.kernels.pdd_cpu.displacement_costs`."""
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


def _along(
    values: Tensor, axis: int, size_out: int, shift: int, *, weights: Tensor | None = None,
    added: Tensor | None = None, factor: float = 0.0
) -> Tensor:  # fmt: skip
    """One axis of a stencil: minima of three without weights, else sums of five."""
    shape = list(values.shape)
    size_in, inner = shape[axis], values[(0,) * (axis + 1)].numel()
    shape[axis] = size_out
    out = values.new_empty(shape)
    _stencil[(triton.cdiv(out.numel(), _BLOCK),)](
        values, values if added is None else added, factor, values if weights is None else weights, out,
        size_in, size_out, inner, shift, out.numel(), MINIMUM=weights is None, ADD=added is not None,
        WIDE=max(values.numel(), out.numel()) >= 2**31 - _BLOCK, BLOCK=_BLOCK,
    )  # fmt: skip
    return out


def min_convolution(
    costs: Tensor, dimension: int, *, smoothed: Tensor | None = None, factor: float = 0.0, out: Tensor | None = None
) -> Tensor:
    """Min-convolution of ``costs + factor * smoothed``, in blocks of control points; may replace either."""
    out = torch.empty_like(costs) if out is None else out
    shape = costs.shape[-dimension:]
    flat, result = costs.reshape(-1, *shape), out.view(-1, *shape)
    other = None if smoothed is None else smoothed.reshape(-1, *shape)
    size = max(1, _CHUNK // flat[0].numel())
    for start in range(0, len(flat), size):
        part = flat[start : start + size]
        added = None if other is None else other[start : start + size]
        for axis in range(1, dimension + 1):
            # Extended by two entries on either side, whose windows lie in the replicated border.
            part = _along(part, axis, part.shape[axis] + 4, 3, added=added, factor=factor)
            added = None
        for axis in range(1, dimension + 1):
            weights = torch.tensor([1.0, 2, 3, 2, 1], device=costs.device) / 9
            weights = weights.repeat(shape[axis - 1], 1)
            part = _along(part, axis, shape[axis - 1], 0, weights=weights)
        result[start : start + size] = part
    return out


def min_convolution_backward(
    costs: Tensor, gradient: Tensor, dimension: int, *, smoothed: Tensor | None = None, factor: float = 0.0,
    out: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Gradient of ``costs + factor * smoothed``, in blocks of control points; may replace ``gradient``."""
    out = torch.empty_like(costs) if out is None else out
    shape = costs.shape[-dimension:]
    flat, back, result = (t.reshape(-1, *shape) for t in (costs, gradient, out))
    other = None if smoothed is None else smoothed.reshape(-1, *shape)
    size = max(1, _CHUNK // (8 * flat[0].numel()))
    for start in range(0, len(flat), size):
        part = slice(start, start + size)
        with torch.enable_grad():
            values = flat[part] if other is None else flat[part] + factor * other[part]
            values = values.detach().requires_grad_()
            smooth = regularisation.min_convolution(values.unsqueeze(1) if dimension == 2 else values[:, None, None],
                                                    dimension)  # fmt: skip
            (result[part],) = torch.autograd.grad(smooth, values, back[part].reshape(smooth.shape))
    return out


def mean_field(costs: Tensor, dimension: int, *, transposed: bool = False, out: Tensor | None = None) -> Tensor:
    """Averages over the control points, or their transpose; the result may replace the costs."""
    result = costs
    for axis in range(costs.ndim - 2 * dimension, costs.ndim - dimension):
        size = costs.shape[axis]
        weights = torch.from_numpy(diagonals(size, transposed=transposed)).to(costs)
        result = _along(result, axis, size, 2, weights=weights)
    return result if out is None else out.copy_(result)


def _vectors(displacements: Sequence[Tensor], like: Tensor) -> Tensor:
    """All displacements with three components x, y, z, shape (D, 3)."""
    displacements = [torch.zeros(1)] * (3 - len(displacements)) + list(displacements)
    return distribution.displacement_vectors(displacements, like=like).reshape(-1, 3).contiguous()


def moments(
    costs: Tensor, temperature: float, displacements: Sequence[Tensor], *, second: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (K, 3), covariance (K, 3, 3), entropy (K,), log-partition (K,); the middle two empty unless wanted."""
    vectors = _vectors(displacements, costs)
    total = len(vectors)
    count = costs.numel() // total
    sums, log_partition = costs.new_empty(count, 10), costs.new_empty(count)
    _moments[(count,)](costs, temperature, vectors, sums, log_partition, total, BLOCK=_BLOCK)
    mean, entropy = sums[:, :3].contiguous(), sums[:, 9].contiguous()
    if not second:
        return mean, sums.new_empty(0, 3, 3), sums.new_empty(0), log_partition
    square = sums[:, [3, 4, 5, 4, 6, 7, 5, 7, 8]].reshape(count, 3, 3)
    return mean, square - mean.unsqueeze(-1) * mean.unsqueeze(-2), entropy, log_partition


def moments_backward(
    costs: Tensor,
    temperature: float,
    displacements: Sequence[Tensor],
    results: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
) -> Tensor:
    """Gradient of the costs from those of the four results of :func:`moments`; None stands for zeros."""
    mean, _, entropy, log_partition = results
    vectors = _vectors(displacements, costs)
    flat = costs.reshape(-1, len(vectors))
    out = torch.empty_like(flat)
    size = max(1, _CHUNK // (8 * len(vectors)))
    for start in range(0, len(flat), size):
        part = slice(start, start + size)
        g_mean, g_covariance, g_entropy, g_log = (None if g is None else g[part] for g in gradients)
        logs = -temperature * flat[part] - log_partition[part, None]
        value = torch.zeros_like(logs)
        if g_mean is not None:
            value += g_mean @ vectors.T - (g_mean * mean[part]).sum(dim=1, keepdim=True)
        if g_covariance is not None:
            centred = vectors - mean[part, None]
            value += torch.einsum("kdi,kij,kdj->kd", centred, g_covariance, centred)
        if g_entropy is not None:
            value -= g_entropy[:, None] * (logs + entropy[part, None])
        p = logs.exp()
        value -= (p * value).sum(dim=1, keepdim=True)
        if g_log is not None:
            value += g_log[:, None]
        out[part] = -temperature * p * value
    return out.view(costs.shape)


def _expected(costs: Tensor, temperature: float, log_partition: Tensor, dimension: int) -> Tensor:
    logs = -temperature * costs.flatten(dimension) - log_partition.reshape(*costs.shape[:dimension], 1)
    return logs.exp().view(costs.shape)


def expected_values(
    costs: Tensor, temperature: float, log_partition: Tensor, moving: Tensor, coordinates: Sequence[Tensor]
) -> Tensor:
    """Expected values of a map, (L, *control points)."""
    return _weighted(_expected(costs, temperature, log_partition, len(coordinates)), moving, coordinates, 0)


def _weighted(probabilities: Tensor, moving: Tensor, coordinates: Sequence[Tensor], axis: int) -> Tensor:
    table = coordinates[axis]
    if axis == len(coordinates) - 1:
        there = interpolate(moving, table.flatten(), axis + 1).unflatten(-1, table.shape)
        return (probabilities * there).sum(dim=-1)
    result = None
    for index, along in enumerate(table.T):
        rest = probabilities.select(len(coordinates), index)
        part = _weighted(rest, interpolate(moving, along, axis + 1), coordinates, axis + 1)
        result = part if result is None else result + part
    return result


def expected_values_backward(
    costs: Tensor,
    temperature: float,
    log_partition: Tensor,
    moving: Tensor,
    coordinates: Sequence[Tensor],
    values: Tensor,
    gradient: Tensor,
) -> Tensor:
    """Gradient of the costs from that of the expected ``values``."""
    out = torch.empty_like(costs)
    _products(gradient, moving, coordinates, 0, out)
    dimension = len(coordinates)
    centre = (values * gradient).sum(dim=0)
    out.sub_(centre.reshape(*centre.shape, *[1] * dimension))
    return out.mul_(_expected(costs, temperature, log_partition, dimension)).mul_(-temperature)


def _products(gradient: Tensor, moving: Tensor, coordinates: Sequence[Tensor], axis: int, out: Tensor) -> None:
    """Sum over the channels of gradient and moving map at every displaced position."""
    table = coordinates[axis]
    if axis == len(coordinates) - 1:
        there = interpolate(moving, table.flatten(), axis + 1).unflatten(-1, table.shape)
        out.copy_((gradient.unsqueeze(-1) * there).sum(dim=0))
        return
    for index, along in enumerate(table.T):
        part = out.select(len(coordinates), index)
        _products(gradient, interpolate(moving, along, axis + 1), coordinates, axis + 1, part)
