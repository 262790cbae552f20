"""Default threads against a single one, idle and beside two busy processes, and eight registrations at once.

    python tests/benchmarks/bench_busy.py
    python tests/benchmarks/bench_busy.py --voxels 192 160 256 --repetitions 3

A synthetic pair in one warm process. Registrations with one thread and with the default alternate; ratios are medians
over the pairs of runs, so that a machine that changes its speed changes both.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from itk_pdd.registration import register_volumes
from itk_pdd.synthesis import make_pair


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of all processors."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep processors busy with other processes."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def told(name: str, first: list[tuple[float, float]], second: list[tuple[float, float]]) -> str:
    """One line of the table: seconds of both, and the median ratios."""
    seconds = [statistics.median(run[0] for run in runs) for runs in (first, second)]
    ratios = [statistics.median(b[k] / a[k] for a, b in zip(first, second, strict=True)) for k in (0, 1)]
    return f"{name:<44}{seconds[0]:>8.2f}{seconds[1]:>8.2f}{ratios[0]:>8.2f}{ratios[1]:>12.2f}"


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, nargs=3, default=(48, 40, 64), help="x y z")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    made = make_pair(tuple(options.voxels), 2.0, seed=0, displacement=10)

    def register(threads: int | None = None) -> None:
        register_volumes(made.fixed, made.moving, device="cpu", threads=threads)

    def at_once() -> None:
        workers = [threading.Thread(target=register) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    register()
    print(f"{'':<44}{'first':>8}{'second':>8}{'ratio':>8}{'processors':>12}")
    for name, count in (("idle", 0), ("beside two busy processes", 2)):
        with busy(count):
            runs = [(measured(lambda: register(1)), measured(register)) for _ in range(options.repetitions)]
        print(told(f"one thread, default threads, {name}", *map(list, zip(*runs, strict=True))))
    runs = [(measured(lambda: [register() for _ in range(8)]), measured(at_once)) for _ in range(3)]
    print(told("eight one after the other, eight at once", *map(list, zip(*runs, strict=True))))


if __name__ == "__main__":
    main()
