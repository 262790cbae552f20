"""Corresponding landmarks of two images: read, named and checked."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.points import read_points

__all__ = ["DEFAULT_UNCERTAINTY_VOXELS", "LandmarkError", "Landmarks", "read_landmarks"]

DEFAULT_UNCERTAINTY_VOXELS = 0.5
"""Standard deviation of a landmark that has no other, in voxels of the fixed image (their geometric mean)."""


@dataclass(frozen=True)
class Landmarks:
    """Points of the fixed image and where they lie in the moving image."""

    fixed: np.ndarray  # positions (n, dim) in physical (LPS) millimetres, components x, y, z
    moving: np.ndarray
    sigma: np.ndarray  # standard deviation of each pair in millimetres (n,)
    names: tuple[str, ...]  # what each is called: a name in a file, or its number counted from 0
    exact: bool = False  # make the field meet every landmark that is obeyed, whatever its uncertainty

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class LandmarkError:
    """Hold what came of a landmark."""

    name: str  # its name or number
    before: float  # distance in millimetres of its place in the moving image from that where the registration started
    after: float  # the same from that of the result
    ignored: str = ""  # why it was not obeyed; empty if it was


def read_landmarks(
    fixed: Any, moving: Any, *, uncertainty: Any = None, exact: bool = False, grids: tuple[Grid, Grid]
) -> Landmarks:
    """Read corresponding landmarks and check them against the images, on their ``grids``.

    They are points (n, dim) in physical (LPS) millimetres, or a file of points (see
    :func:`itk_pdd.io.points.read_points`), or a CSV file of both images with the columns fixed_x, ..., moving_z. Where
    both have names, points of the same name correspond, else those at the same place in the list. Surfaces correspond
    vertex by vertex. ``uncertainty`` is a standard deviation in millimetres, one for all or one for each.
    RegistrationError if the points do not correspond, lie outside of their image, or the uncertainty makes no sense.
    """
    dimension = grids[0].dimension
    (own, own_names), (other, other_names) = (
        _points(given, side, dimension) for given, side in ((fixed, "fixed"), (moving, "moving"))
    )
    if len(own) != len(other):
        raise RegistrationError(
            f"fixed_points are {len(own)} points and moving_points {len(other)}, expected as many: leave out those of "
            "one image alone"
        )
    if own_names and other_names:
        if sorted(own_names) != sorted(other_names) or len(set(own_names)) < len(own_names):
            odd = sorted(set(own_names) ^ set(other_names)) or ["one of them twice"]
            raise RegistrationError(
                f"fixed_points and moving_points have other names ({', '.join(odd[:5])}), expected the same in both"
            )
        other = other[[other_names.index(name) for name in own_names]]
    elif (own_names or other_names) and all(isinstance(given, str | os.PathLike) for given in (fixed, moving)):
        named, unnamed = ("fixed", "moving") if own_names else ("moving", "fixed")
        warn(
            f"{unnamed}_points have no names, or a name twice, while {named}_points have: the points are matched by "
            "their order"
        )
    names = own_names or other_names or [str(i) for i in range(len(own))]
    for points, grid, side in zip((own, other), grids, ("fixed", "moving"), strict=True):
        outside = np.flatnonzero(~grid.contains(points))
        if len(outside):
            first = int(outside[0])
            place = ", ".join(f"{value:.6g}" for value in points[first])
            raise RegistrationError(
                f"{side}_points: {len(outside)} of {len(points)} points lie outside of the {side} image (the first is "
                f"{names[first]}, at {place} mm): check the coordinate system (LPS)"
            )
    voxel = float(np.prod(grids[0].spacing) ** (1 / dimension))
    return Landmarks(own, other, _sigma(uncertainty, len(own), voxel), tuple(names), bool(exact))


def _sigma(given: Any, count: int, voxel: float) -> np.ndarray:
    try:
        values = np.asarray(DEFAULT_UNCERTAINTY_VOXELS * voxel if given is None else given, dtype=float)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise RegistrationError(
            f"point_uncertainty has the shape {values.shape}, expected one number or {count}, one for each point"
        )
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise RegistrationError(f"point_uncertainty is {given!r}, expected millimetres from 0 on")
    return np.broadcast_to(values, count).astype(float)


def _points(given: Any, side: str, dimension: int) -> tuple[np.ndarray, list[str]]:
    """Read the points of one image, and their names where they have some."""
    name = f"{side}_points"
    if isinstance(given, str | os.PathLike):
        both = _table_of_both(Path(given), side, dimension, name)
        if both is not None:
            return both
        file = read_points(given, dimension=dimension, name=name)
        return file.own, list(file.names)
    try:
        points = np.array(given, dtype=float)
    except (TypeError, ValueError):
        raise RegistrationError(f"{name} are a {type(given).__name__}, expected points (n, {dimension})") from None
    if points.ndim != 2 or points.shape[1] != dimension or not len(points):
        raise RegistrationError(f"{name} are an array of shape {points.shape}, expected (n, {dimension}) in mm")
    if not np.isfinite(points).all():
        raise RegistrationError(f"{name} hold NaN or infinite coordinates, expected finite numbers")
    return points, []


def _table_of_both(path: Path, side: str, dimension: int, name: str) -> tuple[np.ndarray, list[str]] | None:
    """Read the points of one image from a CSV file of both images; None if it is no such file."""
    if path.suffix.lower() != ".csv" or not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        reader.fieldnames = [cell.strip().lower() for cell in reader.fieldnames or []]
        columns = [f"{side}_{axis}" for axis in "xyz"[:dimension]]
        if not set(columns) <= set(reader.fieldnames):
            return None
        try:
            rows = list(reader)
            points = np.array([[float(row[column]) for column in columns] for row in rows]).reshape(-1, dimension)
        except (TypeError, ValueError, csv.Error):
            raise RegistrationError(f"{name}: {path} has cells that are no numbers in {', '.join(columns)}") from None
    if not len(points) or not np.isfinite(points).all():
        raise RegistrationError(f"{name}: {path} must have finite numbers in {', '.join(columns)}, in at least one row")
    key = next((each for each in ("name", "label", "id") if each in reader.fieldnames), None)
    return points, [] if key is None else [row[key].strip() for row in rows]
