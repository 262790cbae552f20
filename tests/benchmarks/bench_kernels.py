"""Measure one pass of the network: compiled kernels, plain torch definitions, and the same written with torch's layers.

    python tests/benchmarks/bench_kernels.py                      # one pass, 32^3 control points, 15^3 displacements
    python tests/benchmarks/bench_kernels.py --scaling --csv kernels.csv --plot kernels.png

Every measurement runs in a process of its own, in turn, so that peak memory is its own and a busy machine slows all
down alike. Seconds are medians over the repetitions; those of all processors together stay nearly the same on a busy
machine. Memory is the peak beyond what the process held with the inputs.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

STEPS = ("costs", "min-convolution", "mean field", "min-convolution 2", "mean field 2", "expectation")
TEMPERATURE, RATIO = 100.0, 1.0


class Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor_seconds = 0.0

    def __call__(self, name: str, function: Callable, *arguments: object, **options: object) -> object:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start, used = time.perf_counter(), time.process_time()
        result = function(*arguments, **options)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[name] = time.perf_counter() - start
        self.processor_seconds += time.process_time() - used
        return result


def problem(points: int, displacements: int, channels: int, size: tuple[int, ...], device: str):
    """Smooth random features, control points over them, displacements up to 0.4 of the half extent."""
    from itk_pdd.network.costs import ControlGrid, DisplacementSet

    generator = torch.Generator().manual_seed(0)
    fixed, moving = (
        F.avg_pool3d(torch.rand(channels, *[n + 4 for n in size], generator=generator), 5, stride=1) for _ in range(2)
    )
    control = ControlGrid.covering(size, shape=(points,) * 3)
    radius = displacements // 2
    steps = [0.4 * n / 2 / max(1, radius) for n in size]
    return fixed.to(device), moving.to(device), control, DisplacementSet((radius,) * 3, tuple(steps))


def with_package(kind: str, fixed, moving, control, displacements, clock: Clock) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass by the package: ``fast`` kernels or ``torch`` definitions."""
    from itk_pdd import kernels
    from itk_pdd.kernels.autograd import _smoothed

    positions, offsets = control.positions(), displacements.offsets()
    with kernels.use(kind), torch.no_grad():
        costs = clock("costs", kernels.displacement_costs, fixed, moving, positions=positions, displacements=offsets)
        backend = kernels._backend("regularisation", costs)
        result = None
        for suffix in ("", " 2"):
            if backend is not None:  # step by step what kernels.regularise does, in place
                options = {"dimension": 3, "reuse": result is not None, "ratio": RATIO}
                result = clock(
                    f"min-convolution{suffix}",
                    _smoothed,
                    backend,
                    costs,
                    result,
                    convolve=True,
                    average=False,
                    **options,
                )
                result = clock(f"mean field{suffix}", backend.mean_field, result, 3, out=result)
            else:
                combined = costs if result is None else costs + RATIO * result
                result = clock(f"min-convolution{suffix}", kernels.min_convolution, combined, 3)
                result = clock(f"mean field{suffix}", kernels.mean_field, result, 3)
        mean = clock("expectation", kernels.displacement_moments, result, TEMPERATURE, offsets).mean
    return result, mean


def with_layers(fixed, moving, control, displacements, clock: Clock) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass with ``grid_sample``, pooling layers and permutations, as one would write it first."""
    size = torch.tensor(fixed.shape[1:][::-1], dtype=torch.float32, device=fixed.device)
    points, count = control.shape, displacements.shape

    def normalised(axes):
        return torch.stack(torch.meshgrid(*[a.float() for a in axes], indexing="ij")[::-1], dim=-1).to(fixed.device)

    centres = 2 * normalised(control.positions()) / (size - 1) - 1
    shifts = (2 * normalised(displacements.offsets()) / (size - 1)).reshape(1, -1, 3)

    def costs():
        sampled = F.grid_sample(fixed[None], centres[None], align_corners=True, padding_mode="border")[0]
        slabs = []
        for z in range(points[0]):
            grid = (centres[z].reshape(-1, 1, 3) + shifts)[None, :, :, None]
            there = F.grid_sample(moving[None], grid, align_corners=True, padding_mode="border")[0, ..., 0]
            slabs.append((sampled[:, z].reshape(len(fixed), -1, 1) - there).square().mean(dim=0))
        return torch.stack(slabs)

    def min_convolution(values):
        padded = F.pad(values.reshape(-1, 1, *count), [3] * 6, mode="replicate")
        lowest = -F.max_pool3d(-padded, 3, stride=1)
        return F.avg_pool3d(F.avg_pool3d(lowest, 3, stride=1), 3, stride=1).reshape(*points, -1)

    def mean_field(values):
        volumes = values.permute(3, 0, 1, 2).unsqueeze(1)
        padded = F.pad(volumes, [2] * 6, mode="replicate")
        return F.avg_pool3d(F.avg_pool3d(padded, 3, stride=1), 3, stride=1).squeeze(1).permute(1, 2, 3, 0)

    def expectation(values):
        probabilities = torch.softmax(-TEMPERATURE * values, dim=-1).unsqueeze(-1)
        return (probabilities * normalised(displacements.offsets()).reshape(-1, 3)).sum(dim=-2)

    with torch.no_grad():
        values = clock("costs", costs).reshape(*points, -1)
        result = clock("min-convolution", min_convolution, values)
        result = clock("mean field", mean_field, result)
        result = clock("min-convolution 2", min_convolution, values + RATIO * result)
        result = clock("mean field 2", mean_field, result)
        mean = clock("expectation", expectation, result)
    return result.reshape(*points, *count), mean


def training(fixed, moving, control, displacements, clock: Clock) -> None:
    """One iteration, backward included: features, costs, regularisation, non-local label loss and diffusion."""
    from itk_pdd.network.obelisk import Obelisk
    from itk_pdd.network.pdd import ProbabilisticDenseDisplacements

    size = fixed.shape[1:]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, *[3 * n for n in size], generator=generator).to(fixed)
    labels = F.one_hot(torch.randint(0, 14, size, generator=generator), 14).movedim(-1, 0).to(fixed)
    features = Obelisk(channels=len(fixed), norm="group", generator=generator).to(fixed)
    network = ProbabilisticDenseDisplacements().to(fixed)
    positions = [torch.arange(n) * 3.0 + 1 for n in size]
    one, other = clock("features", lambda: [features(i, positions) for i in images])
    distribution = clock("forward", network, one, other, control=control, displacements=displacements)

    def loss():
        mean = distribution.mean()
        smooth = sum(mean.diff(dim=axis).square().mean() for axis in range(3))
        return distribution.expected_labels(labels).square().mean() + 0.01 * smooth

    value = clock("loss", loss)
    clock("backward", value.backward)


def measure(arguments: argparse.Namespace) -> dict:
    """In a process of its own: warm up on a small problem, then once for real."""
    torch.set_num_threads(arguments.threads)
    kind, device = arguments.measure, arguments.device
    logging.getLogger("itk_pdd").setLevel(logging.ERROR)
    run = {"layers": with_layers, "training": training}.get(kind) or (lambda *a: with_package(kind, *a))
    run(*problem(4, 3, arguments.channels, (12, 13, 14), device), Clock())
    inputs = problem(arguments.points, arguments.displacements, arguments.channels, tuple(arguments.size), device)
    to_bytes = 1 if sys.platform == "darwin" else 1024
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * to_bytes
    clock = Clock()
    result = run(*inputs, clock)
    if device != "cpu":
        after = torch.cuda.max_memory_allocated()
    else:
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * to_bytes
    if arguments.result and result is not None:
        costs, mean = (r.cpu().numpy() for r in result)
        np.savez(arguments.result, costs=costs[::4, ::4, ::4], mean=mean)
    return {"seconds": clock.seconds, "processors": clock.processor_seconds, "memory": after - before}


def in_process(kind: str, arguments: argparse.Namespace, result: Path | None = None, **changes: object) -> dict:
    """Measure in another process."""
    settings = {
        name: changes.get(name, getattr(arguments, name))
        for name in ("points", "displacements", "channels", "threads", "device")
    }
    command = [sys.executable, __file__, "--measure", kind, "--size", *[str(n) for n in arguments.size]]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    if result is not None:
        command += ["--result", str(result)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"kind": kind, **settings, **json.loads(answer.stdout.splitlines()[-1])}


def summary(runs: list[dict]) -> dict:
    """Medians of the steps and of their sum, spread of the sum, and the largest peak memory."""
    totals = [sum(r["seconds"].values()) for r in runs]
    seconds = {step: statistics.median(r["seconds"][step] for r in runs) for step in runs[0]["seconds"]}
    return {
        **runs[0],
        "seconds": seconds,
        "total": statistics.median(totals),
        "least": min(totals),
        "most": max(totals),
        "processors": statistics.median(r["processors"] for r in runs),
        "memory": max(r["memory"] for r in runs),
    }


def difference(one: Path, other: Path) -> tuple[float, float]:
    """Largest relative difference of the costs, largest difference of the mean displacement in feature voxels."""
    with np.load(one) as a, np.load(other) as b:
        costs = float((np.abs(a["costs"] - b["costs"]) / np.abs(b["costs"]).clip(1e-12)).max())
        return costs, float(np.abs(a["mean"] - b["mean"]).max())


def compare(arguments: argparse.Namespace) -> list[dict]:
    """One pass of each kind, in turn; prints seconds, ratios, memory and whether the results agree."""
    kinds = ["fast", *[k for k in ("torch", "layers") if k not in arguments.without]]
    runs: dict[str, list[dict]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repetitions):
            for kind in kinds:
                runs[kind].append(in_process(kind, arguments, Path(folder) / f"{kind}.npz"))
        found = [summary(runs[kind]) for kind in kinds]
        print(
            f"{arguments.points}^3 control points, {arguments.displacements}^3 displacements, {arguments.channels} "
            f"channels of {'x'.join(map(str, arguments.size))}, {arguments.threads} threads on {arguments.device}, "
            f"{arguments.repetitions} repetitions"
        )
        print(f"\n{'step, seconds':<20}" + "".join(f"{kind:>10}" for kind in kinds))
        for step in STEPS:
            print(f"{step:<20}" + "".join(f"{f['seconds'][step]:>10.3f}" for f in found))
        print(f"{'total':<20}" + "".join(f"{f['total']:>10.3f}" for f in found))
        print(f"{'total, least..most':<20}" + "".join(f"{f['least']:>5.2f}..{f['most']:.2f}" for f in found))
        print(f"{'ratio to fast':<20}" + "".join(f"{f['total'] / found[0]['total']:>10.1f}" for f in found))
        print(f"{'processor seconds':<20}" + "".join(f"{f['processors']:>10.2f}" for f in found))
        print(f"{'ratio of these':<20}" + "".join(f"{f['processors'] / found[0]['processors']:>10.1f}" for f in found))
        print(f"{'peak memory, GB':<20}" + "".join(f"{f['memory'] / 1e9:>10.2f}" for f in found))
        for kind in kinds[1:]:
            costs, mean = difference(Path(folder) / "fast.npz", Path(folder) / f"{kind}.npz")
            print(f"fast against {kind}: costs differ by {costs:.1e} (relative), means by {mean:.1e} feature voxels")
    return found


def scaling(arguments: argparse.Namespace) -> Iterator[dict]:
    """Cost of a pass against each size."""
    for name, values in (
        ("points", (8, 16, 24, 32)),
        ("displacements", (5, 9, 13, 15)),
        ("channels", (8, 16, 24, 32)),
        ("threads", tuple(sorted({1, arguments.threads}))),
    ):
        for value in values:
            changes = {name: value}
            runs = [in_process("fast", arguments, **changes) for _ in range(arguments.repetitions)]
            yield {"against": name, **summary(runs)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=32, help="control points along each axis")
    parser.add_argument("--displacements", type=int, default=15, help="displacements along each axis, odd")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=3, default=(64, 54, 86), help="feature map, z y x")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--without", nargs="*", default=(), choices=("torch", "layers"), help="leave these out")
    parser.add_argument("--training", action="store_true", help="measure one training iteration as well")
    parser.add_argument("--scaling", action="store_true", help="measure cost against size as well")
    parser.add_argument("--csv", type=Path, help="write all figures to this file")
    parser.add_argument("--plot", type=Path, help="draw the scaling to this file (needs --scaling and matplotlib)")
    parser.add_argument("--measure", choices=("fast", "torch", "layers", "training"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plot and not arguments.scaling:
        parser.error("--plot needs --scaling")
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    rows = [{"against": "", **row} for row in compare(arguments)]
    if arguments.training:
        row = summary([in_process("training", arguments) for _ in range(arguments.repetitions)])
        steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in row["seconds"].items())
        print(f"\none training iteration: {row['total']:.2f} s ({steps}), {row['memory'] / 1e9:.2f} GB")
        rows.append({"against": "", **row})
    if arguments.scaling:
        print(f"\n{'against':<15}{'value':>7}{'seconds':>10}{'memory, GB':>12}")
        for row in scaling(arguments):
            print(f"{row['against']:<15}{row[row['against']]:>7}{row['total']:>10.3f}{row['memory'] / 1e9:>12.2f}")
            rows.append(row)
    if arguments.csv:
        write_table(rows, arguments.csv)
    if arguments.plot:
        draw([r for r in rows if r["against"]], arguments.plot)


def write_table(rows: list[dict], path: Path) -> None:
    """One line per measurement."""
    flat = [
        {**{k: v for k, v in row.items() if k != "seconds"}, **{f"{s} s": t for s, t in row["seconds"].items()}}
        for row in rows
    ]
    names = list(dict.fromkeys(name for row in flat for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(flat)


def draw(rows: list[dict], path: Path) -> None:
    """Seconds against size, on double logarithmic axes, with the slope of proportionality."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row["against"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.5), constrained_layout=True)
    for axis, name in zip(axes, names, strict=True):
        found = [row for row in rows if row["against"] == name]
        power = 3 if name in ("points", "displacements") else 1
        numbers = np.array([row[name] ** power for row in found], dtype=float)
        seconds = np.array([row["total"] for row in found])
        axis.loglog(numbers, seconds, "o-", label="measured")
        slope = -1 if name == "threads" else 1
        axis.loglog(numbers, seconds[-1] * (numbers / numbers[-1]) ** slope, ":", color="grey", label="proportional")
        axis.set(xlabel=name if power == 1 else f"{name}, all", ylabel="seconds of one pass")
        axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
