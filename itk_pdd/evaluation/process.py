"""Run a program under limits of time and memory, and measure both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["Outcome", "kill_session", "program_of_its_own", "run_limited"]

_POLL = 0.05  # seconds between two looks at the memory


@dataclass(frozen=True)
class Outcome:
    """Outcome of a program."""

    reason: str | None  # why it failed, in one sentence; None if it ended well
    seconds: float  # wall time from start to end
    cpu_seconds: float  # time the processors spent on it; NaN if it was killed for exceeding a limit
    peak_memory: int  # largest resident memory in bytes, of the program and all it started together


def run_limited(
    command: Sequence[str],
    *,
    log: Path,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    time_limit: float | None = None,
    memory_limit: int | None = None,
) -> Outcome:
    """Run a program in a session of its own until it ends or exceeds a limit; then all of it is killed.

    The memory is looked at twenty times a second, through ``/proc`` where there is one (Linux), else by psutil. ``log``
    takes what the program prints, ``environment`` has variables beside those of this process; the limits are seconds,
    and bytes of resident memory summed over the program and its children.
    """
    tree_memory = _tree_memory if Path("/proc/self/status").is_file() else _tree_memory_elsewhere
    report = log.absolute().with_name(f"{log.name}.{os.getpid()}.end")
    start = time.perf_counter()
    with log.open("wb") as stream:
        process = program_of_its_own(command, stream, folder=folder, environment=environment, report=report)
    peak, reason = 0, None
    try:
        while process.poll() is None:
            used, highest = tree_memory(process.pid)
            peak = max(peak, used, highest)
            if memory_limit is not None and used > memory_limit:
                reason = f"out of memory: used {used / 2**30:.3g} GiB, the limit is {memory_limit / 2**30:.3g} GiB"
            if time_limit is not None and time.perf_counter() - start > time_limit:
                reason = reason or f"out of time: not done after {time_limit:g} s"
            if reason is not None:
                break
            time.sleep(_POLL)
        seconds = time.perf_counter() - start
    finally:
        kill_session(process.pid)  # all of it, also what it left running
        process.wait()
    try:
        end = json.loads(report.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        end = {"code": process.returncode, "cpu_seconds": float("nan"), "memory": 0}
    report.unlink(missing_ok=True)
    if reason is None and end["code"] != 0:
        reason = _failure(end["code"], log)
    return Outcome(reason, seconds, end["cpu_seconds"], max(peak, end["memory"]))


def program_of_its_own(
    command: Sequence[str],
    output: IO[bytes],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    report: Path | None = None,
) -> subprocess.Popen:
    """Start a program in a session of its own that ends with this process (see :mod:`itk_pdd.evaluation.launch`)."""
    return subprocess.Popen(
        [sys.executable, "-m", "itk_pdd.evaluation.launch", str(os.getpid()), str(report or "-"), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )


def kill_session(pid: int) -> None:
    """Kill the session the process leads; on Windows, which has none, the process and all that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        return
    import psutil

    with contextlib.suppress(psutil.Error):
        leader = psutil.Process(pid)
        for process in [*leader.children(recursive=True), leader]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def _status(pid: int, names: Sequence[str]) -> list[int]:
    """Read figures (kB in the file, bytes here) from ``/proc/<pid>/status``; 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return [0] * len(names)
    found = {line.split(":", 1)[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return [int(found.get(name, 0)) * 1024 for name in names]


def _tree_memory(launcher: int) -> tuple[int, int]:
    """Measure the resident memory of all descendants of a process, and the peak of any one of them, in bytes."""
    total = highest = 0
    waiting = _children(launcher)
    while waiting:
        current = waiting.pop()
        now, high = _status(current, ["VmRSS", "VmHWM"])
        total, highest = total + now, max(highest, high)
        waiting += _children(current)
    return total, highest


def _tree_memory_elsewhere(launcher: int) -> tuple[int, int]:
    """Do the same by psutil, on systems without ``/proc``."""
    import psutil

    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(launcher).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found.append(process.memory_info().rss)
    return sum(found), max(found, default=0)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def _failure(code: int, log: Path) -> str:
    """Say why a program failed: its last line, and how it ended."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1][:500] if lines else "it printed nothing"
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", perhaps because the machine ran out of memory" if -code == signal.SIGKILL else ""
        return f"killed by {name}{hint} ({last})"
    return f"ended with exit code {code}: {last}"
