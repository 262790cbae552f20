"""Fast versions of the operations, chosen by device; each operation has a folder.

In a folder, ``cpu.py`` holds compiled loops (numba, single and double precision), ``cuda.py`` fused Triton kernels
(single precision), and ``definition.py`` the operation in plain torch where it belongs to the paper's network. The
functions below take the same arguments as the definitions and give the same numbers and gradients. They use the
definitions inside ``use("torch")`` and where no fast version fits. Nothing heavy is imported before a call.

May import errors.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import logging
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from itk_pdd.errors import RegistrationError

if TYPE_CHECKING:
    from torch import Tensor

    from itk_pdd.kernels.moments.definition import Moments

__all__ = [
    "displacement_costs",
    "displacement_moments",
    "expected_values",
    "mean_field",
    "min_convolution",
    "probabilities_at",
    "regularise",
    "shifted_differences",
    "use",
]

_log = logging.getLogger("itk_pdd")
_mode = contextvars.ContextVar("itk_pdd_kernels", default="fast")


@contextlib.contextmanager
def use(kind: str) -> Iterator[None]:
    """Choose the implementation inside a ``with`` block: ``"fast"`` (the default) or ``"torch"``, the definitions."""
    if kind not in ("fast", "torch"):
        raise RegistrationError(f"the kind of kernels must be 'fast' or 'torch', found {kind!r}")
    token = _mode.set(kind)
    try:
        yield
    finally:
        _mode.reset(token)


@functools.cache
def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(f"itk_pdd.kernels.{name}")
    except ImportError as error:
        _log.warning("the fast kernels are not available (%s): using plain torch, which is much slower", error)
        return None


def _backend(operation: str, *tensors: Tensor) -> ModuleType | None:
    """The module of the version of an operation that can compute with these tensors, None for its definition."""
    import torch

    if _mode.get() == "torch" or len({(t.device, t.dtype) for t in tensors}) > 1:
        return None
    device, dtype = tensors[0].device.type, tensors[0].dtype
    if device == "cpu" and dtype in (torch.float32, torch.float64):
        return _load(f"{operation}.cpu")
    if device == "cuda" and dtype == torch.float32:
        return _load(f"{operation}.cuda")
    return None


def _reduced(
    moving: Tensor, positions: Sequence[Tensor], displacements: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The moving map, and where to sample it for each control point and displacement along each axis.

    Control points and displacements with a common step meet in few different places, as do few control points in a
    large map. Along such axes the map is sampled there first, which leaves nothing to interpolate but shifts.
    """
    import torch

    from itk_pdd.kernels.interpolation.definition import interpolate

    coordinates = []
    for axis, (along, offsets) in enumerate(zip(positions, displacements, strict=True), start=1):
        table = (along[:, None] + offsets).clamp(0, moving.shape[axis] - 1)
        # Rounding makes equal what the order of additions made differ in the last digits; any of these will do.
        places, index = torch.unique(torch.round(table, decimals=9), return_inverse=True)
        places[index] = table
        if len(places) < moving.shape[axis]:
            moving, table = interpolate(moving, places, axis), index.double()
        coordinates.append(table)
    return moving, coordinates


def displacement_costs(
    fixed: Tensor,
    moving: Tensor,
    *,
    positions: Sequence[Tensor],
    displacements: Sequence[Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    """See :func:`itk_pdd.kernels.costs.definition.displacement_costs`."""
    from itk_pdd.kernels.costs import definition

    backend = _backend("costs", fixed, moving)
    if backend is None:
        return definition.displacement_costs(
            fixed, moving, positions=positions, displacements=displacements, weights=weights
        )
    from itk_pdd.kernels.autograd import Costs
    from itk_pdd.kernels.interpolation.definition import sample

    positions, displacements = definition.check_positions(fixed, moving, positions, displacements)
    fixed, moving = definition.weighted(fixed, moving, weights)
    samples = sample(fixed, positions).contiguous()
    moving, coordinates = _reduced(moving, positions, displacements)
    return Costs.apply(backend, samples, moving.contiguous(), coordinates)


def min_convolution(costs: Tensor, dimension: int) -> Tensor:
    """See :func:`itk_pdd.kernels.regularisation.definition.min_convolution`."""
    from itk_pdd.kernels.regularisation import definition

    definition.check_costs(costs, dimension)
    backend = _backend("regularisation", costs)
    if backend is None:
        return definition.min_convolution(costs, dimension)
    from itk_pdd.kernels.autograd import MinConvolution

    return MinConvolution.apply(backend, costs.contiguous(), dimension)


def mean_field(costs: Tensor, dimension: int) -> Tensor:
    """See :func:`itk_pdd.kernels.regularisation.definition.mean_field`."""
    from itk_pdd.kernels.regularisation import definition

    definition.check_costs(costs, dimension)
    backend = _backend("regularisation", costs)
    if backend is None:
        return definition.mean_field(costs, dimension)
    from itk_pdd.kernels.autograd import MeanField

    return MeanField.apply(backend, costs.contiguous(), dimension)


def regularise(
    costs: Tensor,
    ratio: Tensor | float,
    dimension: int,
    *,
    rounds: int = 2,
    convolve: bool = True,
    average: bool = True,
) -> Tensor:
    """See :func:`itk_pdd.kernels.regularisation.definition.regularise`.

    Where no gradients are wanted, one array of the size of the costs is needed beside them.
    """
    import torch

    from itk_pdd.kernels.regularisation import definition

    definition.check_costs(costs, dimension)
    backend = _backend("regularisation", costs)
    settings = {"rounds": rounds, "convolve": convolve, "average": average}
    if backend is None or rounds < 1 or not (convolve or average):
        return definition.regularise(costs, ratio, dimension, **settings)
    from itk_pdd.kernels.autograd import Regularised, regularise_in_place

    wanted = costs.requires_grad or (isinstance(ratio, torch.Tensor) and ratio.requires_grad)
    if not (torch.is_grad_enabled() and wanted):
        factor = ratio.item() if isinstance(ratio, torch.Tensor) else float(ratio)
        return regularise_in_place(backend, costs.detach().contiguous(), factor, dimension, **settings)
    ratio = torch.as_tensor(ratio, dtype=costs.dtype)
    return Regularised.apply(backend, costs.contiguous(), ratio, dimension, rounds, convolve, average)


def displacement_moments(
    costs: Tensor, temperature: Tensor | float, displacements: Sequence[Tensor], *, second: bool = False
) -> Moments:
    """See :func:`itk_pdd.kernels.moments.definition.displacement_moments`."""
    import torch

    from itk_pdd.kernels.moments import definition

    backend = _backend("moments", costs)
    if backend is None:
        return definition.displacement_moments(costs, temperature, displacements, second=second)
    from itk_pdd.kernels.autograd import MomentsOf

    dimension = len(displacements)
    lead = costs.shape[: costs.ndim - dimension]
    temperature = torch.as_tensor(temperature, dtype=costs.dtype)
    displacements = [d.detach().double().cpu() for d in displacements]
    mean, covariance, entropy, log_partition = MomentsOf.apply(
        backend, costs.contiguous(), temperature, displacements, second
    )
    mean, log_partition = mean[:, :dimension].reshape(*lead, dimension), log_partition.reshape(lead)
    if not second:
        return definition.Moments(mean, None, None, log_partition)
    covariance = covariance[:, :dimension, :dimension].reshape(*lead, dimension, dimension)
    return definition.Moments(mean, covariance, entropy.reshape(lead), log_partition)


def expected_values(
    costs: Tensor,
    temperature: Tensor | float,
    moving: Tensor,
    *,
    positions: Sequence[Tensor],
    displacements: Sequence[Tensor],
) -> Tensor:
    """See :func:`itk_pdd.kernels.expected.definition.expected_values`."""
    import torch

    from itk_pdd.kernels.costs.definition import check_positions
    from itk_pdd.kernels.expected import definition

    backend = _backend("expected", costs, moving)
    if backend is None or (moving.requires_grad and torch.is_grad_enabled()):
        return definition.expected_values(costs, temperature, moving, positions=positions, displacements=displacements)
    from itk_pdd.kernels.autograd import ExpectedValues

    positions, displacements = check_positions(moving, moving, positions, displacements)
    definition.check_shape(costs, positions, displacements)
    temperature = torch.as_tensor(temperature, dtype=costs.dtype)
    moving, coordinates = _reduced(moving, positions, displacements)
    return ExpectedValues.apply(backend, costs.contiguous(), temperature, moving.contiguous(), coordinates)


def probabilities_at(
    costs: Tensor, temperature: Tensor, log_partition: Tensor, displacements: Sequence[Tensor], vectors: Tensor
) -> Tensor:
    """See :func:`itk_pdd.kernels.lookup.definition.probabilities_at`; here only the vectors get a gradient."""
    module = _load("lookup.cpu") if costs.device.type == "cpu" and _mode.get() != "torch" else None
    if module is None or len({costs.dtype, log_partition.dtype, vectors.dtype}) > 1:
        from itk_pdd.kernels.lookup import definition

        return definition.probabilities_at(costs, temperature, log_partition, displacements, vectors)
    from itk_pdd.kernels.autograd import ProbabilitiesAt

    return ProbabilitiesAt.apply(
        module, costs.detach().contiguous(), float(temperature), log_partition.detach(), displacements, vectors
    )


def shifted_differences(source: Tensor, centres: Sequence[Tensor], shifts: Tensor, *, outside: str = "zero") -> Tensor:
    """See :func:`itk_pdd.kernels.shifted.definition.shifted_differences`."""
    import torch

    from itk_pdd.kernels.shifted import definition

    module = _load("shifted.cpu") if source.device.type == "cpu" and _mode.get() != "torch" else None
    if module is None or source.dtype not in (torch.float32, torch.float64):
        return definition.shifted_differences(source, centres, shifts, outside=outside)
    from itk_pdd.kernels.autograd import ShiftedDifferences

    return ShiftedDifferences.apply(module, source.contiguous(), centres, shifts, outside)
