"""Hamming costs of binary codes on CUDA tensors, by a Triton kernel: see :mod:`itk_pdd.kernels.hamming.cpu`.

A program computes a block of displacements of one control point: it walks through the voxels of the cell, whose code
is the same for all lanes, while neighbouring lanes read neighbouring codes of the moving image, from the caches.
With ``TRITON_INTERPRET=1`` the kernel runs on CPU tensors, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["hamming_costs"]

# Integers that change from stage to stage: a kernel of its own for each of their values would help nothing.
_SIZES = (
    "words", "size_z", "size_y", "size_x", "grid_y", "grid_x", "depth", "height", "length", "base_z", "base_y",
    "base_x", "block_z", "block_y", "block_x", "cell_z", "cell_y", "cell_x", "stride_z", "stride_y", "stride_x",
    "radius_z", "radius_y", "radius_x", "step_z", "step_y", "step_x", "total",
)  # fmt: skip
_FEW = tl.constexpr(0.25)  # as in itk_pdd.kernels.hamming.cpu


@triton.jit
def _population(word):
    """Number of set bits of 64-bit integers. LLVM knows the pattern and makes it the instruction that counts bits."""
    x = word.to(tl.uint64, bitcast=True)
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    x = x + (x >> 8)
    x = x + (x >> 16)
    x = x + (x >> 32)
    return (x & 0x7F).to(tl.int32)


@triton.jit
def _clamped(value, size):
    return tl.minimum(tl.maximum(value, 0), size - 1)


@triton.jit
def _voxels(value):
    """Round as the CPU kernel does."""
    return tl.floor(value + 0.5).to(tl.int32)


@triton.jit(do_not_specialize=_SIZES)
def _hamming(
    fixed, moving, base, mask, allowed, scales, out,
    words, size_z, size_y, size_x, grid_y, grid_x, depth, height, length, base_z, base_y, base_x,
    block_z, block_y, block_x, cell_z, cell_y, cell_x, stride_z, stride_y, stride_x,
    radius_z, radius_y, radius_x, step_z, step_y, step_x, total,
    HAS_BASE: tl.constexpr, HAS_MASK: tl.constexpr, HAS_ALLOWED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Costs of a block of displacements of one control point; NaN where too few samples are allowed."""
    point = tl.program_id(0)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    count_x, count_y = 2 * radius_x + 1, 2 * radius_y + 1
    # Lanes beyond the last displacement have some offset along z, which is clamped like any other.
    ox = (d % count_x - radius_x) * step_x
    oy = (d // count_x % count_y - radius_y) * step_y
    oz = (d // (count_x * count_y) - radius_z) * step_z
    first_z = point // (grid_y * grid_x) * cell_z
    first_y = point // grid_x % grid_y * cell_y
    first_x = point % grid_x * cell_x
    last_z = tl.minimum(first_z + cell_z, size_z)
    last_y = tl.minimum(first_y + cell_y, size_y)
    last_x = tl.minimum(first_x + cell_x, size_x)
    own_voxels = size_z.to(tl.int64) * size_y * size_x
    other_voxels = depth.to(tl.int64) * height * length
    cost = tl.zeros((BLOCK,), tl.float32)
    excluded = tl.zeros((BLOCK,), tl.int32)
    share = excluded.to(tl.float32)
    for w in range(words):
        differing = tl.zeros((BLOCK,), tl.int32)
        samples = w * 0
        for z in range(first_z, last_z, stride_z):
            for y in range(first_y, last_y, stride_y):
                voxels = (z * size_y + y) * size_x
                if HAS_BASE:
                    blocks = (z // block_z * base_y + y // block_y) * base_x
                for x in range(first_x, last_x, stride_x):
                    counts = 1
                    if HAS_MASK:
                        counts = tl.load(mask + voxels + x).to(tl.int32)
                    bz, by, bx = z, y, x
                    if HAS_BASE:
                        found = base + 3 * (blocks + x // block_x)
                        bx += _voxels(tl.load(found))
                        by += _voxels(tl.load(found + 1))
                        bz += _voxels(tl.load(found + 2))
                    mz = _clamped(_clamped(bz, depth) + oz, depth)
                    my = _clamped(_clamped(by, height) + oy, height)
                    mx = _clamped(_clamped(bx, length) + ox, length)
                    there = (mz * height + my) * length + mx
                    own = tl.load(fixed + w * own_voxels + voxels + x)
                    bits = _population(own ^ tl.load(moving + w * other_voxels + there)) * counts
                    if HAS_ALLOWED:
                        inside = tl.load(allowed + there).to(tl.int32)
                        bits *= inside
                        # Counted once for each word.
                        excluded += (1 - inside) * counts
                    differing += bits
                    samples += counts
        number = tl.maximum(samples, 1).to(tl.float32)
        cost += differing.to(tl.float32) * (tl.load(scales + w) / number)
        if HAS_ALLOWED:
            share = excluded.to(tl.float32) / (number * words)
    if HAS_ALLOWED:
        left = 1.0 - share
        enough = left >= _FEW
        cost = tl.where(enough, cost / tl.where(enough, left, 1.0), float("nan"))
    tl.store(out + point.to(tl.int64) * total + d, cost, mask=d < total)


def hamming_costs(
    fixed: Tensor,
    moving: Tensor,
    *,
    cell: Sequence[int],
    radius: Sequence[int],
    step: Sequence[int],
    stride: Sequence[int] = (1, 1, 1),
    base: Tensor | None = None,
    block: Sequence[int] = (1, 1, 1),
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    scales: Sequence[float] = (1 / 60,),
) -> Tensor:
    """See ``hamming_costs`` of :mod:`itk_pdd.kernels.hamming.cpu`, and ``masked_costs`` there for ``allowed``.

    Parameters
    ----------
    fixed, moving : Tensor
        Codes, int64, shape (words, z, y, x): the bits of the unsigned codes of the CPU.
    cell, radius, step, stride, block, scales
        As there.
    base : Tensor, optional
        float32, shape (z, y, x, 3).
    mask, allowed : Tensor, optional
        bool, shape (z, y, x).

    Returns
    -------
    Tensor
        float32, shape (kz, ky, kx, dz, dy, dx): rows are not padded.
    """
    if max(fixed[0].numel(), moving[0].numel()) >= 2**31:
        raise ValueError(f"images of {max(fixed[0].numel(), moving[0].numel())} voxels, expected fewer than 2^31")
    words, *size = fixed.shape
    grid = [-(-n // c) for n, c in zip(size, cell, strict=True)]
    counts = [2 * r + 1 for r in radius]
    points, total = grid[0] * grid[1] * grid[2], counts[0] * counts[1] * counts[2]
    out = torch.empty((*grid, *counts), dtype=torch.float32, device=fixed.device)
    # Four displacements per thread share the work on a voxel; few of them leave less of a small block idle.
    lanes, warps = (512, 4) if total > 1024 else (128, 1)
    # Arguments that are not in use stand for something of their type.
    unused = fixed.new_empty(1, dtype=torch.float32), fixed.new_empty(1, dtype=torch.bool)
    _hamming[(points, triton.cdiv(total, lanes))](
        fixed.contiguous(),
        moving.contiguous(),
        unused[0] if base is None else base.contiguous(),
        unused[1] if mask is None else mask.contiguous(),
        unused[1] if allowed is None else allowed.contiguous(),
        torch.tensor(scales, dtype=torch.float32, device=fixed.device),
        out, words, *size, *grid[1:], *moving.shape[1:], *((1, 1, 1) if base is None else base.shape[:3]),
        *block, *cell, *stride, *radius, *step, total,
        HAS_BASE=base is not None, HAS_MASK=mask is not None, HAS_ALLOWED=allowed is not None, BLOCK=lanes,
        num_warps=warps,
    )  # fmt: skip
    if allowed is not None:
        flat = out.view(points, total)
        # Displacements that leave too little to compare have the mean cost of the others, or zero.
        neutral = flat.nanmean(dim=1, keepdim=True).nan_to_num_(nan=0.0)
        torch.where(flat.isnan(), neutral, flat, out=flat)
    return out
