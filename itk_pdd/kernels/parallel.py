"""Compile functions, and cache them in the user's folder."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import platformdirs
from numba.core import config, event
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys

from itk_pdd.kernels.pool import run

__all__ = ["allocating", "cache_folder", "compiled", "exactly_compiled", "inlined", "run"]

_log = logging.getLogger("itk_pdd")
_SHARED = ("arithmetic.py", "parallel.py", "slots.py", "vectors.py")
# Faster floating-point arithmetic; infinities and NaN keep their meaning.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz", "afn"}


def cache_folder() -> str:
    """Return the folder of the compiled kernels: ``NUMBA_CACHE_DIR`` if set, else one in the user's cache folder.

    Numba compiles a function again when its own file has changed. The hash in the folder's name does the same when a
    file changes whose functions are inlined into the kernels of others.
    """
    if config.CACHE_DIR:
        return config.CACHE_DIR
    shared = b"".join(Path(__file__).with_name(name).read_bytes() for name in _SHARED)
    folder = Path(platformdirs.user_cache_dir("itk_pdd", appauthor=False))
    return str(folder / f"kernels-{hashlib.sha256(shared).hexdigest()[:12]}")


@functools.cache
def _say_once(message: str) -> None:
    _log.info(message, extra={"announce": True})  # shown on a terminal without -v


class _Announcement(event.Listener):
    """Log once per process that kernels are being compiled."""

    def on_start(self, event: event.Event) -> None:
        function = getattr(event.data["dispatcher"], "py_func", None)
        if str(getattr(function, "__module__", None)).startswith("itk_pdd."):
            _say_once("compiling kernels (once per machine) ...")

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcement())


class _TolerantCache(FunctionCache):
    """A cache that does without a file that cannot be read or written, instead of raising."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            # FunctionCache.load_overload first loads all that numba can compile, and scipy.linalg for it: half a second
            # that only a compilation needs. What is compiled needs the functions that count references.
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except Exception as error:  # unpickling a damaged file may raise anything
            _log.warning("cannot use the compiled kernels in %s (%s): compiling again", self.cache_path, error)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _log.warning("cannot keep the compiled kernels in %s (%s)", self.cache_path, error)


def inlined(function: Callable) -> Callable:
    """Decorate a function that only compiled functions call: in its own file or, for ``_SHARED`` files, in any.

    It must not allocate arrays. Otherwise numba counts references with atomic operations at every call, which the
    optimiser cannot remove once there are branches: they took two thirds of the time of small loops.
    """
    return _kept_with_callers(function, _nrt=False)


def allocating(function: Callable) -> Callable:
    """Decorate a function like :func:`inlined` that allocates arrays; it should not be called in inner loops."""
    return _kept_with_callers(function)


def _kept_with_callers(function: Callable, **options: Any) -> Callable:
    return numba.njit(nogil=True, fastmath=_FASTMATH, error_model="numpy", no_cpython_wrapper=True, **options)(function)


def compiled(function: Callable) -> Callable:
    """Decorate a function that is compiled on first use, cached, and run without the interpreter lock.

    If the cache folder cannot be written, numba tries its own choices; without any, each process compiles the
    function again.
    """
    return _cached(function, _FASTMATH)


def exactly_compiled(function: Callable) -> Callable:
    """Decorate a function like :func:`compiled` whose floating-point operations keep their order and rounding."""
    return _cached(function, False)


def _cached(function: Callable, fastmath: Any) -> Callable:
    dispatcher = numba.njit(nogil=True, fastmath=fastmath, error_model="numpy")(function)
    before = config.CACHE_DIR
    try:
        # Restored below: other packages keep their own cache folder.
        config.CACHE_DIR = cache_folder()
        dispatcher._cache = _TolerantCache(function)
    except (RuntimeError, OSError):
        _say_once("compiled kernels are not kept: no cache folder can be written")
    finally:
        config.CACHE_DIR = before
    return dispatcher
