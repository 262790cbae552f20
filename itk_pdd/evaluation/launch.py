"""Start a program that ends when the one that started it ends, and report what it took.

``python -m itk_pdd.evaluation.launch PARENT REPORT PROGRAM ...``: a comparison that is killed must not leave
registrations behind that go on for an hour. It is a small process of its own because the kernel counts the size of
whoever starts a program into the memory of the program.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1
_POLL = 0.05  # seconds between two looks at a program where the system does not tell about its end


def die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(1)


def main() -> None:
    """Run the program named on the command line; write how it ended to the file REPORT, unless that is ``-``."""
    parent, report, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    end = forked(parent, command) if hasattr(os, "fork") else watched(parent, command)
    if report != "-":
        with open(report, "w", encoding="utf-8") as stream:
            json.dump(end, stream)
    code = end["code"]
    sys.exit(code if code >= 0 else 128 - code)


def forked(parent: int, command: Sequence[str]) -> dict[str, Any]:
    """Run a program in a fork of this process; return its exit code, processor seconds and peak memory in bytes."""
    import resource

    die_with(parent)
    # A program that crashes would otherwise write all its memory into a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    own = os.getpid()
    child = os.fork()
    if child == 0:
        die_with(own)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            _cannot_start(command[0], error)
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "cpu_seconds": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * unit}


def watched(parent: int, command: Sequence[str]) -> dict[str, Any]:
    """Do the same on systems without fork (Windows): look at the program until it, or the parent, ends."""
    import psutil

    end = {"code": 127, "cpu_seconds": float("nan"), "memory": 0}
    try:
        program = psutil.Popen(command)
    except OSError as error:
        _cannot_start(command[0], error)
        return end
    while program.poll() is None:
        with suppress(psutil.Error):
            times, memory = program.cpu_times(), program.memory_info()
            end["cpu_seconds"] = times.user + times.system
            end["memory"] = max(end["memory"], getattr(memory, "peak_wset", memory.rss))
        if not psutil.pid_exists(parent):
            program.kill()
        time.sleep(_POLL)
    end["code"] = program.returncode
    return end


def _cannot_start(name: str, error: OSError) -> None:
    print(f"{name} cannot be started: {error.strerror}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
