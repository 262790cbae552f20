"""What all files of points have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from itk_pdd.errors import RegistrationError

__all__ = ["PointFile", "finite", "to_lps"]


@dataclass(frozen=True)
class PointFile:
    """The points of a file, and how to write the file again with other ones.

    Parameters
    ----------
    points : numpy.ndarray
        Positions (n, dim) in physical LPS millimetres, components x, y, z.
    rewrite : callable
        Takes positions of the same shape, LPS, to the content of the file with these; all else stays as it was.
    system : {"LPS", "RAS"}
        Coordinate system of the file.
    stated : bool
        Whether the file says so itself.
    """

    points: np.ndarray
    rewrite: Callable[[np.ndarray], bytes]
    system: str
    stated: bool


def to_lps(file: PointFile) -> PointFile:
    """A file whose points and writer are in its own system, brought to LPS."""
    if file.system == "LPS":
        return file
    signs = np.ones(file.points.shape[-1])
    signs[:2] = -1
    return replace(file, points=file.points * signs, rewrite=lambda points: file.rewrite(points * signs))


def finite(points: np.ndarray, name: str) -> None:
    """Refuse a file without points, or with some that are not finite."""
    if not len(points):
        raise RegistrationError(f"{name} holds no points")
    if not np.isfinite(points).all():
        number = int(np.argmax(~np.isfinite(points).all(axis=-1)))
        raise RegistrationError(f"{name}: point {number} (counted from 0) is not finite: take it out")
