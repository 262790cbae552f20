"""Set the number of threads of SimpleITK's filters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["simpleitk_threads"]


@contextmanager
def simpleitk_threads(count: int | None) -> Iterator[None]:
    """Let SimpleITK's filters work on ``count`` threads; on as many as before if None."""
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(count or before)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
