"""Ctrl-C ends a command within a second, also while a library does not return to Python."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

__all__ = ["GRACE_S", "interruptible"]

GRACE_S = 0.5
"""Seconds that the command has to end in its own way before it is ended."""


@contextmanager
def interruptible(code: int, message: str) -> Iterator[None]:
    """End the process with ``code`` when a ``KeyboardInterrupt`` by Ctrl-C gets nowhere for half a second.

    Python raises ``KeyboardInterrupt`` in the main thread, between two of its own instructions: a reader or a writer of
    ITK, or a sparse solver, may take seconds in between, and some libraries swallow it. A thread is told of the signal
    at once, and then removes what is half written and ends the process. The message is for standard error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    done, pressed = threading.Event(), threading.Event()
    # Standard error itself may be turned elsewhere while a library works.
    try:
        stderr: int | None = os.dup(2)
    except OSError:
        stderr = None
    arguments = (ours, done, pressed, code, message, stderr)
    watcher = threading.Thread(target=_watch, args=arguments, name="interrupt", daemon=True)
    watcher.start()
    hook = sys.unraisablehook
    # Callbacks of compilers swallow the exception; the thread does what it should have done.
    sys.unraisablehook = lambda found: None if found.exc_type is KeyboardInterrupt else hook(found)
    try:
        yield
    except click.exceptions.Exit as ending:
        done.set()
        # All is cleaned up and told. Python's own end would wait for what other threads still compute, and loses the
        # exit code where the exception has passed through code made from text.
        if ending.exit_code == code and pressed.wait(0.2):
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        raise
    finally:
        sys.unraisablehook = hook
        done.set()
        signal.set_wakeup_fd(before)
        theirs.close()
        watcher.join()
        ours.close()
        if stderr is not None:
            os.close(stderr)


def _watch(
    ours: socket.socket, done: threading.Event, pressed: threading.Event, code: int, message: str, stderr: int | None
) -> None:
    from itk_pdd.io import outputs

    while signals := ours.recv(64):
        if signal.SIGINT not in signals:
            continue
        pressed.set()
        if done.wait(GRACE_S):
            continue
        outputs.abandon()
        if stderr is not None:
            # Not through Python's streams, whose locks the main thread may hold.
            with suppress(OSError):
                os.write(stderr, f"{message}\n".encode())
        os._exit(code)
