"""The seam between algorithm and device: the operations that the CPU and a GPU both have.

Arrays and tensors have the axes z, y, x; displacements have the components x, y, z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from itk_pdd.kernels.adam.cpu import adam_step
from itk_pdd.kernels.control_grid.cpu import make_consistent, restrict, spread, upsample
from itk_pdd.kernels.correlation.cpu import LocalCorrelation
from itk_pdd.kernels.hamming.cpu import masked_costs
from itk_pdd.kernels.interpolation.cpu import sample_lines
from itk_pdd.kernels.mind.cpu import add_codes
from itk_pdd.kernels.moments.cpu import array_moments
from itk_pdd.kernels.thermometer.cpu import thermometer_codes
from itk_pdd.kernels.tree.cpu import min_marginals
from itk_pdd.kernels.tree.spanning import SpanningTree
from itk_pdd.kernels.unfolding.cpu import unfold
from itk_pdd.kernels.volume_change.cpu import add_volume_gradient

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HOST", "Array", "HostOperations", "Operations"]

Array = Any
"""An array of the operations at hand: a numpy array on the CPU, a tensor on a GPU."""


class Operations(Protocol):
    """The operations of the dense search and of the descent on one device.

    Images, masks and trees are numpy arrays on every device; codes, costs and fields are arrays of the operations. Each
    method does what the function of the same name in :mod:`itk_pdd.kernels` does.
    """

    @property
    def device(self) -> Any:
        """Name of the device; "cpu" for the CPU."""

    def array(self, values: np.ndarray, /) -> Array:
        """Move a numpy array to the device."""

    def numpy(self, array: Array, /) -> np.ndarray:
        """Move an array of the device into a numpy array."""

    def tensor(self, array: Array, /) -> Tensor:
        """View an array as a tensor, in the same memory."""

    def from_tensor(self, tensor: Tensor, /) -> Array:
        """View a tensor as an array, in the same memory."""

    def no_codes(self, shape: tuple[int, ...], /) -> Array:
        """Make codes without a bit set."""

    def add_codes(
        self, image: Array, codes: Array, /, *, bits: int, shift: int = ..., dilation: int = ...
    ) -> Any:  # fmt: skip
        """See :func:`itk_pdd.kernels.mind.cpu.add_codes`."""

    def sample_lines(self, array: Array, positions: Any, /) -> Array:
        """See :func:`itk_pdd.kernels.interpolation.cpu.sample_lines`."""

    def thermometer_codes(self, values: Array, bits: Sequence[int], /) -> Array:
        """See :func:`itk_pdd.kernels.thermometer.cpu.thermometer_codes`."""

    def masked_costs(
        self,
        fixed: Array,
        moving: Array,
        allowed: np.ndarray | None,
        /,
        *,
        mask: np.ndarray | None,
        scales: Sequence[float],
        **options: Any,
    ) -> Array:
        """See :func:`itk_pdd.kernels.hamming.cpu.masked_costs`."""

    def min_marginals(
        self, costs: Array, tree: SpanningTree, /, *, alpha: float, taps: int, base: Array | None = ...
    ) -> Array:
        """See :func:`itk_pdd.kernels.tree.cpu.min_marginals`."""

    def moments(
        self, costs: Array, temperature: float, displacements: Sequence[np.ndarray], /, *, second: bool = ...
    ) -> tuple[Array, ...]:
        """See :func:`itk_pdd.kernels.moments.cpu.array_moments`."""

    def restrict(self, voxels: Array, cell: tuple[int, ...], /) -> Array:
        """See :func:`itk_pdd.kernels.control_grid.cpu.restrict`."""

    def upsample(
        self,
        control: Array,
        cell: tuple[int, ...],
        shape: tuple[int, ...],
        /,
        *,
        order: int = ...,
        scratch: Any = ...,
        added: Array | None = ...,
    ) -> Array:
        """See :func:`itk_pdd.kernels.control_grid.cpu.upsample`."""

    def spread(
        self, voxels: Array, cell: tuple[int, ...], control: tuple[int, ...], /, *, scratch: Any = ...
    ) -> Array:  # fmt: skip
        """See :func:`itk_pdd.kernels.control_grid.cpu.spread`."""

    def make_consistent(self, forward: Array, backward: Array, /, *, iterations: int) -> tuple[Array, Array]:
        """See :func:`itk_pdd.kernels.control_grid.cpu.make_consistent`."""

    def local_correlation(
        self,
        fixed: np.ndarray,
        moving: np.ndarray,
        /,
        *,
        radius: int,
        masks: Sequence[np.ndarray | None] = ...,
        floor: float = ...,
        scratch: Any = ...,
    ) -> Any:
        """See :class:`itk_pdd.kernels.correlation.cpu.LocalCorrelation`."""

    def add_volume_gradient(
        self, field: Array, out: Array, /, *, weight: float, scale: Sequence[float] = ...
    ) -> Any:  # fmt: skip
        """See :func:`itk_pdd.kernels.volume_change.cpu.add_volume_gradient`."""

    def adam_step(
        self,
        coefficients: Array,
        mean: Array,
        square: Array,
        derivative: Array,
        start: Array,
        /,
        *,
        step: int,
        rate: float,
        cell: tuple[int, ...],
        diffusion: float,
        volume: float,
    ) -> Array:
        """See :func:`itk_pdd.kernels.adam.cpu.adam_step`."""

    def unfold(
        self, field: Array, /, *, scale: tuple[float, ...] = ..., minimum: float = ...
    ) -> tuple[Array, int, int]:
        """See :func:`itk_pdd.kernels.unfolding.cpu.unfold`."""


class HostOperations:
    """The operations on numpy arrays, by compiled kernels."""

    device = "cpu"
    array = staticmethod(np.ascontiguousarray)
    numpy = staticmethod(np.asarray)
    add_codes = staticmethod(add_codes)
    sample_lines = staticmethod(sample_lines)
    thermometer_codes = staticmethod(thermometer_codes)
    masked_costs = staticmethod(masked_costs)
    min_marginals = staticmethod(min_marginals)
    moments = staticmethod(array_moments)
    restrict = staticmethod(restrict)
    upsample = staticmethod(upsample)
    spread = staticmethod(spread)
    make_consistent = staticmethod(make_consistent)
    local_correlation = staticmethod(LocalCorrelation)
    add_volume_gradient = staticmethod(add_volume_gradient)
    adam_step = staticmethod(adam_step)
    unfold = staticmethod(unfold)

    def no_codes(self, shape: tuple[int, ...]) -> np.ndarray:
        """Make codes without a bit set."""
        return np.zeros(shape, np.uint64)

    def tensor(self, array: np.ndarray) -> Tensor:
        """View an array as a tensor, in the same memory."""
        import torch

        return torch.from_numpy(array)

    def from_tensor(self, tensor: Tensor) -> np.ndarray:
        """View a tensor as an array, in the same memory."""
        return tensor.numpy()


HOST: Operations = HostOperations()
"""The operations of the CPU."""
