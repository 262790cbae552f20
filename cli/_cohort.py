"""Shared by the commands of cohorts: where to register, and the progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from itk_pdd.cli._console import COUNT, FAILED, POSITIVE, choice, flag, option, options

WHERE = ("workers", "threads", "memory", "scheduler", "cluster")

where_to_register = options(
    option("--workers", "N", "Registrations at a time.  [default: as processors and memory allow]", type=COUNT),
    option("--threads", "N", "Threads of each.  [default: the processors are shared out]", type=COUNT),
    option(
        "--memory",
        "GB",
        "For all workers of this machine together, or for each job of --cluster.  [default: what is free]",
        type=POSITIVE,
    ),
    option("--scheduler", "ADDRESS", "Register on the workers of this Dask scheduler (tcp://host:8786, or its file)."),
    choice("--cluster", ["slurm", "pbs"], "Start the workers as jobs of SLURM or PBS (needs dask-jobqueue)."),
)


def _start(context: click.Context, parameter: click.Parameter, value: str) -> str | None:
    return None if value == "none" else value


MODEL = option("--model", "NAME", "A model, as for pdd-register.", default="auto")
INITIALISE = choice(
    "--initialise",
    ["none", "center", "affine"],
    "Find a start for each registration, as pdd-register does.",
    default="none",
    callback=_start,
)
SMOOTHNESS = option("--smoothness", "FACTOR", "Of the fields.", type=POSITIVE, default=1.0)
SPACING = option("--spacing", "MM", "Compare the images at this voxel size.", type=POSITIVE)
QUIET = flag("-q", "--quiet", "Say nothing but errors.")


def place_of(options: Mapping[str, Any]) -> Any:
    """Turn these options into a place."""
    from itk_pdd.cohort.cluster import Place

    return Place(**options)


def end_with(failed: Mapping[str, str]) -> None:
    """Tell what failed and why; end the command by the exit code for that."""
    for name, reason in failed.items():
        click.echo(f"Error: {name}: {reason}.", err=True)
    if failed:
        click.get_current_context().exit(FAILED)


@contextmanager
def batch_progress(quiet: bool) -> Iterator[Callable[[int, int, str, Mapping[str, Any]], None] | None]:
    """Show a bar with the time left on a terminal, and a line for each pair elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(total=None, unit="pair", file=sys.stderr, dynamic_ncols=True) as bar:

            def update(done: int, total: int, name: str, record: Mapping[str, Any]) -> None:
                bar.total = total
                bar.update(done - bar.n)
                if (text := _told(record)) != "good":
                    bar.write(f"{name}: {text}", file=sys.stderr)

            yield update
    else:
        started, before = time.monotonic(), [0]

        def tell(done: int, total: int, name: str, record: Mapping[str, Any]) -> None:
            seconds = record.get("wall_seconds")
            before[0] += 1
            left = (time.monotonic() - started) / before[0] * (total - done)
            words = [_told(record)] + ([f"{seconds:.1f} s"] if seconds is not None else [])
            click.echo(f"[{done}/{total}] {name}: {', '.join(words)}; {_span(left)} left", err=True)

        yield tell


def _told(record: Mapping[str, Any]) -> str:
    """Tell in a few words what came of a pair."""
    if record["status"] != "done":
        return f"failed: {record['reason']}"
    verdict = record.get("verdict") or {"word": "good", "reasons": []}
    return verdict["word"] if verdict["word"] == "good" else f"{verdict['word']}: {'; '.join(verdict['reasons'])}"


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
