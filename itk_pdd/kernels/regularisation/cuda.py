"""Min-convolution and mean field on CUDA tensors: a Triton kernel for one axis at a time.

Tensors are contiguous and in single precision; the gradient of the min-convolution uses torch's operators. With
``TRITON_INTERPRET=1`` the kernel runs on CPU tensors, for tests.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from itk_pdd.kernels.regularisation import definition
from itk_pdd.kernels.regularisation.stencil import diagonals

__all__ = ["mean_field", "min_convolution", "min_convolution_backward"]

_BLOCK = 1024  # numbers per program
_CHUNK = 1 << 25  # numbers handled at once where a step is not fused: 128 MB


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
            smooth = definition.min_convolution(values.unsqueeze(1) if dimension == 2 else values[:, None, None],
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
