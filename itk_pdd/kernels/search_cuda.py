"""The operations of the dense search and of the descent on CUDA tensors.

None of this has been run on a GPU so far: it is tested on CPU tensors, the kernels in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itk_pdd import kernels
from itk_pdd.kernels.adam.cuda import adam_step
from itk_pdd.kernels.control_grid.cuda import make_consistent, restrict, spread, upsample
from itk_pdd.kernels.correlation.cuda import DeviceCorrelation
from itk_pdd.kernels.hamming.cuda import hamming_costs
from itk_pdd.kernels.interpolation.cuda import sample_lines
from itk_pdd.kernels.mind.cuda import add_codes
from itk_pdd.kernels.thermometer.cuda import thermometer_codes
from itk_pdd.kernels.tree.cuda import min_marginals
from itk_pdd.kernels.unfolding.cuda import unfold
from itk_pdd.kernels.volume_change.cuda import add_volume_gradient

__all__ = ["DeviceOperations"]


class DeviceOperations:
    """The operations of the dense search on one device, with the meaning of those of the CPU.

    Parameters
    ----------
    device : torch.device
        A CUDA device; the CPU only for tests, in Triton's interpreter.
    """

    add_codes = staticmethod(add_codes)
    sample_lines = staticmethod(sample_lines)
    thermometer_codes = staticmethod(thermometer_codes)
    min_marginals = staticmethod(min_marginals)
    restrict = staticmethod(restrict)
    upsample = staticmethod(upsample)
    spread = staticmethod(spread)
    make_consistent = staticmethod(make_consistent)
    add_volume_gradient = staticmethod(add_volume_gradient)
    adam_step = staticmethod(adam_step)
    unfold = staticmethod(unfold)

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

    def masked_costs(
        self,
        fixed: Tensor,
        moving: Tensor,
        allowed: np.ndarray | None,
        /,
        *,
        mask: np.ndarray | None,
        scales: Sequence[float],
        **options: Any,
    ) -> Tensor:
        """See :func:`itk_pdd.kernels.hamming.cpu.masked_costs`; rows are not padded."""
        allowed = None if allowed is None or allowed.all() else self.array(allowed)
        mask = None if mask is None else self.array(mask)
        return hamming_costs(fixed, moving, allowed=allowed, mask=mask, scales=scales, **options)

    def moments(
        self, costs: Tensor, temperature: float, displacements: Sequence[np.ndarray], *, second: bool = False
    ) -> tuple[Tensor | None, ...]:
        """See :func:`itk_pdd.kernels.moments.cpu.array_moments`; None where that is empty."""
        offsets = [torch.from_numpy(each) for each in displacements]
        return tuple(kernels.displacement_moments(costs, temperature, offsets, second=second))

    def tensor(self, costs: Tensor) -> Tensor:
        """Costs for the operations of :mod:`itk_pdd.kernels`, any array for those of torch: the same memory."""
        return costs

    def from_tensor(self, tensor: Tensor) -> Tensor:
        """View a tensor of torch's operations as an array of these: the same memory."""
        return tensor

    def local_correlation(
        self, fixed: np.ndarray, moving: np.ndarray, *, scratch: object = None, **options: Any
    ) -> DeviceCorrelation:
        """See :class:`itk_pdd.kernels.correlation.cpu.LocalCorrelation`."""
        return DeviceCorrelation(fixed, moving, device=self.device, **options)
