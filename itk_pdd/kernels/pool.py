"""Run compiled functions in several threads, which take the work in pieces and do not wait for each other in between.

A piece takes about a millisecond, however long an item takes: a thread that loses its processor to another program
holds no more than that. Work that takes less than waking a thread is done by the caller alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from itk_pdd.kernels.threads import threads

__all__ = ["run"]

_SHORT = 4e-4
"""Seconds of work that are not shared: to wake a thread and to wait for it takes a tenth of that."""
_SHARED_PIECE = (5e-5, 1e-3)
"""Least and most seconds of a piece where several threads work."""
_PIECE_ALONE = 0.05
"""Seconds of a piece of a single thread: Ctrl-C is noticed between two pieces."""
_MOST_REMEMBERED = 4096

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = threading.Lock()
_paces: dict[tuple[Callable, int], float] = {}
"""Seconds per item of earlier calls, by kernel and number of items."""


def _after_fork() -> None:
    """Forget the threads of the parent in a forked process, where they do not exist."""
    global _pool, _pool_size, _pool_lock
    _pool, _pool_size, _pool_lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _helpers(number: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _pool_lock:
        if _pool is None or _pool_size < number:
            _pool = ThreadPoolExecutor(number, thread_name_prefix="itk_pdd")
            _pool_size = number
        return _pool


class _Work:
    """The items of one call of :func:`run`, of which each thread takes one piece after the other."""

    def __init__(self, kernel: Callable, count: int, arguments: tuple[Any, ...], grain: int, pace: float) -> None:
        self._kernel, self._count, self._arguments, self._grain = kernel, count, arguments, grain
        self._next, self._lock = 0, threading.Lock()
        self._pace, self.seconds = pace, 0.0
        self.threads = 1

    def _take(self, taken: int, seconds: float) -> tuple[int, int]:
        """Get the next piece, (0, 0) if none is left; tell the seconds that the last one took."""
        with self._lock:
            if taken:
                self._pace = seconds / taken
                self.seconds += seconds
            first, rest = self._next, self._count - self._next
            if rest <= 0:
                return 0, 0
            size = self._grain
            if self._pace:
                pieces = (seconds / self._pace for seconds in _SHARED_PIECE)
                least, most = pieces if self.threads > 1 else (_PIECE_ALONE / self._pace,) * 2
                even = rest / (2 * self.threads)
                size = max(size, int(min(most, max(least, even))) // size * size)
            self._next = first + min(size, rest)
            return first, self._next

    def work(self) -> None:
        """Work until nothing is left, or a thread failed."""
        size, seconds = 0, 0.0
        try:
            while True:
                first, last = self._take(size, seconds)
                if last == 0:
                    return
                started = time.perf_counter()
                self._kernel(first, last, *self._arguments)
                size, seconds = last - first, time.perf_counter() - started
        except BaseException:
            self._next = self._count
            raise


def run(kernel: Callable, count: int, *arguments: Any, grain: int = 1) -> None:
    """Call ``kernel(first, last, *arguments)`` on parts of ``range(count)``, in all threads (see :mod:`.threads`).

    The kernel must release the interpreter lock and write to different places for different items. Numba's own
    parallel loops take several times as long to compile, and with some threading libraries they abort the process
    after a fork or when two threads call them.

    Parameters
    ----------
    kernel : callable
        A compiled function.
    count : int
        Number of items.
    *arguments
        Further arguments of the kernel.
    grain : int
        Least items per call, of which each call gets a multiple. A larger value suits kernels that prepare much before
        the first item.
    """
    pace = _paces.get((kernel, count), 0.0)
    number = min(threads(), -(-count // grain))
    if 0 < pace * count < _SHORT:
        number = 1
    work = _Work(kernel, count, arguments, grain, pace)
    if number <= 1:
        work.work()
    else:
        work.threads = number
        futures = [_helpers(number - 1).submit(work.work) for _ in range(number - 1)]
        try:
            work.work()
        finally:
            # No work is left, or a thread failed: cancel what has not started, wait for the rest.
            errors = [f.exception() for f in futures if not f.cancel()]
        for error in errors:
            if error is not None:
                raise error
    if len(_paces) >= _MOST_REMEMBERED:
        _paces.clear()
    if count > 0:
        _paces[kernel, count] = work.seconds / count
