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

try:
    import resource
except ImportError:  # Windows, where this program is not used
    resource = None  # type: ignore[assignment]

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(1)


def main() -> None:
    """Run the program named on the command line; write how it ended to the file REPORT, unless that is ``-``."""
    parent, report, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
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
            print(f"{command[0]} cannot be started: {error.strerror}", file=sys.stderr, flush=True)
            os._exit(127)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if report != "-":
        unit = 1 if sys.platform == "darwin" else 1024
        content = {"code": code, "cpu_seconds": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * unit}
        with open(report, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
