"""The parts that all readers of point files share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from itk_pdd.errors import RegistrationError

__all__ = [
    "PointFile",
    "decimal",
    "distinct",
    "finite",
    "number_text",
    "placed",
    "stated_space",
    "stated_system",
    "to_lps",
]

_SPACE = re.compile(rb"SPACE=(LPS|RAS)")
# Slicer wrote numbers once.
_SYSTEMS = {"0": "RAS", "1": "LPS", "RAS": "RAS", "LPS": "LPS"}


@dataclass(frozen=True)
class PointFile:
    """The points of a file, and how to write the file again with other ones."""

    points: np.ndarray  # positions (n, dim) in physical LPS millimetres, components x, y, z
    # takes positions of the same shape, LPS, to the content of the file with these; all else stays as it was
    rewrite: Callable[[np.ndarray], bytes]
    system: str  # "LPS", "RAS": coordinate system of the file
    stated: bool  # True if the file names its coordinate system
    # how many of the last points are no points of the file, but places by which a box or a plane in it is turned
    handles: int = 0
    names: tuple[str, ...] = ()  # a name for each point of the file, all different; empty where it has not

    @property
    def own(self) -> np.ndarray:
        """The points without the handles."""
        return self.points[: len(self.points) - self.handles]


def to_lps(file: PointFile, *, unit: float = 1.0) -> PointFile:
    """Bring points and writer of a file from its own system and unit (in millimetres) to LPS millimetres."""
    factors = np.full(file.points.shape[-1], unit)
    if file.system == "RAS":
        factors[:2] *= -1
    if (factors == 1).all():
        return file
    return replace(file, points=file.points * factors, rewrite=lambda points: file.rewrite(points / factors))


def stated_system(found: str, asked: str | None, name: str) -> str:
    """Return the coordinate system a file names; refuse it if another one was asked for."""
    own = _SYSTEMS.get(found.upper())
    if own is None:
        if asked is None:
            raise RegistrationError(
                f"{name} names the coordinate system {found!r}, expected LPS or RAS: say which one it is"
            )
        return asked
    if asked not in (None, own):
        raise RegistrationError(f"{name} says that its points are {own}, but {asked} was asked for: leave that out")
    return own


def stated_space(head: bytes, asked: str | None, name: str) -> tuple[str, bool]:
    """Return the system that 3D Slicer's "SPACE=" in a header names, else LPS, and True if it is named there."""
    told = _SPACE.search(head)
    if told is None:
        return asked or "LPS", False
    return stated_system(told[1].decode(), asked, name), True


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of points if each has one of its own, else none."""
    return tuple(names) if all(names) and len(set(names)) == len(names) else ()


def finite(points: np.ndarray, name: str) -> None:
    """Refuse a file without points, or with some that are not finite."""
    if not len(points):
        raise RegistrationError(f"{name} holds no points")
    if not np.isfinite(points).all():
        number = int(np.argmax(~np.isfinite(points).all(axis=-1)))
        raise RegistrationError(f"{name}: point {number} (counted from 0) is not finite: take it out")


def placed(points: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Replace as many coordinates as are moved."""
    new = points.copy()
    new[:, : moved.shape[1]] = moved
    return new


def decimal(value: float) -> str:
    """Write a coordinate with 6 decimals, and with up to 12 where they say more (images of micrometres)."""
    whole, _, fraction = f"{round(float(value), 12) + 0.0:.12f}".rstrip("0").partition(".")  # no -0
    return f"{whole}.{fraction:0<6}"


def number_text(values: np.ndarray, digits: int) -> bytes:
    """Write numbers with so many digits at most, separated by blanks."""
    return " ".join(f"{value:.{digits}g}" for value in values).encode()
