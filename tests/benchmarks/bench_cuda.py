"""Measure the GPU: one pass of the PDD network, a default registration, and how far it agrees with the CPU.

    python tests/benchmarks/bench_cuda.py [--device cuda:0] [--size 192 160 256] [--repetitions 5]

The pass has 32^3 control points, 15^3 displacements and 16 channels (costs, two rounds of regularisation, softmax,
expectation). The registration is itk_pdd.register with defaults on a synthetic abdominal pair, ITK images in, ITK
transform out, in a warm process. Seconds are medians over the repetitions, the device waited for. The steps of the
search are measured in a run of their own that waits after each of them: they add up to more than the run that does not
wait, since the host builds spanning trees while the device computes. The figures of the CPU are for the same machine.
Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from bench_kernels import Clock, problem, with_package

PASS, REGISTRATION, AGREEMENT = 0.015, 0.5, 1e-3  # seconds, seconds, working voxels on average


def waited(function: Callable[[], Any]) -> tuple[Any, float]:
    """Result and seconds of a call, the device waited for before and after."""
    _wait()
    start = time.perf_counter()
    result = function()
    _wait()
    return result, time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class TimedOperations:
    """The operations of a device, each waited for; seconds are added up by name."""

    def __init__(self, operations: Any, seconds: Counter) -> None:
        self._operations, self._seconds = operations, seconds

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._operations, name)
        return timed(value, name, self._seconds) if callable(value) else value


def timed(function: Callable, name: str, seconds: Counter) -> Callable:
    """The function, its time added to the others of that name."""

    def call(*arguments: Any, **options: Any) -> Any:
        result, taken = waited(lambda: function(*arguments, **options))
        seconds[name] += taken
        return result

    return call


def network_pass(device: str, repetitions: int) -> tuple[list[float], float]:
    """Seconds of each pass, and how far its expected displacements are from the CPU's on average, in feature voxels."""
    sizes = {"points": 32, "displacements": 15, "channels": 16, "size": (64, 54, 86)}
    inputs = problem(**sizes, device=device)
    expected = with_package("fast", *problem(**sizes, device="cpu"), Clock())[1]
    seconds = []
    for number in range(repetitions + 1):
        (_, mean), taken = waited(lambda: with_package("fast", *inputs, lambda name, f, *a, **k: f(*a, **k)))
        if number:  # the first one compiles
            seconds.append(taken)
    return seconds, float((mean.cpu() - expected).norm(dim=-1).mean())


def registrations(fixed: Any, moving: Any, device: str, repetitions: int) -> tuple[list[float], Any]:
    """Seconds of ``itk_pdd.register``, and its transform."""
    import itk_pdd

    seconds = []
    for number in range(repetitions + 1):
        transform, taken = waited(lambda: itk_pdd.register(fixed, moving, device=device))
        if number:
            seconds.append(taken)
    return seconds, transform


def steps(fixed: Any, moving: Any, device: str) -> Counter:
    """Seconds of each operation of the search."""
    from itk_pdd import kernels, registration
    from itk_pdd.solver import devices, engine, search, working

    seconds: Counter = Counter()
    chosen = TimedOperations(devices.operations(device), seconds)
    compute = lambda name, function: timed(function, "search", seconds)(chosen)  # noqa: E731
    with (
        mock.patch.object(engine, "on_device", compute),
        mock.patch.object(search, "spanning_tree", timed(search.spanning_tree, "spanning_tree (host)", seconds)),
        mock.patch.object(kernels, "displacement_moments", timed(kernels.displacement_moments, "moments", seconds)),
        mock.patch.object(working, "resample", timed(working.resample, "resample (host)", seconds)),
        mock.patch.object(engine, "_on_fixed_grid", timed(engine._on_fixed_grid, "field (host)", seconds)),
    ):
        timed(registration.register_volumes, "register_volumes", seconds)(fixed, moving, device=device)
    return seconds


def measured(options: argparse.Namespace) -> list[tuple[str, float, float | None]]:
    """What is measured, its value, and the target if there is one."""
    from itk_pdd.io.fields import field_from_image
    from itk_pdd.synthesis import make_pair

    pair = make_pair(tuple(options.size), 2.0, seed=0, displacement=20.0)
    fixed, moving = pair.fixed.to_itk(), pair.moving.to_itk()
    rows = []
    passes, difference = network_pass(options.device, options.repetitions)
    rows.append(("network pass, s", statistics.median(passes), PASS))
    rows.append(("network pass against the CPU, feature voxels on average", difference, AGREEMENT))
    torch.cuda.reset_peak_memory_stats(options.device)
    seconds, transform = registrations(fixed, moving, options.device, options.repetitions)
    memory = torch.cuda.max_memory_allocated(options.device)
    rows.append(("registration, s", statistics.median(seconds), REGISTRATION))
    on_cpu, expected = registrations(fixed, moving, "cpu", 1)
    rows.append(("registration on the CPU, s", on_cpu[0], None))
    found, wanted = (field_from_image(t.GetDisplacementField()).vectors / 2.0 for t in (transform, expected))
    distances = np.linalg.norm(found - wanted, axis=-1)
    rows.append(("registration against the CPU, working voxels on average", distances.mean(), AGREEMENT))
    rows.append(("    at most", distances.max(), None))
    rows.append(("mean displacement, working voxels", np.linalg.norm(wanted, axis=-1).mean(), None))
    rows.append(("memory of the GPU, GB", memory / 1e9, None))
    single = steps(pair.fixed, pair.moving, options.device)
    return rows + [(f"    {step}, s, waited for", taken, None) for step, taken in single.most_common()]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, nargs=3, default=(192, 160, 256), help="voxels along x, y, z")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("This machine has no CUDA device that torch can use: there is nothing to measure.")
    name = torch.cuda.get_device_name(options.device)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} CPU threads\n")
    with torch.cuda.device(options.device):
        rows = measured(options)
    print(f"{'':<62}{'measured':>12}{'target':>10}")
    for label, value, target in rows:
        verdict = "" if target is None else f"{target:>10.3g}  {'met' if value <= target else 'missed'}"
        print(f"{label:<62}{value:>12.4g}{verdict}")
    return int(any(target is not None and value > target for _, value, target in rows))


if __name__ == "__main__":
    sys.exit(main())
