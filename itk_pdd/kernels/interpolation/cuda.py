"""Linear interpolation along axes on tensors of any device, by torch's operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["sample_lines", "weighted_sums"]


def weighted_sums(values: Tensor, axis: int, index: np.ndarray, weights: np.ndarray) -> Tensor:
    """out[o] = sum over t of weights[o, t] values[index[o, t]] along an axis."""
    shape = [1] * values.ndim
    shape[axis] = len(index)
    index, weights = (torch.from_numpy(table.T.copy()).to(values.device) for table in (index, weights))
    result = None
    for places, weight in zip(index, weights, strict=True):
        part = values.index_select(axis, places).mul_(weight.view(shape))
        result = part if result is None else result.add_(part)
    return result


def sample_lines(array: Tensor, positions: Sequence[np.ndarray]) -> Tensor:
    """See :func:`itk_pdd.kernels.interpolation.cpu.sample_lines`."""
    for axis, place in enumerate(positions):
        place = np.clip(np.asarray(place, np.float64), 0, array.shape[axis] - 1)
        low = place.astype(np.int64)
        part = (place - low).astype(np.float32)
        index = np.stack([low, np.minimum(low + 1, array.shape[axis] - 1)], axis=1)
        array = weighted_sums(array.float(), axis, index, np.stack([1 - part, part], axis=1))
    return array
