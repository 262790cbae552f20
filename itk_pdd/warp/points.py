"""Points moved by transforms, in the direction that is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.chain import as_chain
from itk_pdd.io.formats.landmarks import read_csv, read_fcsv, read_markups
from itk_pdd.io.formats.pointfile import PointFile
from itk_pdd.io.formats.vtk import read_vtk

__all__ = ["POINT_EXTENSIONS", "read_points", "warp_points"]

_READERS = {".csv": read_csv, ".fcsv": read_fcsv, ".json": read_markups, ".vtk": read_vtk}
POINT_EXTENSIONS = tuple(_READERS)
"""Formats of points: tables, 3D Slicer's fiducials and markups, VTK's legacy files."""

_REACHED = 0.01  # millimetres: a point farther from the given one than this is no inverse


def read_points(
    path: str | os.PathLike[str], *, dimension: int = 3, system: str | None = None, name: str = "points"
) -> PointFile:
    """Read the points of a file.

    Parameters
    ----------
    path : path-like
        ``.csv`` with columns x, y, z (as ANTs' tables), 3D Slicer's ``.fcsv`` or ``.mrk.json``, or a legacy ``.vtk``
        file.
    dimension : int
        Number of coordinates; in 2-D a third one is left alone.
    system : {"LPS", "RAS", None}
        Coordinate system. By default what the file says; LPS where it says nothing (CSV, VTK).
    name : str
        What to call it in errors.

    Returns
    -------
    PointFile
        Points in LPS millimetres, and how to write the file again in its own system.

    Raises
    ------
    RegistrationError
        If it is no such file, holds no points or not finite ones, or says another system than ``system``.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise RegistrationError(f"{name}: {path} is no file of points, expected one of {', '.join(POINT_EXTENSIONS)}")
    if system not in (None, "LPS", "RAS"):
        raise RegistrationError(f"system is {system!r}, expected 'LPS', 'RAS' or None")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RegistrationError(f"{name}: {path} cannot be read ({(error.strerror or str(error)).lower()})") from error
    return reader(content, dimension, system, f"{name} ({path})")


def warp_points(points: Any, transform: Any, *, to: str, outside: str = "error") -> np.ndarray:
    """Move points from one image to the other.

    Parameters
    ----------
    points : array-like, str or path-like
        Points (n, dim) in physical (LPS) millimetres, components x, y, z; or a file of points.
    transform : transform, matrix, DisplacementField, str, path-like or list
        From fixed to moving points, as :func:`itk_pdd.register` returns it and as an image is resampled with; see
        :func:`itk_pdd.warp_image`.
    to : {"fixed", "moving"}
        Where the points go. "moving" takes points of the fixed image to the moving image: the transform itself.
        "fixed" takes points of the moving image (its landmarks, say) to the fixed image, where the warped image
        lies: this needs the inverse, which is computed for every point to 0.0001 mm.
    outside : {"error", "nearest"}
        What to do with points that lie, or get, outside of a displacement field or B-spline: refuse them, or move
        them by the nearest displacement.

    Returns
    -------
    numpy.ndarray
        Points (n, dim), float64.

    Raises
    ------
    RegistrationError
        If the points are no such array, some lie outside the field, or no point of the fixed image is mapped to some
        (the field folds there).
    """
    if to not in ("fixed", "moving"):
        raise RegistrationError(
            f"to is {to!r}, expected 'fixed' (points of the moving image to the fixed one) or 'moving' (the other way)"
        )
    if outside not in ("error", "nearest"):
        raise RegistrationError(f"outside is {outside!r}, expected 'error' or 'nearest'")
    chain = as_chain(transform)
    if isinstance(points, str | os.PathLike):
        points = read_points(points, dimension=chain.dimension).points
    given = np.asarray(points, dtype=float)
    if given.ndim != 2 or given.shape[1] != chain.dimension:
        raise RegistrationError(
            f"points are an array of shape {given.shape}, expected (n, {chain.dimension}) for a "
            f"{chain.dimension}-D transform"
        )
    if not np.isfinite(given).all():
        raise RegistrationError("points hold NaN or infinite coordinates, expected finite numbers")
    if to == "moving":
        if outside == "error":
            _refuse(chain.outside(given), given, "the fixed image")
        return chain.forward(given)
    found, residuals = chain.backward(given)
    if outside == "error":
        _refuse(chain.outside(found), given, "the moving image")
    lost = residuals > _REACHED
    if lost.any():
        raise RegistrationError(
            f"{int(lost.sum())} of {len(given)} points of the moving image correspond to no point of the fixed image "
            f"(the first is number {int(np.argmax(lost))}, {_told(given[np.argmax(lost)])}): the transform folds there"
        )
    return found


def _refuse(outside: np.ndarray, points: np.ndarray, where: str) -> None:
    if outside.any():
        first = int(np.argmax(outside))
        raise RegistrationError(
            f"{int(outside.sum())} of {len(points)} points of {where} lie outside the field of the transform, which "
            f"says nothing about them (the first is number {first}, {_told(points[first])}): check the direction and "
            "the coordinate system (LPS), or ask for the nearest displacement (outside='nearest')"
        )


def _told(point: np.ndarray) -> str:
    return f"at {', '.join(f'{value:.1f}' for value in point)} mm"
