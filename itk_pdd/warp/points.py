"""Points moved by transforms from one image to the other."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.points import read_points
from itk_pdd.io.transforms import as_mapping

__all__ = ["warp_points"]

_REACHED = 0.01  # voxels: a point farther from the given one than this is no inverse


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
        lies: this needs the inverse, which is computed for every point to 0.0001 voxel of the field.
    outside : {"error", "nearest", "skip"}
        What to do with points that lie, or get, outside of a displacement field or B-spline: refuse them, move them by
        the nearest displacement, or make them NaN.

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
    if outside not in ("error", "nearest", "skip"):
        raise RegistrationError(f"outside is {outside!r}, expected 'error', 'nearest' or 'skip'")
    mapping = as_mapping(transform).extended()
    if isinstance(points, str | os.PathLike):
        points = read_points(points, dimension=mapping.dimension).own
    given = np.asarray(points, dtype=float)
    if given.ndim != 2 or given.shape[1] != mapping.dimension:
        raise RegistrationError(
            f"points are an array of shape {given.shape}, expected (n, {mapping.dimension}) for a "
            f"{mapping.dimension}-D transform"
        )
    if not np.isfinite(given).all():
        raise RegistrationError("points hold NaN or infinite coordinates, expected finite numbers")
    if to == "moving":
        inside = mapping.contains(given)
        if outside == "error":
            _refuse(~inside, given, "the fixed image")
        return np.where(inside[:, None] | (outside != "skip"), mapping(given), np.nan)
    found, residuals = mapping.invert(given)
    inside = mapping.contains(found)
    if outside == "error":
        _refuse(~inside, given, "the moving image")
    elif outside == "skip":
        found[~inside], residuals[~inside] = np.nan, 0
    lost = residuals > _REACHED * (mapping.voxel or np.inf)
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
            "the coordinate system (LPS), or ask for the nearest displacement (outside='nearest') or for the others "
            "alone (outside='skip')"
        )


def _told(point: np.ndarray) -> str:
    return f"at {', '.join(f'{value:.6g}' for value in point)} mm"
