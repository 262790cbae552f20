"""Measure how well registered images agree: sums over the cells of a control grid, on the CPU.

For every cell the normal equations of a further Gauss-Newton step are collected, A d = b with A the sum of
g g^T over samples and channels, b that of g r (g the gradient of the moving features at the displaced position, r what
they differ by). The step d is what is left to do; r^2 trace(A^-1) how exactly the cell's structure fixes it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import ndimage

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["Agreement", "agreement"]

_SUMS = 16
_NEIGHBOURS = (0.25, 0.5, 0.25)


@dataclass(frozen=True)
class Agreement:
    """Sums over cells, axes z, y, x."""

    normal: np.ndarray  # matrix A, (kz, ky, kx, 3, 3), components x, y, z
    slope: np.ndarray  # vector b, (kz, ky, kx, 3)
    square: np.ndarray  # squared differences
    moments: np.ndarray  # means of f, m, f f, m m, f m over samples and channels, (kz, ky, kx, 5)
    count: np.ndarray  # samples that lie inside both images and the masks
    total: np.ndarray  # samples of the cell, wherever they go: above 0

    def plus(self, other: Agreement) -> Agreement:
        """Add the sums of another channel."""
        return Agreement(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@compiled
def _collect(
    first: int, last: int, fixed: Any, moving: Any, field: Any, block: Any, stride: Any, cell: Any, factor: Any,
    channels: int, mask: Any, allowed: Any, out: Any,
) -> None:  # fmt: skip
    """Cells of the slices ``first`` to ``last`` of the control grid."""
    depth, height, width = moving.shape[:3]
    tall, wide, broad = fixed.shape[:3]
    masked, limited = mask.shape[0] > 0, allowed.shape[0] > 0
    zero = np.float32(0)
    for kz in range(first, last):
        for z in range(kz * cell[0], min((kz + 1) * cell[0], tall), stride[0]):
            iz = min(z // block[0], field.shape[0] - 1)
            for y in range(0, wide, stride[1]):
                iy = min(y // block[1], field.shape[1] - 1)
                ky = y // cell[1]
                for x in range(0, broad, stride[2]):
                    ix = min(x // block[2], field.shape[2] - 1)
                    sums = out[kz, ky, x // cell[2]]
                    sums[15] += 1
                    if masked and not mask[z, y, x]:
                        continue
                    px = x + field[iz, iy, ix, 0]
                    py = y + field[iz, iy, ix, 1]
                    pz = z + field[iz, iy, ix, 2]
                    if not (
                        -0.5 <= px <= width - 0.5 and -0.5 <= py <= height - 0.5 and -0.5 <= pz <= depth - 0.5
                    ):  # fmt: skip
                        continue
                    px = min(max(px, zero), np.float32(width - 1))
                    py = min(max(py, zero), np.float32(height - 1))
                    pz = min(max(pz, zero), np.float32(depth - 1))
                    x0, y0, z0 = int(px), int(py), int(pz)
                    if limited and not allowed[z0, y0, x0]:
                        continue
                    x1, y1, z1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1), min(z0 + 1, depth - 1)
                    fx, fy, fz = np.float32(px - x0), np.float32(py - y0), np.float32(pz - z0)
                    ex, ey, ez = np.float32(1) - fx, np.float32(1) - fy, np.float32(1) - fz
                    sums[14] += 1
                    for c in range(channels):
                        a0, a1 = np.float32(moving[z0, y0, x0, c]), np.float32(moving[z0, y0, x1, c])
                        b0, b1 = np.float32(moving[z0, y1, x0, c]), np.float32(moving[z0, y1, x1, c])
                        c0, c1 = np.float32(moving[z1, y0, x0, c]), np.float32(moving[z1, y0, x1, c])
                        d0, d1 = np.float32(moving[z1, y1, x0, c]), np.float32(moving[z1, y1, x1, c])
                        a, b = ex * a0 + fx * a1, ex * b0 + fx * b1
                        d, e = ex * c0 + fx * c1, ex * d0 + fx * d1
                        low, high = ey * a + fy * b, ey * d + fy * e
                        f = factor * np.float32(fixed[z, y, x, c])
                        m = factor * (ez * low + fz * high)
                        gz = factor * (high - low)
                        gy = factor * (ez * (b - a) + fz * (e - d))
                        gx = factor * (
                            ez * (ey * (a1 - a0) + fy * (b1 - b0)) + fz * (ey * (c1 - c0) + fy * (d1 - d0))
                        )  # fmt: skip
                        r = f - m
                        sums[0] += gx * gx
                        sums[1] += gx * gy
                        sums[2] += gx * gz
                        sums[3] += gy * gy
                        sums[4] += gy * gz
                        sums[5] += gz * gz
                        sums[6] += gx * r
                        sums[7] += gy * r
                        sums[8] += gz * r
                        sums[9] += r * r
                        sums[10] += f
                        sums[11] += m
                        sums[12] += f * f
                        sums[13] += f * m
    # The sum of squares of m follows: r r = f f - 2 f m + m m.


def agreement(
    fixed: np.ndarray,
    moving: np.ndarray,
    field: np.ndarray,
    *,
    block: tuple[int, int, int],
    cell: tuple[int, int, int],
    stride: tuple[int, int, int],
    channels: int,
    factor: float = 1.0,
    mask: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
) -> Agreement:
    """Collect what the images say about a field, cell by cell.

    The sums are averaged over neighbouring cells with the weights 1, 2, 1 along each axis; the border goes on.
    Features, times ``factor``, are (z, y, x, at least ``channels``); ``field`` holds displacements in voxels, float32,
    one for each block of ``block`` voxels, components x, y, z. ``block``, ``cell`` and ``stride`` are voxels (z, y, x)
    per displacement, per cell, and from one sample to the next; ``mask`` and ``allowed`` tell the voxels of ``fixed``
    and of ``moving`` that count.
    """
    shape = fixed.shape[:3]
    out = np.zeros((*[-(-n // c) for n, c in zip(shape, cell, strict=True)], _SUMS), np.float32)
    none = np.empty((0, 0, 0), np.bool_)
    run(
        _collect,
        len(out),
        fixed,
        moving,
        np.ascontiguousarray(field, np.float32),
        np.asarray(block),
        np.asarray(stride),
        np.asarray(cell),
        np.float32(factor),
        channels,
        none if mask is None else mask,
        none if allowed is None else allowed,
        out,
    )
    for axis in range(3):
        out = ndimage.correlate1d(out, _NEIGHBOURS, axis=axis, mode="nearest")
    count = np.maximum(out[..., 14:15], 1e-6)
    mean = out / count
    xx, xy, xz, yy, yz, zz = np.moveaxis(mean[..., :6], -1, 0)
    normal = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=-1).reshape(*xx.shape, 3, 3)
    ff, fm = mean[..., 12], mean[..., 13]
    mm = mean[..., 9] - ff + 2 * fm
    moments = np.stack([mean[..., 10], mean[..., 11], ff, mm, fm], axis=-1)
    return Agreement(normal, mean[..., 6:9], mean[..., 9], moments, out[..., 14], out[..., 15])
