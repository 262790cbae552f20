"""Difference of byte features under a displacement field and its gradient, for instance optimisation on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from itk_pdd.kernels.parallel import compiled, run

__all__ = ["feature_gradient"]


@compiled
def _gradient(first, last, fixed, moving, own, other, field, factor, gradient, loss):
    count_y, count_x = field.shape[1:3]
    depth, height, width, channels = moving.shape
    masked_own, masked_other = own.shape[0] > 0, other.shape[0] > 0
    one, zero = np.float32(1), np.float32(0)
    for z in range(first, last):
        total = 0.0
        for y in range(count_y):
            for x in range(count_x):
                if masked_own and not own[z, y, x]:
                    gradient[z, y, x] = 0
                    continue
                px = x + field[z, y, x, 0]
                py = y + field[z, y, x, 1]
                pz = z + field[z, y, x, 2]
                # Beyond the border the features do not change any more, along an axis of one voxel they never do.
                in_x = width > 1 and 0 <= px <= width - 1
                in_y = height > 1 and 0 <= py <= height - 1
                in_z = depth > 1 and 0 <= pz <= depth - 1
                px = min(max(px, zero), np.float32(width - 1))
                py = min(max(py, zero), np.float32(height - 1))
                pz = min(max(pz, zero), np.float32(depth - 1))
                x0, y0, z0 = int(px), int(py), int(pz)
                x1, y1, z1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1), min(z0 + 1, depth - 1)
                if masked_other and not (
                    other[z0, y0, x0] and other[z0, y0, x1] and other[z0, y1, x0] and other[z0, y1, x1]
                    and other[z1, y0, x0] and other[z1, y0, x1] and other[z1, y1, x0] and other[z1, y1, x1]
                ):  # fmt: skip
                    gradient[z, y, x] = 0
                    continue
                fx, fy, fz = np.float32(px - x0), np.float32(py - y0), np.float32(pz - z0)
                m000, m001, m010, m011 = moving[z0, y0, x0], moving[z0, y0, x1], moving[z0, y1, x0], moving[z0, y1, x1]
                m100, m101, m110, m111 = moving[z1, y0, x0], moving[z1, y0, x1], moving[z1, y1, x0], moving[z1, y1, x1]
                reference = fixed[z, y, x]
                gx, gy, gz, square = zero, zero, zero, zero
                for c in range(channels):
                    a, dx0 = np.float32(m000[c]), np.float32(m001[c]) - np.float32(m000[c])
                    b, dx1 = np.float32(m010[c]), np.float32(m011[c]) - np.float32(m010[c])
                    d, dx2 = np.float32(m100[c]), np.float32(m101[c]) - np.float32(m100[c])
                    e, dx3 = np.float32(m110[c]), np.float32(m111[c]) - np.float32(m110[c])
                    a += fx * dx0
                    b += fx * dx1
                    d += fx * dx2
                    e += fx * dx3
                    low, high = a + fy * (b - a), d + fy * (e - d)
                    r = low + fz * (high - low) - np.float32(reference[c])
                    square += r * r
                    gz += r * (high - low)
                    gy += r * ((one - fz) * (b - a) + fz * (e - d))
                    gx += r * ((one - fz) * ((one - fy) * dx0 + fy * dx1) + fz * ((one - fy) * dx2 + fy * dx3))
                total += square
                gradient[z, y, x, 0] = np.float32(2) * factor * gx if in_x else zero
                gradient[z, y, x, 1] = np.float32(2) * factor * gy if in_y else zero
                gradient[z, y, x, 2] = np.float32(2) * factor * gz if in_z else zero
        loss[z] = total * factor


def feature_gradient(
    fixed: np.ndarray,
    moving: np.ndarray,
    field: np.ndarray,
    *,
    channels: int,
    masks: Sequence[np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, float]:
    """Mean squared difference of features and its derivative with respect to each displacement.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        uint8 features, shape (z, y, x, 16); 255 stands for 1.
    field : numpy.ndarray
        Displacements in voxels float32 (z, y, x, 3), components x, y, z.
    channels : int
        Number of channels that are in use; the difference is a mean over them.
    masks : sequence of numpy.ndarray, optional
        Voxels of the fixed and the moving image that may be compared, bool (z, y, x); None for all.

    Returns
    -------
    numpy.ndarray
        Derivative of each point's difference, shape of ``field``.
    float
        Sum of the differences over all points.
    """
    gradient, loss = np.empty_like(field), np.empty(len(field))
    run(
        _gradient,
        len(field),
        fixed,
        moving,
        *(np.empty((0, 0, 0), np.bool_) if mask is None else mask for mask in masks),
        field,
        np.float32(1 / (255**2 * channels)),
        gradient,
        loss,
    )
    return gradient, float(loss.sum())
