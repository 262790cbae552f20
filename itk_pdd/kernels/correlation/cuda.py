"""Squared local correlation with its gradient on tensors of any device, in plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from itk_pdd.kernels.correlation.cpu import FLOOR, standardised

__all__ = ["DeviceCorrelation"]


class DeviceCorrelation:
    """See :class:`itk_pdd.kernels.correlation.cpu.LocalCorrelation`; images and masks are numpy arrays, fields tensors.

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
        """See :meth:`itk_pdd.kernels.correlation.cpu.LocalCorrelation.gradient`; new tensors in every call.

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
