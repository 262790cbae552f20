"""A small slice of ``benchmarks/endurance.py``: memory that does not grow, threads and processes at once."""

from __future__ import annotations

import pytest
from benchmarks.endurance import at_once, growth


def test_memory_does_not_grow() -> None:
    slope, _ = growth(24, 12)
    assert slope < 0.5, "MB per registration of images of 0.1 MB"


@pytest.mark.slow
def test_threads_and_processes_at_once() -> None:
    assert at_once([0, 1, 2, 3], threads=3, processes=2) == {"threads": True, "processes": True}
