"""Memory of CPU tensors as the compiled kernels take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["empty", "flat"]


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Memory for a tensor.

    Not by NumPy, which asks the system for huge pages: where memory is fragmented, finding them takes ten times as long
    as faulting in small ones.
    """
    import torch

    return torch.empty(tuple(shape), dtype=like.dtype)


def flat(tensor: Tensor) -> np.ndarray:
    """The numbers of a contiguous tensor as a 1-D array that shares its memory."""
    return tensor.detach().view(-1).numpy()
