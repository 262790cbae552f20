"""The operations of the dense search on CUDA tensors, which :mod:`itk_pdd.solver.operations` chooses for a GPU.

Beside those with a file of their own (:mod:`hamming_cuda`, :mod:`tree_cuda`, :mod:`mind_cuda`), whose tensors are the
large ones, these are displacements on lattices: small, and mostly a few calls of torch.
None of this has been run on a GPU so far: it is tested on CPU tensors, the kernels in Triton's interpreter. Counted for
the default model on 192x160x256 voxels and an H200: codes 20 ms, costs 16 ms, min-sum 35 ms, all else 10 ms, both ways.
The spanning trees take the host 0.2 s meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from itk_pdd.kernels import hamming_cuda, mind_cuda, tree_cuda
from itk_pdd.kernels.descent_cuda import DeviceCorrelation, unfold
from itk_pdd.kernels.lattice import adjoint_taps, make_consistent, taps
from itk_pdd.kernels.tree import SpanningTree
from itk_pdd.kernels.volume import add_volume_gradient_torch

__all__ = ["DeviceOperations"]

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
    """See :func:`itk_pdd.kernels.lattice.compose`; fields are float32 (z, y, x, 3) of one shape, up to 7e8 voxels."""
    outer, inner = outer.contiguous(), inner.contiguous()
    out, total = torch.empty_like(inner), inner[..., 0].numel()
    _compose[(triton.cdiv(total, _LANES),)](
        outer, inner, out, float(weights[0]), float(weights[1]), *inner.shape[:3], total, BLOCK=_LANES
    )
    return out


def _weighted(values: Tensor, axis: int, index: np.ndarray, weights: np.ndarray) -> Tensor:
    """out[o] = sum over t of weights[o, t] values[index[o, t]] along an axis."""
    shape = [1] * values.ndim
    shape[axis] = len(index)
    index, weights = (torch.from_numpy(table.T.copy()).to(values.device) for table in (index, weights))
    result = None
    for places, weight in zip(index, weights, strict=True):
        part = values.index_select(axis, places).mul_(weight.view(shape))
        result = part if result is None else result.add_(part)
    return result


class DeviceOperations:
    """The operations of the dense search on one device, with the meaning of those of the CPU.

    Parameters
    ----------
    device : torch.device
        A CUDA device; the CPU only for tests, in Triton's interpreter.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def array(self, values: np.ndarray) -> Tensor:
        """A numpy array as a tensor on the device; unsigned codes become signed ones with the same bits."""
        values = np.ascontiguousarray(values)
        return torch.from_numpy(values.view(np.int64) if values.dtype == np.uint64 else values).to(self.device)

    def numpy(self, tensor: Tensor) -> np.ndarray:
        """A tensor of the device as a numpy array."""
        return tensor.cpu().numpy()

    def no_codes(self, shape: Sequence[int]) -> Tensor:
        """Codes without a bit set."""
        return torch.zeros(tuple(shape), dtype=torch.int64, device=self.device)

    def add_codes(self, image: Tensor, codes: Tensor, **options: Any) -> None:
        """See :func:`itk_pdd.kernels.mind.add_codes`."""
        mind_cuda.add_codes(image, codes, **options)

    def sample_lines(self, array: Tensor, positions: Sequence[np.ndarray]) -> Tensor:
        """See :func:`itk_pdd.kernels.interpolation.sample_lines`."""
        for axis, place in enumerate(positions):
            place = np.clip(np.asarray(place, np.float64), 0, array.shape[axis] - 1)
            low = place.astype(np.int64)
            part = (place - low).astype(np.float32)
            index = np.stack([low, np.minimum(low + 1, array.shape[axis] - 1)], axis=1)
            array = _weighted(array.float(), axis, index, np.stack([1 - part, part], axis=1))
        return array

    def thermometer_codes(self, values: Tensor, bits: Sequence[int]) -> Tensor:
        """See :func:`itk_pdd.kernels.thermometer.thermometer_codes`."""
        codes = torch.zeros(values.shape[:-1], dtype=torch.int64, device=values.device)
        place = 0
        for c, count in enumerate(bits):
            level = (values[..., c].clamp(0, 1) * float(count) + 0.5).long()
            # At most 32 bits, so that nothing is shifted into the sign but by its place.
            codes |= ((1 << level) - 1) << place
            place += count
        return codes

    def masked_costs(
        self, fixed: Tensor, moving: Tensor, allowed: np.ndarray | None, *, mask: np.ndarray | None, **options: Any
    ) -> Tensor:
        """See :func:`itk_pdd.kernels.masking.masked_costs`; rows are not padded."""
        allowed = None if allowed is None or allowed.all() else self.array(allowed)
        mask = None if mask is None else self.array(mask)
        return hamming_cuda.hamming_costs(fixed, moving, allowed=allowed, mask=mask, **options)

    def min_marginals(self, costs: Tensor, tree: SpanningTree, **options: Any) -> Tensor:
        """See :func:`itk_pdd.kernels.tree.min_marginals`."""
        return tree_cuda.min_marginals(costs, tree, **options)

    def tensor(self, costs: Tensor) -> Tensor:
        """Costs for the operations of :mod:`itk_pdd.kernels`, any array for those of torch: the same memory."""
        return costs

    def from_tensor(self, tensor: Tensor) -> Tensor:
        """What those return, as these operations take it."""
        return tensor

    def restrict(self, voxels: Tensor, cell: Sequence[int]) -> Tensor:
        """See :func:`itk_pdd.kernels.lattice.restrict`, of (z, y, x, channels)."""
        # A window that is cut off at the end is divided by what it has; one may not be larger than the whole.
        cell = [min(c, n) for c, n in zip(cell, voxels.shape, strict=False)]
        means = functional.avg_pool3d(voxels.movedim(-1, 0)[None], tuple(cell), ceil_mode=True, count_include_pad=False)
        return means[0].movedim(0, -1).contiguous()

    def upsample(
        self, control: Tensor, cell: Sequence[int], shape: Sequence[int], *, order: int = 3, scratch: object = None
    ) -> Tensor:
        """See :func:`itk_pdd.kernels.lattice.upsample`; torch keeps memory by itself."""
        for axis in (2, 1, 0):
            control = _weighted(control, axis, *taps(shape[axis], cell[axis], control.shape[axis], order))
        return control

    def spread(
        self, voxels: Tensor, cell: Sequence[int], control: Sequence[int], *, scratch: object = None
    ) -> Tensor:  # fmt: skip
        """See :func:`itk_pdd.kernels.lattice.spread`."""
        for axis in range(3):
            voxels = _weighted(voxels, axis, *adjoint_taps(voxels.shape[axis], cell[axis], control[axis]))
        return voxels

    def local_correlation(
        self, fixed: np.ndarray, moving: np.ndarray, *, scratch: object = None, **options: Any
    ) -> DeviceCorrelation:
        """See :class:`itk_pdd.kernels.correlation.LocalCorrelation`."""
        return DeviceCorrelation(fixed, moving, device=self.device, **options)

    def add_volume_gradient(self, field: Tensor, out: Tensor, **options: Any) -> Tensor:
        """See :func:`itk_pdd.kernels.volume.add_volume_gradient`."""
        return add_volume_gradient_torch(field, out, **options)

    def unfold(self, field: Tensor, **options: Any) -> tuple[Tensor, int, int]:
        """See :func:`itk_pdd.kernels.unfold.unfold`."""
        return unfold(field, **options)

    def make_consistent(self, forward: Tensor, backward: Tensor, *, iterations: int) -> tuple[Tensor, Tensor]:
        """See :func:`itk_pdd.kernels.lattice.make_consistent`."""
        return make_consistent(forward, backward, iterations=iterations, compose=compose)
