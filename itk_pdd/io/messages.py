"""Messages of the file libraries: their errors in one line, and their prints in the log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from itk_pdd.errors import RegistrationError

__all__ = ["READ_ERRORS", "check_file_name", "itk_reason", "library_messages", "read_text", "system_reason"]

log = logging.getLogger("itk_pdd")

READ_ERRORS = (RuntimeError, MemoryError, UnicodeDecodeError)
"""SimpleITK raises these about a file; the last one where a message quotes bytes of the file that are no text."""

# Held by the one thread that has turned standard error away.
_redirecting = threading.Lock()
_descriptor: int | None = None  # the real standard error meanwhile


def itk_reason(error: BaseException) -> str:
    """Return the last line of a message of ITK, without its file names, addresses and line numbers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next((line for line in reversed(lines) if "rror:" in line or "ERROR:" in line), lines[-1] if lines else "")
    line = line.split("ERROR:")[-1].split("Error:")[-1].strip()
    if line.startswith(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")) and "(0x" in line and "): " in line:
        line = line.split("): ", 1)[1]
    return line.rstrip(".") or type(error).__name__


def system_reason(error: OSError) -> str:
    """Return the system's text for an error, without error numbers and file names."""
    return (error.strerror or str(error)).lower()


def read_text(path: Path, expected: str, *, name: str) -> str:
    """Read a text file in UTF-8; ``expected`` tells in an error what it should hold."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RegistrationError(f"{name}: {path} cannot be read ({system_reason(error)})") from error
    except UnicodeDecodeError as error:
        raise RegistrationError(f"{name}: {path} is no text, expected {expected}") from error


def check_file_name(path: str | os.PathLike[str], *, name: str, error: type[RegistrationError]) -> None:
    """Refuse a file name that is not UTF-8, by an ``error``: ITK ends the process over it."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise error(f"{name}: the file name {os.fspath(path)!a} is not UTF-8, which ITK needs: rename it") from None


@contextlib.contextmanager
def library_messages() -> Iterator[None]:
    """Send what C libraries print on standard error (HDF5's traces, for instance) to the log instead.

    Standard error belongs to the whole process: while one thread has turned it away, others leave it as it is.
    """
    global _descriptor
    if not _redirecting.acquire(blocking=False):
        yield
        return
    try:
        with contextlib.ExitStack() as stack:
            try:
                caught = stack.enter_context(_memory_file())
                _descriptor = os.dup(2)
            except OSError:  # no standard error, or no room for a temporary file
                yield
                return
            _flush()
            os.dup2(caught.fileno(), 2)
            try:
                yield
            finally:
                _flush()
                os.dup2(_descriptor, 2)
                os.close(_descriptor)
                _descriptor = None
                caught.seek(0)
                if text := caught.read().decode(errors="replace").strip():
                    log.debug("messages of the file library:\n%s", text)
    finally:
        _redirecting.release()


def _memory_file() -> BinaryIO:
    """Open a nameless file, in memory where the system can: there may be no temporary folder."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("itk_pdd"), "w+b")
    return tempfile.TemporaryFile()


def _flush() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # there may be no stream, or a closed one
        sys.stderr.flush()


def _restore_in_child() -> None:
    """Give a forked process its standard error: the thread that would restore it does not exist there."""
    global _redirecting, _descriptor
    if _descriptor is not None:
        os.dup2(_descriptor, 2)
    _redirecting, _descriptor = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restore_in_child)
