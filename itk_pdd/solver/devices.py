"""Choose the device that computes: the CPU, or a GPU that gives the same answers to a small test."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from itk_pdd import kernels
from itk_pdd.errors import RegistrationError, warn
from itk_pdd.kernels import threads
from itk_pdd.kernels.operations import HOST, Operations
from itk_pdd.kernels.tree.spanning import spanning_tree

__all__ = ["checked_device", "computing_threads", "on_device", "operations"]

log = logging.getLogger("itk_pdd")
T = TypeVar("T")

_AGREEMENT = 1e-3  # share of the largest value by which a device may differ from the CPU


def checked_device(device: str) -> str:
    """Resolve the name of a device: "auto" is the first CUDA device where there is one, and the CPU elsewhere.

    RegistrationError if it is none of "auto", "cpu", "cuda" and "cuda:N", or there is no such device here.
    """
    name = str(device)
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (":" in name and not (kind == "cuda" and number.isdecimal())):
        raise RegistrationError(f"device is {device!r}, expected 'auto', 'cpu', 'cuda' or one of several, 'cuda:1'")
    if kind == "cpu" or (kind == "auto" and not _may_have_gpu()):
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return "cuda:0" if count else "cpu"
    if count <= int(number or 0):
        present = f"only {count}" if count else "no CUDA device that torch can use"
        raise RegistrationError(f"device is {device!r}, but this machine has {present}: use 'auto' or 'cpu'")
    return f"cuda:{number or torch.cuda.current_device()}"


def _may_have_gpu() -> bool:
    """Tell whether torch could find a GPU here, without importing it, which takes seconds.

    It cannot where all GPUs are hidden, where its build is for the CPU only, or where no driver is installed.
    """
    if "torch" in sys.modules:
        return True  # asking costs nothing
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    with contextlib.suppress(OSError):
        lines = Path(found.origin).with_name("version.py").read_text().splitlines()
        builds = [line.partition("=") for line in lines if line.startswith(("cuda", "hip"))]
        if builds and all(value.strip() == "None" for _, _, value in builds):
            return False
    if Path("/dev/kfd").exists():  # AMD
        return True
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return sys.platform not in ("linux", "win32")
    return True


@functools.cache
def _device_operations(device: str) -> Operations:
    import torch

    from itk_pdd.kernels.search_cuda import DeviceOperations

    result = DeviceOperations(torch.device(device))
    with torch.cuda.device(result.device), torch.no_grad():
        check(result)
    return result


def check(device: Operations, shape: tuple[int, int, int] = (16, 16, 16)) -> None:
    """Compare the operations of a device with those of the CPU on a small problem, before anything depends on them.

    Drivers, compilers and cards are many, and a wrong field looks like any other. Most of the few seconds is spent on
    compiling, once per machine. ``shape`` are even numbers of voxels along z, y, x; hundreds of control points make the
    programs of a GPU wait for each other. RuntimeError if the answers do not agree: numbers to a thousandth of the
    largest of their kind, codes to a thousandth of their bits.
    """
    both = zip(_answers(HOST, shape), _answers(device, shape), strict=True)
    for (name, expected), (_, found) in both:
        if expected.dtype == np.uint64:
            # A bit may depend on the last digit of a distance.
            difference, size = np.bitwise_count(expected ^ found).sum(), np.bitwise_count(expected).sum()
        else:
            difference, size = np.abs(found - expected).max(), np.abs(expected).max()
        if not difference <= _AGREEMENT * size:
            share = float(difference) / float(size)
            raise RuntimeError(f"{name} differ by {share:.3g} of their size from those of the CPU in a small test")


def _answers(operations: Operations, shape: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Run every operation on the same numbers, and name the results."""
    rng = np.random.default_rng(0)
    cell, points = (2, 2, 2), tuple(n // 2 for n in shape)
    given, numpy = operations.array, operations.numpy
    image, shares = rng.random(shape, dtype=np.float32), rng.random((*shape, 3), dtype=np.float32)
    mask, allowed = rng.random(shape) < 0.8, rng.random(shape) < 0.7
    pair = rng.integers(0, 2**64, (2, 2, *shape), dtype=np.uint64)
    fields = rng.normal(0, 2, (2, *shape, 3)).astype(np.float32)
    steps = rng.normal(0, 1, (*points, 3)).astype(np.float32)
    tree = spanning_tree(rng.random(points))

    codes = operations.no_codes((1, *shape))
    operations.add_codes(given(image), codes[0], bits=2)
    operations.add_codes(given(image), codes[0], bits=2, shift=24, dilation=1)
    yield "codes", numpy(codes).view(np.uint64)
    yield "codes of classes", numpy(operations.thermometer_codes(given(shares), (5, 32, 27))).view(np.uint64)
    options: dict[str, Any] = {
        "cell": cell,
        "radius": (1, 1, 1),
        "step": (1, 1, 2),
        "stride": (1, 1, 1),
        "scales": (0.02, 0.01),
    }
    first, second = (given(words) for words in pair)
    masked = operations.masked_costs(first, second, allowed, mask=mask, **options)
    yield "costs with masks", numpy(masked)[..., :3]
    options |= {"base": given(fields[0]), "block": (1, 1, 1)}
    costs = operations.masked_costs(first, second, None, mask=None, **options)
    yield "costs", numpy(costs)[..., :3].copy()
    regularised = kernels.regularise(operations.tensor(costs)[..., :3].clone().contiguous(), 1.0, 3)
    yield "costs of the mean field", numpy(operations.from_tensor(regularised))
    marginals = operations.min_marginals(costs, tree, alpha=0.05, taps=1, base=given(steps))
    offsets = [np.arange(-1.0, 2)] * 2 + [np.arange(-1.0, marginals.shape[5] - 1)]
    moments = operations.moments(marginals, 50.0, offsets, second=True)
    relative = numpy(marginals)[..., :3]
    # Only differences within a control point mean something.
    yield "marginals", relative - relative.min(axis=(3, 4, 5), keepdims=True)
    for name, moment in zip(("displacements", "covariances", "entropies"), moments, strict=False):
        yield name, numpy(moment)

    yield "means", numpy(operations.restrict(given(fields[0]), cell))
    for order in (1, 3):
        yield f"splines of order {order}", numpy(operations.upsample(given(steps), cell, shape, order=order))
    yield "fields", np.stack([numpy(f) for f in operations.make_consistent(*map(given, fields), iterations=2)])
    yield "sums of splines", numpy(operations.spread(given(fields[0]), cell, points))
    correlation = operations.local_correlation(
        image, np.ascontiguousarray(shares[..., 0]), radius=2, masks=(mask, mask)
    )
    yield "gradients of the correlation", numpy(correlation.gradient(given(fields[1]))[0])
    yield (
        "gradients of the volumes",
        numpy(operations.add_volume_gradient(given(steps / 9), given(0 * steps), weight=1.0)),
    )
    coefficients, mean, root = (given(part) for part in rng.normal(0, 1, (3, *steps.shape)).astype(np.float32))
    state = coefficients, mean, root**2, given(steps.copy()), given(steps / 9)
    adam: dict[str, Any] = {"step": 5, "rate": 0.3, "cell": cell, "diffusion": 0.1, "volume": 0.2}
    yield "steps of the descent", numpy(operations.adam_step(*state, **adam))
    # Not so many folds that rounding decides about a few.
    yield "fields without folds", numpy(operations.unfold(given(fields[0] / 6))[0])
    lines = tuple(np.linspace(-0.7, n - 0.4, n + 1) for n in shape)
    yield "samples", numpy(operations.sample_lines(given(shares), lines))


def operations(device: str) -> Operations:
    """Get the operations of a device (see :func:`checked_device`), ready for use.

    A GPU that does not work, such as without Triton, is passed over with a warning for "auto", and an error where it
    was asked for by name.
    """
    found = checked_device(device)
    if found == "cpu":
        return HOST
    try:
        return _device_operations(found)
    except Exception as error:  # a driver, a compiler or a library of many kinds
        problem = f"{found} does not work here ({type(error).__name__}: {error})"
        if device != "auto":
            raise RegistrationError(f"device is {device!r}, but {problem}: use 'cpu'") from error
        warn(f"{problem}: computing on the CPU")
        return HOST


def on_device(device: str, compute: Callable[[Operations], T]) -> T:
    """Call a function with the operations of a device.

    Where the memory of a GPU is not enough, "auto" computes on the CPU, with a warning; else it is an error.
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
    return compute(HOST)


@contextlib.contextmanager
def computing_threads(count: int | None, *, torch: bool = False) -> Iterator[None]:
    """Choose the CPU threads of the compiled kernels, and of torch if that is said, inside a ``with`` block."""
    number, reason = (count, "as requested") if count else threads.allowed()
    log.info("CPU threads: %d (%s)", number, reason)
    with threads.chosen(number), threads.torch_limited() if torch else contextlib.nullcontext():
        yield
