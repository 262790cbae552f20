"""The descent's operations on tensors of a GPU: squared local correlation with its gradient, and unfolding.

Both are plain torch with the meaning of :mod:`correlation` and :mod:`unfold`. None of this has been run on a GPU so
far: it is tested on CPU tensors. Counted for 8 million voxels and an H200: a gradient reads and writes some 5 GB, 1 to
2 ms; a round of unfolding on an eighth of the voxels takes some 200 launches, 2 ms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.kernels.correlation import FLOOR, standardised
from itk_pdd.kernels.unfold import widened

__all__ = ["DeviceCorrelation", "unfold"]


class DeviceCorrelation:
    """See :class:`itk_pdd.kernels.correlation.LocalCorrelation`; images and masks are numpy arrays, fields tensors.

    Parameters
    ----------
    fixed, moving, radius, masks, floor
        As there.
    device : torch.device
        Where to compute.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        moving: np.ndarray,
        *,
        radius: int,
        masks: Sequence[np.ndarray | None] = (None, None),
        floor: float = FLOOR,
        device: torch.device,
    ) -> None:
        both = map(standardised, (fixed, moving), masks)
        self._fixed, self._moving = (torch.from_numpy(image).to(device) for image in both)
        self._masks = [None if mask is None else torch.from_numpy(mask).to(device) for mask in masks]
        self._floor = floor
        self._radius = [min(radius, (size - 1) // 2) for size in fixed.shape]
        self._set_fixed(torch.ones_like(self._fixed))

    def _set_fixed(self, counted: Tensor) -> None:
        self._counted = counted
        self._share = counted / self._sums(counted).clamp_(min=1)
        mean, square = (s * self._share for s in self._sums(torch.stack([counted * self._fixed,
                                                                         counted * self._fixed**2])))  # fmt: skip
        self._mean, self._variance = mean, (square - mean**2).clamp_(min=0) + self._floor

    def _sums(self, values: Tensor) -> Tensor:
        """Sums over the windows of what of them lies inside; arrays (z, y, x) or several of them."""
        result = values if values.ndim == 4 else values[None]
        for axis, radius in enumerate(self._radius):
            if radius:
                width, padding = [1, 1, 1], [0, 0, 0]
                width[axis], padding[axis] = 2 * radius + 1, radius
                result = functional.avg_pool3d(result, width, 1, padding) * (2 * radius + 1)
        return result if values.ndim == 4 else result[0]

    def gradient(self, field: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`itk_pdd.kernels.correlation.LocalCorrelation.gradient`; new tensors in every call.

        The loss is one as well, so that nothing waits for a number that may not be looked at.
        """
        warped, slope, counted = self._warp(field)
        if counted is not None:
            self._set_fixed(counted)
        value = self._counted * warped
        mean, square, product = (
            s * self._share for s in self._sums(torch.stack([value, value * warped, value * self._fixed]))
        )
        variance = (square - mean**2).clamp_(min=0) + self._floor
        covariance = product - mean * self._mean
        ratio = covariance / (variance * self._variance)
        loss = ((self._share > 0) * (1 - ratio * covariance)).sum(dtype=torch.float64)
        a = 2 * ratio * self._share
        b = a * covariance / variance
        by_product, by_square, by_mean = self._sums(torch.stack([a, b, a * self._mean - b * mean]))
        factor = (by_square * warped - by_product * self._fixed + by_mean) * self._counted
        return slope.mul_(factor[..., None]), loss

    def _warp(self, field: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The moving image at displaced voxels, its derivative by the field, and which voxels count if not all do."""
        shape = field.shape[:3]
        places, shares, inside = [], [], []
        for axis, size in enumerate(shape):
            view = [1, 1, 1]
            view[axis] = size
            position = field[..., 2 - axis] + torch.arange(size, device=field.device, dtype=field.dtype).view(view)
            # Beyond the border the image does not change any more, along an axis of one voxel it never does.
            inside.append((position >= 0) & (position <= size - 1) if size > 1 else torch.zeros_like(position))
            position = position.clamp_(0, size - 1)
            low = position.long()
            places.append((low, (low + 1).clamp_(max=size - 1)))
            shares.append(position - low)
        index = {
            corner: (places[0][corner[0]] * shape[1] + places[1][corner[1]]) * shape[2] + places[2][corner[2]]
            for corner in itertools.product((0, 1), repeat=3)
        }
        at = {corner: torch.take(self._moving, where) for corner, where in index.items()}
        fz, fy, fx = shares
        along_x = [[at[z, y, 1] - at[z, y, 0] for y in (0, 1)] for z in (0, 1)]
        rows = [[at[z, y, 0] + fx * along_x[z][y] for y in (0, 1)] for z in (0, 1)]
        along_y = [rows[z][1] - rows[z][0] for z in (0, 1)]
        low, high = (rows[z][0] + fy * along_y[z] for z in (0, 1))
        slopes = [torch.lerp(torch.lerp(*along_x[0], fy), torch.lerp(*along_x[1], fy), fz),
                  torch.lerp(*along_y, fz), high - low]  # fmt: skip
        slope = torch.stack([s * i for s, i in zip(slopes, inside[::-1], strict=True)], dim=-1)
        own, other = self._masks
        if own is None and other is None:
            return torch.lerp(low, high, fz), slope, None
        counted = torch.ones_like(self._fixed, dtype=torch.bool) if own is None else own
        if other is not None:
            for where in index.values():
                counted = counted & torch.take(other, where)
        return torch.lerp(low, high, fz), slope, counted.to(field.dtype)


def unfold(
    field: Tensor, *, scale: Sequence[float] = (1.0, 1.0, 1.0), minimum: float = 0.05, rounds: int = 1000
) -> tuple[Tensor, int, int]:
    """See :func:`itk_pdd.kernels.unfold.unfold`."""
    bad = _smallest_determinants(field, scale) < minimum
    if not bool(bad.any()):
        return field, 0, 0
    flat = field.shape[0] == 1
    components = 2 if flat else 3
    field, moved = field.clone(), torch.zeros(field.shape[:3], dtype=torch.bool, device=field.device)
    for turn in range(rounds):
        reach = 1 + widened(turn)
        width = [1 if flat else 2 * reach, 2 * reach, 2 * reach]
        around = [reach] * 4 + [0 if flat else reach] * 2
        nodes = functional.max_pool3d(functional.pad(bad[None].float(), around), width, 1)[0] > 0
        moved |= nodes
        part = field[..., :components]
        part += nodes[..., None] * 0.5 * (_neighbours(part, flat) - part)
        bad = _smallest_determinants(field, scale) < minimum
        if not bool(bad.any()):
            break
    return field, int(moved.sum()), int(bad.sum())


def _neighbours(values: Tensor, flat: bool) -> Tensor:
    """Mean of the neighbours along the axes, those beyond the border being the nodes there themselves."""
    total = torch.zeros_like(values)
    axes = (1, 2) if flat else (0, 1, 2)
    for axis in axes:
        first, last = values.narrow(axis, 0, 1), values.narrow(axis, -1, 1)
        size = values.shape[axis]
        total += torch.cat([first, values.narrow(axis, 0, size - 1)], dim=axis)
        total += torch.cat([values.narrow(axis, 1, size - 1), last], dim=axis)
    return total / (2 * len(axes))


def _smallest_determinants(field: Tensor, scale: Sequence[float]) -> Tensor:
    flat = field.shape[0] == 1
    dimension = 2 if flat else 3
    edges = []  # along x, y, z
    for component, axis in enumerate((2, 1, 0)[:dimension]):
        edge = torch.diff(field[..., :dimension], dim=axis) / float(scale[component])
        edge[..., component] += 1
        edges.append(edge)
    depth, height, width = field.shape[:3]
    result = None
    for cz, cy, cx in itertools.product((0,) if flat else (0, 1), (0, 1), (0, 1)):
        z = slice(None) if flat else slice(cz, depth - 1 + cz)
        y, x = slice(cy, height - 1 + cy), slice(cx, width - 1 + cx)
        if flat:
            (xx, yx), (xy, yy) = edges[0][z, y].unbind(-1), edges[1][z, :, x].unbind(-1)
            found = xx * yy - xy * yx
        else:
            meeting = edges[0][z, y], edges[1][z, :, x], edges[2][:, y, x]
            (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = (edge.unbind(-1) for edge in meeting)
            found = xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
        result = found if result is None else torch.minimum(result, found)
    return result
