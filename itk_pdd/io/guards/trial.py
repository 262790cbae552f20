"""Read files on trial in another process, where a library does not survive all damaged ones."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

from itk_pdd.errors import RegistrationError

__all__ = ["check_hdf5"]

log = logging.getLogger("itk_pdd")

# 77 tells that the trial itself did not work, which says nothing about the file.
_CODE = """
import sys
try:
    import SimpleITK
except ImportError:
    sys.exit(77)
try:
    SimpleITK.ReadTransform(sys.argv[1])
except (RuntimeError, MemoryError, UnicodeDecodeError):
    pass
"""
_SECONDS, _BYTES_PER_SECOND = 20.0, 5e6


def check_hdf5(path: Path, *, name: str) -> None:
    """Refuse an HDF5 transform that the library never finishes to read, or crashes on.

    Damaged files send it round in circles, and impossible grids make ITK write beyond its memory. Reading one on trial
    takes about half a second. Programs that are not a Python interpreter (frozen ones, or ones with Python inside) are
    not started a second time: there a fork reads the file or, on systems without fork, nothing does.
    """
    limit = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    python = _interpreter()
    try:
        if python is not None:
            command = [python, "-P", "-c", _CODE, str(path.resolve())]
            code = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit).returncode
        elif hasattr(os, "fork"):
            code = _forked(path, limit)
        else:
            log.debug("%s: %s is read without a trial, no Python interpreter is at hand", name, path)
            return
    except (subprocess.TimeoutExpired, TimeoutError):
        raise RegistrationError(
            f"{name}: {path} is damaged (it could not be read within {limit:.0f} s): make it again"
        ) from None
    except OSError:
        return  # no other process can be started here
    if code < 0 or code > 255:  # a signal, or the number of an exception of Windows
        raise RegistrationError(f"{name}: {path} is damaged (reading it crashed a process on trial): make it again")


def _interpreter() -> str | None:
    """Return the path of the Python that runs this, or None in a program that is no interpreter."""
    if getattr(sys, "frozen", False) or not sys.executable:
        return None
    known = re.match(r"(python|pypy)[\w.-]*$", Path(sys.executable).name, re.IGNORECASE)
    return sys.executable if known else None


def _forked(path: Path, limit: float) -> int:
    """Read the file in a fork of this process; return its exit code, negative for a signal."""
    import SimpleITK

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking is safe: the child calls one reader and ends
        child = os.fork()
    if child == 0:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            SimpleITK.ReadTransform(str(path))
        finally:
            os._exit(0)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise TimeoutError
