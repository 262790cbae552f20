"""Class probabilities as binary codes on tensors of any device, by torch's operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["thermometer_codes"]


def thermometer_codes(values: Tensor, bits: Sequence[int]) -> Tensor:
    """See :func:`itk_pdd.kernels.thermometer.cpu.thermometer_codes`."""
    codes = torch.zeros(values.shape[:-1], dtype=torch.int64, device=values.device)
    place = 0
    for c, count in enumerate(bits):
        level = (values[..., c].clamp(0, 1) * float(count) + 0.5).long()
        # At most 32 bits, so that nothing is shifted into the sign but by its place.
        codes |= ((1 << level) - 1) << place
        place += count
    return codes
