"""Displacements on a control grid and on the voxels, on CUDA tensors.

Composition is a Triton kernel; the rest uses torch's operators.

With ``TRITON_INTERPRET=1`` the kernel runs on CPU tensors, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from itk_pdd.kernels.control_grid import cpu
from itk_pdd.kernels.control_grid.cpu import adjoint_taps, taps
from itk_pdd.kernels.interpolation.cuda import weighted_sums

__all__ = ["compose", "make_consistent", "restrict", "spread", "upsample"]

_LANES = 256


@triton.jit
def _at(field, z, y, x, size_y, size_x, inside):
    return tl.load(field + ((z * size_y + y) * size_x + x) * 3, mask=inside, other=0.0)


@triton.jit(do_not_specialize=("size_z", "size_y", "size_x", "total"))
def _compose(outer, inner, out, weight_outer, weight_inner, size_z, size_y, size_x, total, BLOCK: tl.constexpr):
    """out = weight_inner * inner(x) + weight_outer * outer(x + inner(x)), linear, border replicated."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    ux = tl.load(inner + 3 * i, mask=inside, other=0.0)
    uy = tl.load(inner + 3 * i + 1, mask=inside, other=0.0)
    uz = tl.load(inner + 3 * i + 2, mask=inside, other=0.0)
    px = tl.minimum(tl.maximum(i % size_x + ux, 0.0), (size_x - 1).to(tl.float32))
    py = tl.minimum(tl.maximum(i // size_x % size_y + uy, 0.0), (size_y - 1).to(tl.float32))
    pz = tl.minimum(tl.maximum(i // (size_x * size_y) + uz, 0.0), (size_z - 1).to(tl.float32))
    x0, y0, z0 = px.to(tl.int32), py.to(tl.int32), pz.to(tl.int32)
    x1 = tl.minimum(x0 + 1, size_x - 1)
    y1 = tl.minimum(y0 + 1, size_y - 1)
    z1 = tl.minimum(z0 + 1, size_z - 1)
    fx, fy, fz = px - x0.to(tl.float32), py - y0.to(tl.float32), pz - z0.to(tl.float32)
    for c in tl.static_range(3):
        field = outer + c
        a = _at(field, z0, y0, x0, size_y, size_x, inside)
        a += fx * (_at(field, z0, y0, x1, size_y, size_x, inside) - a)
        b = _at(field, z0, y1, x0, size_y, size_x, inside)
        b += fx * (_at(field, z0, y1, x1, size_y, size_x, inside) - b)
        low = a + fy * (b - a)
        a = _at(field, z1, y0, x0, size_y, size_x, inside)
        a += fx * (_at(field, z1, y0, x1, size_y, size_x, inside) - a)
        b = _at(field, z1, y1, x0, size_y, size_x, inside)
        b += fx * (_at(field, z1, y1, x1, size_y, size_x, inside) - b)
        value = low + fz * (a + fy * (b - a) - low)
        own = tl.load(inner + 3 * i + c, mask=inside, other=0.0)
        tl.store(out + 3 * i + c, weight_inner * own + weight_outer * value, mask=inside)


def compose(outer: Tensor, inner: Tensor, *, weights: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """See :func:`itk_pdd.kernels.control_grid.cpu.compose`.

    Fields are float32 (z, y, x, 3) of one shape, up to 7e8 voxels.
    """
    outer, inner = outer.contiguous(), inner.contiguous()
    out, total = torch.empty_like(inner), inner[..., 0].numel()
    _compose[(triton.cdiv(total, _LANES),)](
        outer, inner, out, float(weights[0]), float(weights[1]), *inner.shape[:3], total, BLOCK=_LANES
    )
    return out


def restrict(voxels: Tensor, cell: Sequence[int]) -> Tensor:
    """See :func:`itk_pdd.kernels.control_grid.cpu.restrict`, of (z, y, x, channels)."""
    # A window that is cut off at the end is divided by what it has; one may not be larger than the whole.
    cell = [min(c, n) for c, n in zip(cell, voxels.shape, strict=False)]
    means = functional.avg_pool3d(voxels.movedim(-1, 0)[None], tuple(cell), ceil_mode=True, count_include_pad=False)
    return means[0].movedim(0, -1).contiguous()


def upsample(
    control: Tensor,
    cell: Sequence[int],
    shape: Sequence[int],
    *,
    order: int = 3,
    scratch: object = None,
    added: Tensor | None = None,
) -> Tensor:
    """See :func:`itk_pdd.kernels.control_grid.cpu.upsample`; torch keeps memory by itself."""
    for axis in (2, 1, 0):
        control = weighted_sums(control, axis, *taps(shape[axis], cell[axis], control.shape[axis], order))
    return control if added is None else control + added


def spread(
    voxels: Tensor, cell: Sequence[int], control: Sequence[int], *, scratch: object = None
) -> Tensor:  # fmt: skip
    """See :func:`itk_pdd.kernels.control_grid.cpu.spread`."""
    for axis in range(3):
        voxels = weighted_sums(voxels, axis, *adjoint_taps(voxels.shape[axis], cell[axis], control[axis]))
    return voxels


def make_consistent(forward: Tensor, backward: Tensor, *, iterations: int) -> tuple[Tensor, Tensor]:
    """See :func:`itk_pdd.kernels.control_grid.cpu.make_consistent`."""
    return cpu.make_consistent(forward, backward, iterations=iterations, compose=compose)
