"""Time and memory of whole registrations on the CPU: where they go, and how they grow with the images.

    python tests/benchmarks/bench_register.py                        # warm process, whole command, first use
    python tests/benchmarks/bench_register.py --definitions          # each step against plain numpy and torch
    python tests/benchmarks/bench_register.py --scaling --csv register.csv --plot register.png
    python tests/benchmarks/bench_register.py --large                # 256^3 and 512x512x400, from file to file

An abdominal pair of the benchmark data where ``ITK_PDD_DATA`` names their folder, else a synthetic one, brought to
192x160x256 voxels of 2 mm or what is asked for. Every measurement runs in a process of its own. Beside seconds on the
clock it tells those of all processors together, which a busy machine changes little: divided by the number of threads
they are what an idle one would take.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIZE = (192, 160, 256)
SIZES = ((96, 80, 128), (120, 100, 160), (152, 128, 204), SIZE, (256, 256, 256), (384, 320, 340))
LARGE = ((256, 256, 256), (512, 512, 400))


# ---- What is measured, in a process of its own


class Steps:
    """Seconds that functions take, without those of others among them that they call."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def watch(self, owner: object, name: str, label: str) -> None:
        """Replace a function by one that is measured."""
        function = getattr(owner, name)

        def measured(*arguments: object, **options: object) -> object:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                taken = time.perf_counter() - started
                self.seconds[label] = self.seconds.get(label, 0.0) + taken - self._inner.pop()
                self._inner[-1] += taken

        setattr(owner, name, staticmethod(measured) if isinstance(owner, type) and name in _STATIC else measured)

    def rest(self, total: float) -> dict[str, float]:
        """All steps, and what is left of the total."""
        return {**self.seconds, "rest": total - sum(self.seconds.values())}


_STATIC = ("upsample", "restrict", "spread", "unfold", "make_consistent")


def watch_search(steps: Steps) -> None:
    """The steps of the default registration."""
    from itk_pdd.kernels import operations
    from itk_pdd.kernels.correlation.cpu import LocalCorrelation
    from itk_pdd.kernels.hamming.cpu import MaskedCosts
    from itk_pdd.kernels.tree import blocks
    from itk_pdd.solver import engine, search, working

    host = operations.HostOperations
    for owner, names, label in (
        (working.WorkingImage, ("from_volumes",), "resampling"),
        (working.WorkingImage, ("codes",), "MIND-SSC codes"),
        (working.WorkingImage, ("shrunk", "guide"), "averaging"),
        (MaskedCosts, ("__init__", "__call__"), "costs"),
        (search, ("spanning_tree",), "spanning tree"),
        (blocks._Sweeps, ("up", "join", "down_the_trunk", "down"), "min-sum"),
        (search, ("_mean",), "expectation"),
        (host, ("upsample", "restrict", "spread"), "up-sampling and back"),
        (host, ("make_consistent",), "consistency"),
        (LocalCorrelation, ("__init__", "gradient"), "local correlation"),
        (host, ("unfold",), "unfolding"),
        (engine, ("refined",), "rest of the descent"),
        (engine, ("_on_fixed_grid",), "output grid"),
    ):
        for name in names:
            steps.watch(owner, name, label)


def volumes(size: tuple[int, ...]):
    """The pair at a size, from the benchmark data or synthetic."""
    from itk_pdd.evaluation import datasets
    from itk_pdd.geometry.grid import Grid
    from itk_pdd.geometry.resampling import resample
    from itk_pdd.io.volume import Volume

    try:
        pair = datasets.abdomen_pairs("train")[0]
    except Exception:  # no benchmark data here
        from itk_pdd.synthesis import make_pair

        made = make_pair(SIZE, 2.0, seed=0, displacement=40)
        pair_ = (made.fixed, made.moving)
    else:
        pair_ = Volume.from_image(pair.fixed), Volume.from_image(pair.moving)
    if tuple(size) == pair_[0].grid.size:
        return pair_
    result = []
    for volume in pair_:
        spacing = volume.grid.extent / np.asarray(size)
        first = (spacing / np.asarray(volume.grid.spacing) - 1) / 2
        grid = Grid.create(size, spacing, volume.grid.to_physical(first), np.asarray(volume.grid.direction))
        result.append(Volume(resample(volume, grid).array.astype(np.int16), grid))
    return tuple(result)


def peak() -> float:
    """GB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def measure_warm(options: argparse.Namespace) -> dict:
    """Registrations in one process; the first, which may compile, does not count."""
    from itk_pdd import registration

    given = {"device": "cpu", "threads": options.threads}
    fixed, moving = volumes(tuple(options.size))
    small = volumes((48, 40, 64)) if options.repetitions == 1 else (fixed, moving)
    registration.register_volumes(*small, **given)
    steps, walls, processors, details = Steps(), [], [], []
    watch_search(steps)
    for _ in range(options.repetitions):
        steps.seconds.clear()
        wall, processor = time.perf_counter(), time.process_time()
        registration.register_volumes(fixed, moving, memory=options.memory, **given)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        details.append(steps.rest(walls[-1]))
    middle = int(np.argsort(walls)[(len(walls) - 1) // 2])
    return {
        "seconds": walls[middle],
        "processor_seconds": processors[middle],
        "peak_gb": peak(),
        "steps": details[middle],
    }


def measure_files(options: argparse.Namespace) -> dict:
    """What the command does, from file to file, by step."""
    started = time.perf_counter()
    from itk_pdd import models
    from itk_pdd.commands import register as filewise
    from itk_pdd.io import files

    steps = Steps()
    steps.seconds["imports"] = time.perf_counter() - started
    for owner, name, label in (
        (files, "read_image", "reading"),
        (filewise, "prepare", "checking"),
        (filewise, "solve", "registration"),
        (filewise, "warp_simpleitk", "warping"),
        (files, "write_image", "writing"),
    ):
        steps.watch(owner, name, label)
    models.load("auto")
    folder = Path(options.folder)
    filewise.register_files(
        folder / "fixed.nii.gz",
        folder / "moving.nii.gz",
        output=folder / "field.nii.gz",
        warped=folder / "warped.nii.gz",
        threads=options.threads,
        memory=options.memory,
        device="cpu",
    )
    wall = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": wall,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": peak(),
        "steps": steps.rest(wall),
    }


# ---- How it is measured and told


def in_process(kind: str, options: argparse.Namespace, **changes: object) -> dict:
    """Measure in another process."""
    names = ("threads", "repetitions", "memory", "folder")
    settings = {name: changes.get(name, getattr(options, name, None)) for name in names}
    size = changes.get("size", options.size)
    command = [sys.executable, __file__, "--measure", kind, "--size", *map(str, size)]
    for name, value in settings.items():
        command += [] if value is None else [f"--{name}", str(value)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"kind": kind, "size": "x".join(map(str, size)), **settings, **json.loads(answer.stdout.splitlines()[-1])}


def make_files(folder: Path, size: tuple[int, ...]) -> None:
    """The pair as files, made in another process: this one must stay small, its children inherit its peak."""
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import bench_register as b\n"
        "from itk_pdd.io.files import write_image\n"
        "for n, v in zip(('fixed', 'moving'), b.volumes(tuple(map(int, sys.argv[3:])))):\n"
        "    write_image(v.to_simpleitk(), Path(sys.argv[2]) / f'{n}.nii.gz')\n"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(folder), *map(str, size)]
    subprocess.run(command, check=True)


def measure_command(folder: Path, options: argparse.Namespace, **environment: str) -> dict:
    """The command itself in a fresh process."""
    command = [str(Path(sys.executable).with_name("pdd-register")), "fixed.nii.gz", "moving.nii.gz"]
    command += ["-o", "field.nii.gz", "--warped", "warped.nii.gz", "--threads", str(options.threads), "--device", "cpu"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment})
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[0]} failed")
    return {
        "kind": "command",
        "seconds": time.perf_counter() - started,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
    }


def told(name: str, row: dict) -> str:
    """One line of the table."""
    return f"{name:<44}{row['seconds']:>8.2f}{row['processor_seconds']:>12.2f}{row['peak_gb']:>10.2f}"


def print_steps(row: dict) -> None:
    """Steps by their share, the longest first."""
    total = row["seconds"]
    for name, seconds in sorted(row["steps"].items(), key=lambda item: -item[1]):
        print(f"    {name:<24}{seconds:>8.2f} s{100 * seconds / total:>6.0f} %")


HEADING = f"{'':<44}{'seconds':>8}{'processors':>12}{'peak, GB':>10}"


def compare_basics(options: argparse.Namespace) -> list[dict]:
    """A warm process, the command and its first use."""
    print(f"\n{'x'.join(map(str, options.size))}, {options.threads} threads\n{HEADING}")
    rows = [in_process("warm", options)]
    print(told(f"register, warm, median of {options.repetitions}", rows[0]))
    print_steps(rows[0])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, options.size)
        measure_command(folder, options)
        runs = [measure_command(folder, options) for _ in range(options.repetitions)]
        rows.append(sorted(runs, key=lambda run: run["seconds"])[(len(runs) - 1) // 2])
        print(told("pdd-register, fresh process, kernels cached", rows[-1]))
        rows.append(in_process("files", options, folder=folder))
        print_steps(rows[-1])
        first = measure_command(folder, options, NUMBA_CACHE_DIR=str(folder / "cache"))
        rows.append({**first, "kind": "first use"})
        print(told("pdd-register, first use (kernels compiled)", first))
        print(f"    compilation {first['processor_seconds'] - rows[1]['processor_seconds']:.1f} s")
    return rows


def scaling(options: argparse.Namespace) -> list[dict]:
    """Cost against voxels and threads."""
    print(f"\n{'warm process, against':<44}{HEADING[44:]}{'us per voxel':>14}")
    rows = []
    for size in SIZES:
        row = {"against": "voxels", **in_process("warm", options, size=size, repetitions=1)}
        rows.append(row)
        print(told(f"  {row['size']}", row) + f"{1e6 * row['processor_seconds'] / np.prod(size):>14.2f}")
    for threads in sorted({1, options.threads}):
        row = {"against": "threads", **in_process("warm", options, threads=threads, repetitions=1)}
        rows.append(row)
        print(told(f"  {threads} threads", row))
    for memory in (0.75, None):
        row = {"against": "memory", **in_process("warm", options, memory=memory, repetitions=1)}
        rows.append(row)
        print(told(f"  memory limit {'none' if memory is None else f'{memory} GB'}", row))
    return rows


def large(options: argparse.Namespace) -> list[dict]:
    """From file to file."""
    print(f"\n{'from file to file (field and warped image)':<44}{HEADING[44:]}{'us per voxel':>14}")
    rows = []
    for size in (SIZE, *LARGE):
        with tempfile.TemporaryDirectory() as folder:
            make_files(Path(folder), size)
            row = {"against": "voxels, files", **in_process("files", options, size=size, folder=folder)}
        rows.append(row)
        print(told(f"  {row['size']}", row) + f"{1e6 * row['processor_seconds'] / np.prod(size):>14.2f}")
        print_steps(row)
    return rows


def definitions(options: argparse.Namespace) -> list[dict]:
    """Each step against the same written with numpy or torch, on a problem that those can hold."""
    import register_definitions
    import torch

    torch.set_num_threads(options.threads)
    rows = register_definitions.compare(options.repetitions)
    print(f"\n{'step (processor seconds)':<44}{'ours':>10}{'plain':>10}{'ratio':>8}{'difference':>14}")
    for row in rows:
        print(
            f"{row['step']:<44}{row['seconds']:>10.4f}{row['plain']:>10.3f}{row['ratio']:>8.0f}{row['difference']:>14.1e}"
        )
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Processor seconds and memory against voxels, on double logarithmic axes, beside proportionality."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in rows if row.get("against") == "voxels"]
    voxels = np.array([np.prod([int(n) for n in row["size"].split("x")]) for row in rows]) / 1e6
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for axis, key, label in (
        (axes[0], "processor_seconds", "seconds of all processors"),
        (axes[1], "peak_gb", "peak memory, GB"),
    ):
        values = np.array([row[key] for row in rows])
        axis.loglog(voxels, values, "o-", label="measured")
        axis.loglog(voxels, values[0] * voxels / voxels[0], ":", color="grey", label="proportional")
        axis.set(xlabel="million voxels", ylabel=label)
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=SIZE, help="voxels x y z")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)) if sys.platform == "linux" else 2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--memory", type=float, help="limit in GB")
    parser.add_argument("--definitions", action="store_true", help="each step against plain numpy and torch only")
    parser.add_argument("--scaling", action="store_true", help="cost against size, threads and memory only")
    parser.add_argument("--large", action="store_true", help="large scans from file to file only")
    parser.add_argument("--csv", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw the scaling to this file (needs --scaling and matplotlib)")
    parser.add_argument("--measure", choices=("warm", "files"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.size = tuple(options.size)
    if options.plot and not options.scaling:
        parser.error("--plot needs --scaling")
    if options.measure:
        print(json.dumps({"warm": measure_warm, "files": measure_files}[options.measure](options)))
        return
    chosen = [task for name, task in _TASKS.items() if getattr(options, name)] or [compare_basics]
    rows = [row for task in chosen for row in task(options)]
    if options.csv:
        flat = [{**row, **{f"{k} s": v for k, v in row.get("steps", {}).items()}} for row in rows]
        names = [
            name for name in dict.fromkeys(name for row in flat for name in row) if name not in ("steps", "folder")
        ]
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(flat)
    if options.plot:
        draw(rows, options.plot)


_TASKS = {"definitions": definitions, "scaling": scaling, "large": large}


if __name__ == "__main__":
    main()
