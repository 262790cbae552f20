"""Grey values of a page: intensities as 256 codes, and the window in which two images are shown."""

from __future__ import annotations

import numpy as np

__all__ = ["Knots", "encode", "knots_of", "windows"]

Knots = tuple[tuple[float, float], ...]
"""Codes with the intensities they stand for, both ascending; between two of them both run evenly."""

_MARGIN = 24  # codes below and above the window: enough to widen it, and 208 grey levels remain within
_AIR = -100.0  # no other modality has intensities so far below 0 as Hounsfield units


def knots_of(array: np.ndarray, limits: tuple[float, float]) -> Knots:
    """Spread 256 codes: most within the limits, some for the intensities below and above them."""
    low, high = limits
    least, most = float(array.min()), float(array.max())
    below = [(0.0, least)] if least < low else []
    above = [(255.0, most)] if most > high else []
    return (*below, (_MARGIN * len(below), low), (255.0 - _MARGIN * len(above), high), *above)


def encode(array: np.ndarray, knots: Knots) -> np.ndarray:
    """Encode intensities as uint8."""
    codes, values = zip(*knots, strict=True)
    return np.rint(np.interp(array, values, codes)).astype(np.uint8)


def windows(fixed: Knots, moving: Knots) -> tuple[tuple[float, float], tuple[float, float]]:
    """Choose the intensities shown as black and white for two images: the same for both where their unit is the same.

    It is taken for the same where both reach below -100, as CT in Hounsfield units does, or where the windows of the
    two overlap by at least three quarters of what they cover together.
    """
    first, second = (_limits(knots) for knots in (fixed, moving))
    low, high = min(first[0], second[0]), max(first[1], second[1])
    common = min(first[1], second[1]) - max(first[0], second[0])
    hounsfield = all(knots and knots[0][1] <= _AIR for knots in (fixed, moving))
    if hounsfield or (fixed and moving and common >= 0.75 * (high - low)):
        return (low, high), (low, high)
    return first, second


def _limits(knots: Knots) -> tuple[float, float]:
    """Return the intensities of the two middle knots."""
    if not knots:
        return 0.0, 255.0
    low = knots[1] if knots[1][0] == _MARGIN else knots[0]
    high = knots[-2] if knots[-2][0] == 255 - _MARGIN else knots[-1]
    return low[1], high[1]
