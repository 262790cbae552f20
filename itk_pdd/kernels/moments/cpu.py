"""Softmax over displacements with what is expected under it, on the CPU, forward and backward.

The probabilities of one control point at a time are computed, in the first-level cache, and never stored. Displacements
are (dz, dy, dx) from a regular set, so moments come from sums over z first: two numbers for each (dy, dx).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.kernels.arithmetic import exponential, load, store
from itk_pdd.kernels.parallel import compiled, inlined, run
from itk_pdd.kernels.tensors import empty, flat

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["array_moments", "moments", "moments_backward"]

_LANES = 16
_GRAIN = 64  # control points a thread takes at a time


@inlined
def _least(costs, start, count, lanes):
    """Minimum of ``count`` costs: lane by lane first, which needs no assumption about NaN to become vector code."""
    for i in range(_LANES):
        store(lanes, i, load(costs, start))
    for j in range(0, count - _LANES + 1, _LANES):
        for i in range(_LANES):
            c, m = load(costs, start + j + i), load(lanes, i)
            store(lanes, i, c if c < m else m)
    least = lanes[0]
    for i in range(1, _LANES):
        least = min(least, lanes[i])
    for j in range(count - count % _LANES, count):
        least = min(least, load(costs, start + j))
    return least


@inlined
def _exponentials(costs, start, least, temperature, count, out):
    """``exp(-temperature (costs - least))``."""
    for i in range(count):
        store(out, i, exponential(temperature * (least - load(costs, start + i))))


@compiled
def _moments(first, last, costs, temperature, dz, dy, dx, second, mean, covariance, entropy, log_partition):
    """Moments of the control points first .. last.

    Parameters
    ----------
    costs : flat array
        For each control point Dz x Dy x Dx numbers.
    dz, dy, dx : arrays
        Displacements along each axis.
    second : bool
        Whether to compute covariance and entropy beside mean and log-partition.
    mean : array (K, 3)
        Components x, y, z.
    covariance : array (K, 3, 3)
    entropy, log_partition : arrays (K,)
    """
    depth, height, width = dz.size, dy.size, dx.size
    area = height * width
    count = depth * area
    e, lanes = np.empty(count, costs.dtype), np.empty(_LANES, costs.dtype)
    total, along = np.empty(area, costs.dtype), np.empty(area, costs.dtype)
    for k in range(first, last):
        start = k * count
        least = _least(costs, start, count, lanes)
        _exponentials(costs, start, least, temperature, count, e)
        for i in range(area):
            store(total, i, load(e, i))
            store(along, i, load(e, i) * dz[0])
        s_zz = np.float64(0)
        for z in range(1, depth):
            for i in range(area):
                v = load(e, z * area + i)
                store(total, i, load(total, i) + v)
                store(along, i, load(along, i) + v * dz[z])
        s, s_z, s_y, s_x = np.float64(0), np.float64(0), np.float64(0), np.float64(0)
        for y in range(height):
            row, row_z, row_x = costs.dtype.type(0), costs.dtype.type(0), costs.dtype.type(0)
            for x in range(width):
                v = load(total, y * width + x)
                row += v
                row_x += v * dx[x]
                row_z += load(along, y * width + x)
            s += row
            s_x += row_x
            s_z += row_z
            s_y += row * dy[y]
        m_x, m_y, m_z = s_x / s, s_y / s, s_z / s
        mean[k, 0], mean[k, 1], mean[k, 2] = m_x, m_y, m_z
        log_partition[k] = np.log(s) - temperature * least
        if not second:
            continue
        # About the mean: the difference of large squares would lose the variance of a sharp distribution.
        s_yy, s_xx, s_zy, s_zx, s_yx = np.float64(0), np.float64(0), np.float64(0), np.float64(0), np.float64(0)
        for y in range(height):
            b = dy[y] - m_y
            for x in range(width):
                v, a = np.float64(load(total, y * width + x)), dx[x] - m_x
                u = load(along, y * width + x) - m_z * v
                s_yy += v * b * b
                s_xx += v * a * a
                s_yx += v * b * a
                s_zy += u * b
                s_zx += u * a
        spread = costs.dtype.type(0)
        for z in range(depth):
            part = costs.dtype.type(0)
            for i in range(z * area, (z + 1) * area):
                v = load(e, i)
                part += v
                spread += v * (load(costs, start + i) - least)
            s_zz += part * (dz[z] - m_z) ** 2
        covariance[k, 0, 0], covariance[k, 1, 1], covariance[k, 2, 2] = s_xx / s, s_yy / s, s_zz / s
        covariance[k, 0, 1] = covariance[k, 1, 0] = s_yx / s
        covariance[k, 0, 2] = covariance[k, 2, 0] = s_zx / s
        covariance[k, 1, 2] = covariance[k, 2, 1] = s_zy / s
        entropy[k] = np.log(s) + temperature * spread / s


@compiled
def _moments_backward(
    first, last, costs, temperature, dz, dy, dx, mean, log_partition, entropy, g_mean, g_cov, g_entropy, g_log, out
):
    """Gradient of the costs from those of the moments, for the control points first .. last.

    Parameters
    ----------
    g_mean, g_cov, g_entropy, g_log : arrays (K, 3), (K, 3, 3), (K,), (K,)
    out : flat array
    """
    depth, height, width = dz.size, dy.size, dx.size
    area = height * width
    count = depth * area
    flat, slope = np.empty(area, costs.dtype), np.empty(area, costs.dtype)
    for k in range(first, last):
        start = k * count
        # h(d): derivative by the probability of d. The mean of h is subtracted, which the softmax does, by writing it
        # with differences from the mean: what remains of the covariance is the product of two such.
        gx, gy, gz = g_mean[k, 0], g_mean[k, 1], g_mean[k, 2]
        xx, yy, zz = g_cov[k, 0, 0], g_cov[k, 1, 1], g_cov[k, 2, 2]
        xy, xz, yz = g_cov[k, 0, 1] + g_cov[k, 1, 0], g_cov[k, 0, 2] + g_cov[k, 2, 0], g_cov[k, 1, 2] + g_cov[k, 2, 1]
        m_x, m_y, m_z = mean[k, 0], mean[k, 1], mean[k, 2]
        for y in range(height):
            b = dy[y] - m_y
            for x in range(width):
                a = dx[x] - m_x
                store(flat, y * width + x, a * (gx + xx * a + xy * b) + b * (gy + yy * b))
                store(slope, y * width + x, gz + xz * a + yz * b)
        g_h, g_l, log_z, h = g_entropy[k], g_log[k], log_partition[k], entropy[k]
        # The mean of the quadratic part: trace of gradient and covariance, found on the way.
        total, weighted = np.float64(0), np.float64(0)
        for z in range(depth):
            c, at = dz[z] - m_z, start + z * area
            part, part_h = costs.dtype.type(0), costs.dtype.type(0)
            for i in range(area):
                t = -temperature * load(costs, at + i) - log_z
                p = exponential(t if t < costs.dtype.type(0) else costs.dtype.type(0))
                value = load(flat, i) + c * (load(slope, i) + zz * c) - g_h * (t + h)
                part += p
                part_h += p * value
                store(out, at + i, value)
            total += part
            weighted += part_h
        centre = costs.dtype.type(weighted / total)
        for i in range(count):
            t = -temperature * load(costs, start + i) - log_z
            p = exponential(t if t < costs.dtype.type(0) else costs.dtype.type(0))
            store(out, start + i, -temperature * p * (load(out, start + i) - centre + g_l))


def _axes(displacements: Sequence[Any], dtype: np.dtype) -> list[np.ndarray]:
    return [np.zeros(1, dtype)] * (3 - len(displacements)) + [np.asarray(d).astype(dtype) for d in displacements]


def array_moments(
    costs: np.ndarray, temperature: float, displacements: Sequence[Any], *, second: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average displacements under the softmax of their costs.

    Parameters
    ----------
    costs : numpy.ndarray
        Contiguous, float32 or float64, shape (..., (dz,) dy, dx).
    temperature : float
        Factor of the costs in the softmax.
    displacements : sequence of array
        Displacements along the axes (z,) y, x.
    second : bool
        Compute the covariance and the entropy as well; both are empty otherwise.

    Returns
    -------
    numpy.ndarray
        Mean, shape (..., 3), components x, y, z.
    numpy.ndarray
        Covariance, shape (..., 3, 3).
    numpy.ndarray
        Entropy in nats, shape (...).
    numpy.ndarray
        Logarithm of the partition function, shape (...).
    """
    dtype, lead = costs.dtype, costs.shape[: costs.ndim - len(displacements)]
    axes, count = _axes(displacements, dtype), int(np.prod(lead))
    many = lead if second else (0,)
    shapes = ((*lead, 3), (*many, 3, 3), many, lead)
    out = [np.empty(shape, dtype) for shape in shapes]
    rows = [each.reshape(-1, *each.shape[each.ndim - tail :]) for each, tail in zip(out, (1, 2, 0, 0), strict=True)]
    run(_moments, count, costs.reshape(-1), dtype.type(temperature), *axes, second, *rows, grain=_GRAIN)
    return tuple(out)


def moments(
    costs: Tensor, temperature: float, displacements: Sequence[Tensor], *, second: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (K, 3), covariance (K, 3, 3), entropy (K,), log-partition (K,); the middle two empty unless wanted."""
    import torch

    count = costs.shape[: costs.ndim - len(displacements)].numel()
    rows = costs.numpy().reshape(count, *costs.shape[costs.ndim - len(displacements) :])
    return tuple(torch.from_numpy(a) for a in array_moments(rows, temperature, displacements, second=second))


def moments_backward(
    costs: Tensor,
    temperature: float,
    displacements: Sequence[Tensor],
    results: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
) -> Tensor:
    """Gradient of the costs from those of the four results of :func:`moments`; None stands for zeros."""
    dtype = costs.numpy().dtype
    mean, _, entropy, log_partition = [r.numpy() for r in results]
    count = len(mean)
    shapes = ((count, 3), (count, 3, 3), (count,), (count,))
    given = [
        np.zeros(shape, dtype) if g is None else g.detach().contiguous().numpy()
        for g, shape in zip(gradients, shapes, strict=True)
    ]
    if len(entropy) == 0:
        entropy = np.zeros(count, dtype)
    out = empty(costs.shape, costs)
    run(
        _moments_backward,
        count,
        flat(costs),
        dtype.type(temperature),
        *_axes(displacements, dtype),
        mean,
        log_partition,
        entropy,
        *given,
        flat(out),
        grain=_GRAIN,
    )
    return out
