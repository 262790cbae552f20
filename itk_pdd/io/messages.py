"""Messages of the file libraries: their errors in one line, and what they print in the log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

__all__ = ["READ_ERRORS", "itk_reason", "library_messages"]

log = logging.getLogger("itk_pdd")

READ_ERRORS = (RuntimeError, MemoryError, UnicodeDecodeError)
"""SimpleITK raises these about a file; the last one where a message quotes bytes of the file that are no text."""


def itk_reason(error: BaseException) -> str:
    """The last line of a message of ITK, without its file names, addresses and line numbers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in reversed(lines) if "rror:" in line or "ERROR:" in line), lines[-1] if lines else "")
    line = line.split("ERROR:")[-1].split("Error:")[-1].strip()
    if line.startswith(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) and "(0x" in line and "): " in line:
        line = line.split("): ", 1)[1]
    return line.rstrip(".") or type(error).__name__


@contextlib.contextmanager
def library_messages() -> Iterator[None]:
    """Send what C libraries print on standard error (HDF5's traces, for instance) to the log instead."""
    try:
        descriptor = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(descriptor, 2)
            os.close(descriptor)
            caught.seek(0)
            text = caught.read().decode(errors="replace").strip()
            if text:
                log.debug("messages of the file library:\n%s", text)
