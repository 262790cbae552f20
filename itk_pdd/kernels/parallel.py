"""Compiled functions: where they are cached, when that is announced, and how they are shared among threads."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
from numba.core import config, event
from numba.core.caching import FunctionCache

__all__ = ["allocating", "cache_folder", "compiled", "inlined", "run"]

_log = logging.getLogger("itk_pdd")
_SHARED = ("arithmetic.py", "costs_cpu.py", "parallel.py", "vectors.py")
# Faster floating-point arithmetic where it does no harm; infinities and NaN keep their meaning.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}


def cache_folder() -> str:
    """Folder of the compiled kernels: ``NUMBA_CACHE_DIR`` if set, else one in the user's cache folder.

    Numba compiles a function again when its own file has changed; for what the kernels share there is the hash.
    """
    if config.CACHE_DIR:
        return config.CACHE_DIR
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    shared = b"".join(Path(__file__).with_name(name).read_bytes() for name in _SHARED)
    return str(Path(base) / "itk_pdd" / f"kernels-{hashlib.sha256(shared).hexdigest()[:12]}")


@functools.cache
def _say_once(message: str) -> None:
    _log.info(message)


class _Announcement(event.Listener):
    """Says once per process that kernels are being compiled."""

    def on_start(self, event: event.Event) -> None:
        function = getattr(event.data["dispatcher"], "py_func", None)
        if str(getattr(function, "__module__", None)).startswith("itk_pdd."):
            _say_once("compiling kernels (once per machine) ...")

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcement())


class _TolerantCache(FunctionCache):
    """A cache that a full disk, a folder that became read-only or a damaged file only makes useless."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # whatever unpickling a damaged file may raise
            _log.warning("cannot use the compiled kernels in %s (%s): compiling again", self.cache_path, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _log.warning("cannot keep the compiled kernels in %s (%s)", self.cache_path, error)


def inlined(function: Callable) -> Callable:
    """Decorator: compile a function that only compiled ones call: those of its file or, for ``_SHARED`` files, of any.

    It must not allocate arrays. Numba counts the references to them otherwise, with atomic operations at every call
    that no optimisation takes out again once there are branches: that took two thirds of the time of small loops.
    """
    return _kept_with_callers(function, _nrt=False)


def allocating(function: Callable) -> Callable:
    """Decorator: as :func:`inlined`, for a function that makes arrays, which should not be called often."""
    return _kept_with_callers(function)


def _kept_with_callers(function: Callable, **options: Any) -> Callable:
    return numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy", no_cpython_wrapper=True, **options)(function)


def compiled(function: Callable) -> Callable:
    """Decorator: compile a function on first use, without the interpreter lock, cached in the user's cache folder.

    Where that folder cannot be written, numba falls back on its own choices; where none can be written, the function
    is compiled in every process.
    """
    dispatcher = numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy")(function)
    before = config.CACHE_DIR
    try:
        # Only while this function is decorated: other packages keep their own cache.
        config.CACHE_DIR = cache_folder()
        dispatcher._cache = _TolerantCache(function)
    except (RuntimeError, OSError):
        _say_once("compiled kernels are not kept: no cache folder can be written")
    finally:
        config.CACHE_DIR = before
    return dispatcher


_PIECES = 32  # of the work of a single thread

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = threading.Lock()


def _forget_pool() -> None:
    """In a forked process the threads of its parent do not exist."""
    global _pool, _pool_size, _pool_lock
    _pool, _pool_size, _pool_lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _helpers(number: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _pool_lock:
        if _pool is None or _pool_size < number:
            _pool = ThreadPoolExecutor(number, thread_name_prefix="itk_pdd")
            _pool_size = number
        return _pool


def run(kernel: Callable, count: int, *arguments: Any, grain: int = 1) -> None:
    """Call ``kernel(first, last, *arguments)`` for parts of ``range(count)``, in as many threads as torch uses.

    The kernel must release the interpreter lock and write to different places for different items. Numba's own
    parallel loops are not used: they take several times as long to compile, and depending on the threading library at
    hand they abort the process when it was forked or when two threads call them.

    Parameters
    ----------
    kernel : callable
        A compiled function.
    count : int
        Number of items.
    *arguments
        Passed on.
    grain : int
        Items taken at a time.
    """
    import torch

    threads = min(torch.get_num_threads(), -(-count // grain))
    if threads <= 1:
        # In pieces, between which Python sees that Ctrl-C was pressed.
        piece = max(grain, -(-count // _PIECES))
        for first in range(0, count, piece):
            kernel(first, min(first + piece, count), *arguments)
        return
    tickets = itertools.count()  # next() on it is atomic
    failed = threading.Event()

    def work() -> None:
        try:
            while not failed.is_set() and (first := next(tickets) * grain) < count:
                kernel(first, min(first + grain, count), *arguments)
        except BaseException:
            failed.set()
            raise

    futures = [_helpers(threads - 1).submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        # Nothing is left to do, or something failed: what has not started need not, what has must finish.
        errors = [f.exception() for f in futures if not f.cancel()]
    for error in errors:
        if error is not None:
            raise error
