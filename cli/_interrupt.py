"""End a command within a second after Ctrl-C, SIGTERM or SIGHUP, also while a library does not return to Python."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

import click

__all__ = ["GRACE_S", "interruptible"]

GRACE_S = 0.5
"""Seconds that the command has to end in its own way before it is ended."""

# Windows has no SIGHUP. SIGINT is handled by Python itself.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class _State:
    """Hold the state that the main thread and the watching thread share."""

    code: int  # after Ctrl-C
    message: str
    stderr: int | None
    done: threading.Event = field(default_factory=threading.Event)
    told: threading.Event = field(default_factory=threading.Event)
    signal: int = signal.SIGINT

    def exit_code(self) -> int:
        """128 plus the number of the signal, as shells report it."""
        return self.code if self.signal == signal.SIGINT else 128 + self.signal


@contextmanager
def interruptible(code: int, message: str) -> Iterator[None]:
    """End the process with ``code`` if a ``KeyboardInterrupt`` by Ctrl-C gets nowhere for half a second.

    Python raises ``KeyboardInterrupt`` in the main thread, between two of its own instructions: a reader or a writer of
    ITK, or a sparse solver, may take seconds in between, and some libraries swallow it. A thread is told of the signal
    at once; it then removes half-written files and ends the process, with ``message`` where the command did not get to
    say one. SIGTERM and SIGHUP do the same, with the exit codes 143 and 129. A signal that is ignored (``nohup``) or
    has a handler already keeps it.
    """
    _ensure_stderr()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    # Standard error itself may be turned elsewhere while a library works.
    try:
        stderr: int | None = os.dup(2)
    except OSError:
        stderr = None
    state = _State(code, message, stderr)
    watcher = threading.Thread(target=_watch, args=(ours, state), name="interrupt", daemon=True)
    watcher.start()
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in handlers.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    hook = sys.unraisablehook
    # Callbacks of compilers swallow the exception; the thread does what it should have done.
    sys.unraisablehook = lambda found: None if found.exc_type is KeyboardInterrupt else hook(found)
    try:
        yield
    except click.exceptions.Exit as ending:
        state.done.set()
        # The files are cleaned up and the message is out. Python's own end would wait for what other threads still
        # compute, and loses the exit code where the exception has passed through code made from text.
        if ending.exit_code == code and state.told.wait(0.2):
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(state.exit_code())
        raise
    finally:
        sys.unraisablehook = hook
        state.done.set()
        for number, handler in handlers.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        theirs.close()
        watcher.join()
        ours.close()
        if stderr is not None:
            os.close(stderr)


def _ensure_stderr() -> None:
    """Give a process without standard error (pythonw, services) one that goes nowhere.

    Otherwise the next file that is opened would get its number, and receive what libraries print.
    """
    try:
        os.fstat(2)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != 2:
            os.dup2(nowhere, 2)
            os.close(nowhere)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(ours: socket.socket, state: _State) -> None:
    from itk_pdd.io import outputs

    while signals := ours.recv(64):
        found = next((number for number in signals if number == signal.SIGINT or number in _ENDING), None)
        if found is None:
            continue
        state.signal = found
        state.told.set()
        if state.done.wait(GRACE_S):
            continue
        outputs.abandon()
        if state.stderr is not None:
            # Not through Python's streams, whose locks the main thread may hold.
            with suppress(OSError):
                os.write(state.stderr, f"{state.message}\n".encode())
        os._exit(state.exit_code())
