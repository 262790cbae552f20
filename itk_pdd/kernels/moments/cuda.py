"""Moments of the displacement on CUDA tensors: a Triton kernel forward, torch's operators a part at a time backward.

Tensors are contiguous and in single precision. With ``TRITON_INTERPRET=1`` the kernel runs on CPU tensors, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from itk_pdd.kernels.moments.definition import displacement_vectors

__all__ = ["moments", "moments_backward"]

_BLOCK = 1024  # displacements at a time
_CHUNK = 1 << 25  # numbers handled at once where a step is not fused: 128 MB


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


def _vectors(displacements: Sequence[Tensor], like: Tensor) -> Tensor:
    """All displacements with three components x, y, z, shape (D, 3)."""
    displacements = [torch.zeros(1)] * (3 - len(displacements)) + list(displacements)
    return displacement_vectors(displacements, like=like).reshape(-1, 3).contiguous()


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
