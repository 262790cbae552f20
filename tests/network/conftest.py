"""Interpolation written as a definition, to test against."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest


def _linear(values: np.ndarray, point: tuple[float, ...]) -> np.ndarray:
    """Multilinear interpolation of (C, *spatial) at one point, border continued, corner by corner."""
    point = [min(max(p, 0), n - 1) for p, n in zip(point, values.shape[1:], strict=True)]
    result = np.zeros(len(values))
    for corner in itertools.product((0, 1), repeat=len(point)):
        weight, index = 1.0, []
        for p, c, n in zip(point, corner, values.shape[1:], strict=True):
            low = int(np.floor(p))
            weight *= p - low if c else 1 - (p - low)
            index.append(min(low + c, n - 1))
        result += weight * values[(slice(None), *index)]
    return result


@pytest.fixture(scope="session")
def linear() -> Callable[[np.ndarray, tuple[float, ...]], np.ndarray]:
    """Interpolate an array (C, *spatial) at one point (z,) y, x."""
    return _linear
