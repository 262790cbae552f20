"""The operations of the network on CPU tensors, by compiled kernels: what :mod:`itk_pdd.kernels.autograd` calls.

Tensors are contiguous and in single or double precision. Two-dimensional problems are three-dimensional ones with a
single control point, displacement and feature voxel along z.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from itk_pdd.kernels import costs_backward_cpu, costs_cpu, regularisation_cpu, softmax_cpu
from itk_pdd.kernels.costs_cpu import BLOCK
from itk_pdd.kernels.parallel import run
from itk_pdd.kernels.stencil import diagonals

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

_GRAIN = 64  # control points a thread takes at a time


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    # Not by NumPy, which asks the system for huge pages: where memory is fragmented, finding them takes ten times as
    # long as faulting in small ones.
    return torch.empty(tuple(shape), dtype=like.dtype)


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().view(-1).numpy()


class _Lattice:
    """Indices and weights of all samples, for maps with a leading z axis.

    Parameters
    ----------
    coordinates : sequence of Tensor, shape (control points, displacements) each
        Indices into the map along the axes (z,) y, x.
    size : sequence of int
        Shape of the map, (z,) y, x.
    dtype : numpy.dtype
        Of the weights.
    """

    def __init__(self, coordinates: Sequence[Tensor], size: Sequence[int], dtype: np.dtype) -> None:
        coordinates = [np.zeros((1, 1))] * (3 - len(coordinates)) + [c.numpy() for c in coordinates]
        size = [1] * (3 - len(size)) + list(size)
        self.points = tuple(c.shape[0] for c in coordinates)
        self.shape = tuple(c.shape[1] for c in coordinates)
        self.slots = self.points[2] * self.shape[2]
        self.blocks = -(-self.slots // BLOCK)
        tables = []
        for along, n in zip(coordinates, size, strict=True):
            clamped = np.clip(along, 0, n - 1)
            low = clamped.astype(np.int64)
            weight = (clamped - low).astype(dtype)
            tables.append([low, np.minimum(low + 1, n - 1), weight])
        padding = self.blocks * BLOCK - self.slots
        tables[2] = [np.pad(t.ravel(), (0, padding)) for t in tables[2]]
        self.z, self.y, self.x = tables
        self.first = np.arange(self.blocks) * BLOCK
        self.sizes = (*self.points[1:], *self.shape)
        self.point = np.minimum(np.arange(self.blocks * BLOCK) // self.shape[2], self.points[2] - 1)


def _rows(values: Tensor) -> np.ndarray:
    """A map (C, (z,) y, x) as an array (z, y, C, x) with zeros appended to a multiple of 4 channels."""
    if values.ndim == 3:
        values = values[:, None]
    channels, depth, height, width = values.shape
    result = np.zeros((depth, height, -(-channels // 4) * 4, width), values.numpy().dtype)
    result[:, :, :channels] = values.permute(1, 2, 0, 3).numpy()
    return result


def _parts(lattice: _Lattice) -> int:
    """Into how many parts to cut the control points along z, so that there is work for all threads."""
    return max(1, min(lattice.points[0], -(-torch.get_num_threads() // lattice.blocks)))


def displacement_costs(samples: Tensor, moving: Tensor, coordinates: Sequence[Tensor]) -> Tensor:
    """Mean squared differences.

    Parameters
    ----------
    samples : Tensor, shape (C, *control points)
        Fixed features at the control points.
    moving : Tensor, shape (C, *spatial)
    coordinates : sequence of Tensor, shape (control points, displacements) each
        Where to sample the moving features along the axes (z,) y, x.
    """
    dtype = moving.numpy().dtype
    lattice = _Lattice(coordinates, moving.shape[1:], dtype)
    out = _empty((*samples.shape[1:], *[c.shape[1] for c in coordinates]), moving)
    parts = _parts(lattice)
    run(
        costs_cpu.costs,
        lattice.blocks * parts,
        parts,
        _rows(samples),
        _rows(moving),
        *lattice.z,
        *lattice.y,
        *lattice.x,
        lattice.point,
        dtype.type(1 / len(moving)),
        out.numpy().reshape(*lattice.points, *lattice.shape),
    )
    return out


def _collect(parts: np.ndarray, lattice: _Lattice, channels: int, dimension: int) -> Tensor:
    """Sum what the blocks contributed to each control point; (C, *control points)."""
    result = np.zeros((*lattice.points[:2], channels, lattice.points[2]), parts.dtype)
    for part, slot in zip(parts, lattice.first, strict=True):
        first = lattice.point[slot]
        count = min(parts.shape[-1], lattice.points[2] - first)
        result[..., first : first + count] += part[:, :, :channels, :count]
    return torch.from_numpy(np.ascontiguousarray(result.transpose(2, 0, 1, 3)[(slice(None), *[0] * (3 - dimension))]))


def _parts_of(lattice: _Lattice, channels: int, dtype: np.dtype) -> np.ndarray:
    most = int((lattice.point[lattice.first + BLOCK - 1] - lattice.point[lattice.first]).max()) + 1
    return np.empty((lattice.blocks, *lattice.points[:2], channels, most), dtype)


def displacement_costs_backward(
    samples: Tensor,
    moving: Tensor,
    coordinates: Sequence[Tensor],
    gradient: Tensor,
    *,
    with_moving: bool,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the fixed samples and, if wanted, of the moving features."""
    dtype = moving.numpy().dtype
    lattice = _Lattice(coordinates, moving.shape[1:], dtype)
    fixed, rows = _rows(samples), _rows(moving)
    low, high = [t.reshape(lattice.blocks, BLOCK) for t in lattice.x[:2]]
    # The slots that pad the last block touch nothing.
    used = np.arange(lattice.blocks * BLOCK).reshape(lattice.blocks, BLOCK) < lattice.slots
    begin = np.where(used, low, low.max()).min(axis=1)
    reach = int((np.where(used, high, 0).max(axis=1) - begin).max()) + 1
    g_fixed = _parts_of(lattice, fixed.shape[2], dtype)
    g_moving = np.zeros((lattice.blocks, *rows.shape[:3], reach) if with_moving else (1, 1, 1, 1, 1), dtype)
    run(
        costs_backward_cpu.costs_backward,
        lattice.blocks,
        fixed,
        rows,
        *lattice.z,
        *lattice.y,
        *lattice.x,
        lattice.point,
        dtype.type(2 / len(moving)),
        _flat(gradient),
        lattice.sizes,
        begin,
        with_moving,
        g_fixed,
        g_moving,
    )
    channels, dimension = len(moving), moving.ndim - 1
    back = _collect(g_fixed, lattice, channels, dimension)
    if not with_moving:
        return back, None
    result = np.zeros(rows.shape, dtype)
    for part, first in zip(g_moving, begin, strict=True):
        count = min(reach, rows.shape[3] - first)
        result[..., first : first + count] += part[..., :count]
    result = result[:, :, :channels].transpose(2, 0, 1, 3)
    return back, torch.from_numpy(np.ascontiguousarray(result)).view(moving.shape)


def expected_values(
    costs: Tensor,
    temperature: float,
    log_partition: Tensor,
    moving: Tensor,
    coordinates: Sequence[Tensor],
) -> Tensor:
    """Expected values of a map, (L, *control points)."""
    dtype = moving.numpy().dtype
    lattice = _Lattice(coordinates, moving.shape[1:], dtype)
    rows = _rows(moving)
    parts = _parts_of(lattice, rows.shape[2], dtype)
    run(
        costs_backward_cpu.expected,
        lattice.blocks,
        rows,
        *lattice.z,
        *lattice.y,
        *lattice.x,
        lattice.point,
        _flat(costs),
        dtype.type(temperature),
        log_partition.numpy().reshape(lattice.points),
        lattice.sizes,
        parts,
    )
    return _collect(parts, lattice, len(moving), moving.ndim - 1)


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
    dtype = moving.numpy().dtype
    lattice = _Lattice(coordinates, moving.shape[1:], dtype)
    out = _empty(costs.shape, costs)
    run(
        costs_backward_cpu.expected_backward,
        lattice.blocks,
        _rows(moving),
        *lattice.z,
        *lattice.y,
        *lattice.x,
        lattice.point,
        _flat(costs),
        dtype.type(temperature),
        log_partition.numpy().reshape(lattice.points),
        _rows(gradient),
        (values * gradient).sum(dim=0).numpy().reshape(lattice.points),
        lattice.sizes,
        _flat(out),
    )
    return out


def _shape(costs: Tensor, dimension: int) -> tuple[int, int, int]:
    return (*[1] * (3 - dimension), *costs.shape[-dimension:])


def min_convolution(
    costs: Tensor, dimension: int, *, smoothed: Tensor | None = None, factor: float = 0.0, out: Tensor | None = None
) -> Tensor:
    """Min-convolution of ``costs + factor * smoothed``; the result may replace either."""
    out = _empty(costs.shape, costs) if out is None else out
    shape = _shape(costs, dimension)
    run(
        regularisation_cpu.min_convolution,
        costs.numel() // int(np.prod(shape)),
        _flat(costs),
        _flat(costs if smoothed is None else smoothed),
        costs.numpy().dtype.type(0 if smoothed is None else factor),
        shape,
        _flat(out),
        grain=_GRAIN,
    )
    return out


def min_convolution_backward(
    costs: Tensor,
    gradient: Tensor,
    dimension: int,
    *,
    smoothed: Tensor | None = None,
    factor: float = 0.0,
    out: Tensor | None = None,
) -> Tensor:
    """Gradient of ``costs + factor * smoothed``; the result may replace ``gradient``."""
    out = _empty(costs.shape, costs) if out is None else out
    shape = _shape(costs, dimension)
    run(
        regularisation_cpu.min_convolution_backward,
        costs.numel() // int(np.prod(shape)),
        _flat(costs),
        _flat(costs if smoothed is None else smoothed),
        costs.numpy().dtype.type(0 if smoothed is None else factor),
        shape,
        _flat(gradient),
        _flat(out),
        grain=_GRAIN,
    )
    return out


def mean_field(costs: Tensor, dimension: int, *, transposed: bool = False, out: Tensor | None = None) -> Tensor:
    """Averages over the control points, or their transpose; the result may replace the costs."""
    out = _empty(costs.shape, costs) if out is None else out
    source = costs
    for axis in range(costs.ndim - 2 * dimension, costs.ndim - dimension):
        size = costs.shape[axis]
        outer, inner = int(np.prod(costs.shape[:axis])), int(np.prod(costs.shape[axis + 1 :]))
        weights = diagonals(size, transposed=transposed).astype(costs.numpy().dtype)
        chunks = -(-inner // regularisation_cpu.CHUNK)
        run(regularisation_cpu.weigh_axis, outer * chunks, _flat(source), _flat(out), size, inner, weights, grain=4)
        source = out
    return out


def _axes(displacements: Sequence[Tensor], dtype: np.dtype) -> list[np.ndarray]:
    return [np.zeros(1, dtype)] * (3 - len(displacements)) + [d.numpy().astype(dtype) for d in displacements]


def moments(
    costs: Tensor, temperature: float, displacements: Sequence[Tensor], *, second: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean (K, 3), covariance (K, 3, 3), entropy (K,), log-partition (K,); the middle two empty unless wanted."""
    dtype = costs.numpy().dtype
    axes = _axes(displacements, dtype)
    count = costs.numel() // int(np.prod([len(a) for a in axes]))
    many = count if second else 0
    mean, covariance = np.empty((count, 3), dtype), np.empty((many, 3, 3), dtype)
    entropy, log_partition = np.empty(many, dtype), np.empty(count, dtype)
    run(
        softmax_cpu.moments,
        count,
        _flat(costs),
        dtype.type(temperature),
        *axes,
        second,
        mean,
        covariance,
        entropy,
        log_partition,
        grain=_GRAIN,
    )
    return tuple(torch.from_numpy(a) for a in (mean, covariance, entropy, log_partition))


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
    out = _empty(costs.shape, costs)
    run(
        softmax_cpu.moments_backward,
        count,
        _flat(costs),
        dtype.type(temperature),
        *_axes(displacements, dtype),
        mean,
        log_partition,
        entropy,
        *given,
        _flat(out),
        grain=_GRAIN,
    )
    return out
