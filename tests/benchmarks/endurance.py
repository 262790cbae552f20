"""Many registrations in one process, and in several threads and processes at once: no growing memory, equal bytes.

python tests/benchmarks/endurance.py --count 200 --threads 4 --processes 4
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np


def digest(number: int) -> str:
    """Register a small pair made from a number (2-D and 3-D by turns) by the public function; hash of the field."""
    import itk_pdd
    from itk_pdd.io.fields import field_from_simpleitk
    from itk_pdd.synthesis import make_pair

    size, spacing = ((40, 32), 1.5) if number % 2 else ((32, 28, 24), 2.0)
    pair = make_pair(size, spacing, seed=number, kind="shapes")
    found = itk_pdd.register(pair.fixed.to_simpleitk(), pair.moving.to_simpleitk())
    return hashlib.sha256(field_from_simpleitk(found).vectors.tobytes()).hexdigest()


def resident_mb() -> float:
    """Memory of this process in MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(count: int, settle: int) -> tuple[float, np.ndarray]:
    """MB per registration, from a line through the memory after the first ``settle`` ones; and the memory itself."""
    memory = []
    for number in range(count):
        digest(number % 4)
        memory.append(resident_mb())
    rest = np.asarray(memory[settle:])
    return float(np.polyfit(np.arange(len(rest)), rest, 1)[0]), np.asarray(memory)


def at_once(numbers: list[int], threads: int, processes: int) -> dict[str, bool]:
    """Whether threads and (freshly started) processes that register at once find what one after the other finds."""
    expected = [digest(number) for number in numbers]
    found = {}
    if threads:
        with ThreadPoolExecutor(threads) as pool:
            found["threads"] = list(pool.map(digest, numbers)) == expected
    if processes:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            found["processes"] = list(pool.map(digest, numbers)) == expected
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--processes", type=int, default=4)
    options = parser.parse_args()
    print("equal bytes:", at_once(list(range(12)), options.threads, options.processes))
    slope, memory = growth(options.count, options.count // 5)
    print(
        f"{options.count} registrations: {memory[0]:.0f} MB after the first, {memory[options.count // 5]:.0f} MB after "
        f"{options.count // 5}, {memory[-1]:.0f} MB after the last; {1000 * slope:.1f} kB per registration"
    )


if __name__ == "__main__":
    main()
