"""Where the dense search computes: its operations on numpy arrays, or on the tensors of a GPU."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError, warn
from itk_pdd.kernels.interpolation import sample_lines
from itk_pdd.kernels.lattice import make_consistent, restrict, upsample
from itk_pdd.kernels.mind import add_codes
from itk_pdd.kernels.thermometer import thermometer_codes
from itk_pdd.kernels.tree import min_marginals, spanning_tree
from itk_pdd.masking import masked_costs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HostOperations", "checked_device", "on_device", "operations"]

log = logging.getLogger("itk_pdd")
T = TypeVar("T")


class HostOperations:
    """The operations of the dense search on numpy arrays, by compiled kernels.

    :class:`itk_pdd.kernels.search_cuda.DeviceOperations` has the same ones for tensors on a GPU. Images, masks and
    trees are numpy arrays for both; codes, costs and fields are arrays of the operations.
    """

    device = "cpu"
    array = staticmethod(np.ascontiguousarray)
    numpy = staticmethod(np.asarray)
    add_codes = staticmethod(add_codes)
    sample_lines = staticmethod(sample_lines)
    thermometer_codes = staticmethod(thermometer_codes)
    masked_costs = staticmethod(masked_costs)
    min_marginals = staticmethod(min_marginals)
    restrict = staticmethod(restrict)
    upsample = staticmethod(upsample)
    make_consistent = staticmethod(make_consistent)

    @staticmethod
    def no_codes(shape: tuple[int, ...]) -> np.ndarray:
        """Codes without a bit set."""
        return np.zeros(shape, np.uint64)

    @staticmethod
    def tensor(costs: np.ndarray) -> Tensor:
        """Costs for the operations of :mod:`itk_pdd.kernels`."""
        import torch

        return torch.from_numpy(costs)

    @staticmethod
    def from_tensor(tensor: Tensor) -> np.ndarray:
        """What those return, as these operations take it."""
        return tensor.numpy()


def checked_device(device: str) -> str:
    """The device that a name stands for: "auto" is the first CUDA device where there is one, and the CPU elsewhere.

    Raises
    ------
    RegistrationError
        If it is none of "auto", "cpu", "cuda" and "cuda:N", or there is no such device here.
    """
    name = str(device)
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (":" in name and not (kind == "cuda" and number.isdecimal())):
        raise RegistrationError(f"device is {device!r}, expected 'auto', 'cpu', 'cuda' or one of several, 'cuda:1'")
    if kind == "cpu":
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return "cuda:0" if count else "cpu"
    if count <= int(number or 0):
        present = f"only {count}" if count else "no CUDA device that torch can use"
        raise RegistrationError(f"device is {device!r}, but this machine has {present}: use 'auto' or 'cpu'")
    return f"cuda:{number or torch.cuda.current_device()}"


@functools.cache
def _device_operations(device: str) -> Any:
    import torch

    from itk_pdd.kernels.search_cuda import DeviceOperations

    result = DeviceOperations(torch.device(device))
    with torch.cuda.device(result.device), torch.no_grad():
        check(result)
    return result


def check(device: Any, shape: tuple[int, int, int] = (16, 16, 16)) -> None:
    """Compare the operations of a device with those of the CPU on a small problem, before anything depends on them.

    Drivers, compilers and cards are many, and a wrong field looks like any other. Most of the second or two is spent
    on compiling, once per machine.

    Parameters
    ----------
    device : object
        The operations.
    shape : tuple of int
        Voxels along z, y, x; hundreds of control points make the programs of a GPU wait for each other.

    Raises
    ------
    RuntimeError
        If they do not agree.
    """
    import torch

    rng = np.random.default_rng(0)
    image, guide = rng.random(shape, dtype=np.float32), rng.random([n // 2 for n in shape])
    fields = rng.normal(0, 2, (2, *shape, 3)).astype(np.float32)
    steps = rng.normal(0, 1, (*guide.shape, 3)).astype(np.float32)
    options = {"cell": (2, 2, 2), "radius": (1, 1, 1), "step": (1, 1, 2), "stride": (1, 1, 1), "scales": (0.02,)}
    tree = spanning_tree(guide)
    found = []
    for operations in (HostOperations, device):
        codes = operations.no_codes((1, *shape))
        operations.add_codes(operations.array(image), codes[0], bits=2)
        bits = np.unpackbits(operations.numpy(codes).view(np.uint8)).astype(np.float32)
        base = operations.array(fields[0])
        costs = operations.masked_costs(codes, codes, None, base=base, block=(1, 1, 1), mask=None, **options)
        first = operations.numpy(costs)[..., :3].copy()
        marginals = operations.min_marginals(costs, tree, alpha=0.05, taps=1, base=operations.array(steps))
        offsets = [torch.arange(-1.0, 2)] * 2 + [torch.arange(-1.0, marginals.shape[5] - 1)]
        mean = kernels.displacement_moments(operations.tensor(marginals), 50.0, offsets).mean
        consistent = operations.make_consistent(*map(operations.array, fields), iterations=2)[0]
        marginals = operations.numpy(marginals)[..., :3]
        found.append(
            {
                "codes": bits,
                "costs": first,
                "marginals": marginals - marginals.min(axis=(3, 4, 5), keepdims=True),
                "displacements": operations.numpy(operations.from_tensor(mean)),
                "fields": operations.numpy(consistent),
            }
        )
    for name, expected in found[0].items():
        difference = float(np.abs(found[1][name] - expected).mean())
        # A bit may depend on the last digit of a distance, and a cost on that bit.
        if not difference <= 1e-3:
            raise RuntimeError(f"{name} differ by {difference:.3g} on average from those of the CPU in a small test")


def operations(device: str) -> Any:
    """The operations of a device, ready for use.

    Parameters
    ----------
    device : str
        See :func:`checked_device`. For "auto" a GPU that does not work is passed over with a warning.

    Raises
    ------
    RegistrationError
        If the device was asked for by name and does not work, such as without Triton.
    """
    found = checked_device(device)
    if found == "cpu":
        return HostOperations()
    try:
        return _device_operations(found)
    except Exception as error:  # a driver, a compiler or a library of many kinds
        problem = f"{found} does not work here ({type(error).__name__}: {error})"
        if device != "auto":
            raise RegistrationError(f"device is {device!r}, but {problem}: use 'cpu'") from error
        warn(f"{problem}: computing on the CPU")
        return HostOperations()


def on_device(device: str, compute: Callable[[Any], T]) -> T:
    """Call a function with the operations of a device.

    Parameters
    ----------
    device : str
        See :func:`operations`. Where the memory of a GPU is not enough, "auto" computes on the CPU, with a warning.
    compute : callable
        Takes the operations.

    Raises
    ------
    RegistrationError
        If the memory of a GPU that was asked for by name is not enough.
    """
    chosen = operations(device)
    if chosen.device == "cpu":
        return compute(chosen)
    import torch

    log.info("computing on %s (%s)", chosen.device, torch.cuda.get_device_name(chosen.device))
    try:
        with torch.cuda.device(chosen.device), torch.no_grad():
            return compute(chosen)
    except torch.cuda.OutOfMemoryError as error:
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(chosen.device))
        problem = f"the {total:.1f} GB of {chosen.device} are not enough for these images ({free:.1f} GB are free)"
        if device != "auto":
            advice = "close other programs on it, use a larger spacing, or device='cpu'"
            raise RegistrationError(f"device is {device!r}, but {problem}: {advice}") from error
    # Outside of the handler, whose exception would keep the tensors alive.
    torch.cuda.empty_cache()
    warn(f"{problem}: computing on the CPU")
    return compute(HostOperations())
