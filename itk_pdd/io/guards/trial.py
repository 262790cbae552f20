"""Files read on trial by another process, where a library is known not to survive all damaged ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from itk_pdd.errors import RegistrationError

__all__ = ["check_hdf5"]

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

    Damaged files make it go round in circles (and impossible grids make ITK write beyond its memory), from which no
    process comes back; reading one on trial takes about half a second.

    Parameters
    ----------
    path : pathlib.Path
        An existing file.
    name : str
        What to call it in errors.

    Raises
    ------
    RegistrationError
        If the process that read it crashed or took too long.
    """
    limit = _SECONDS + path.stat().st_size / _BYTES_PER_SECOND
    try:
        command = [sys.executable, "-P", "-c", _CODE, str(path.resolve())]
        code = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        raise RegistrationError(
            f"{name}: {path} is damaged (it could not be read within {limit:.0f} s): make it again"
        ) from None
    except OSError:
        return  # no other process can be started here
    if code < 0:
        raise RegistrationError(f"{name}: {path} is damaged (reading it crashed a process on trial): make it again")
