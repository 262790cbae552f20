"""The number of CPU threads: the user's, or what the processors, quotas and the environment of the process allow."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import psutil

__all__ = ["VARIABLES", "allowed", "chosen", "quota", "threads", "torch_limited"]

VARIABLES = (
    "OMP_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    "SLURM_CPUS_PER_TASK",
)
"""Variables of the environment that limit the number of threads."""

_chosen: ContextVar[int | None] = ContextVar("itk_pdd_threads", default=None)
_forked_after_torch = False


def threads() -> int:
    """Return the number of threads that kernels use here: that of :func:`chosen`, else that of :func:`allowed`."""
    return _chosen.get() or allowed()[0]


@contextlib.contextmanager
def chosen(count: int | None) -> Iterator[None]:
    """Use a number of threads inside a ``with`` block, in this thread of the program; None changes nothing."""
    token = _chosen.set(count or _chosen.get())
    try:
        yield
    finally:
        _chosen.reset(token)


def allowed() -> tuple[int, str]:
    """Return the number of threads that this process may use, and its reason.

    The smallest of these counts: the processors that the process may run on, the quota of its control groups, the
    variables of the environment in :data:`VARIABLES`, and torch's number of threads where torch is loaded.
    """
    processors, limit = _processors(), quota()
    found = [(processors, f"{processors} processors")]
    if limit is not None:
        found.append((max(1, math.ceil(limit)), f"a quota of {limit:g} processors"))
    for name in VARIABLES:
        first = os.environ.get(name, "").partition(",")[0].strip()  # OpenMP takes one number per level
        if first.isdecimal() and int(first) > 0:
            found.append((int(first), f"{name}={first}"))
    torch = sys.modules.get("torch")
    # While torch is being imported it has no such function yet.
    if hasattr(torch, "get_num_threads") and not _forked_after_torch:
        found.append((torch.get_num_threads(), "torch.get_num_threads()"))
    return min(found, key=lambda each: each[0])


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    if sys.platform == "win32":
        return len(psutil.Process().cpu_affinity())
    return os.cpu_count() or 1


@functools.cache
def quota(groups: str = "/proc/self/cgroup", base: str = "/sys/fs/cgroup") -> float | None:
    """Return the processors that the control groups of this process allow, None without a limit (both versions).

    Parameters
    ----------
    groups : str
        File with the groups of the process.
    base : str
        Folder of the groups. A container sees its own group here, under whatever name the first file gives.
    """
    found = []
    try:
        lines = Path(groups).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if names and "cpu" not in names.split(","):
            continue
        for root in [base] if not names else [f"{base}/cpu", f"{base}/{names}"]:
            for folder in _upwards(Path(root), path):
                with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                    if names:
                        pair = [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
                    else:
                        pair = (folder / "cpu.max").read_text().split()
                    most, period = map(int, pair)  # "max" is no number
                    if most > 0:  # version 1 has -1 for no limit
                        found.append(most / period)
    return min(found, default=None)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and those around it: the limit of each counts."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:count])


@contextlib.contextmanager
def torch_limited() -> Iterator[None]:
    """Let torch compute with the number of threads of :func:`threads` inside a ``with`` block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if _forked_after_torch else threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _after_fork() -> None:
    """Give torch one thread in a forked process.

    Its OpenMP library does not notice that its threads are gone, and waits for them without end.
    """
    global _forked_after_torch
    if "torch" in sys.modules:
        _forked_after_torch = True
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
