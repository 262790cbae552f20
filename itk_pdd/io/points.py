"""Read files of points and surfaces, and write them again with the points moved."""

from __future__ import annotations

import os
from pathlib import Path

from itk_pdd.errors import RegistrationError
from itk_pdd.io.formats.brain import FREESURFER, read_freesurfer, read_gifti
from itk_pdd.io.formats.landmarks import read_csv, read_fcsv
from itk_pdd.io.formats.markups import read_markups
from itk_pdd.io.formats.pointfile import PointFile
from itk_pdd.io.formats.surfaces import read_obj, read_ply, read_stl
from itk_pdd.io.formats.vtk import read_vtk
from itk_pdd.io.formats.vtp import read_vtp
from itk_pdd.io.messages import system_reason

__all__ = ["POINT_EXTENSIONS", "is_freesurfer", "read_points"]

_READERS = {
    ".csv": read_csv,
    ".fcsv": read_fcsv,
    ".json": read_markups,
    ".vtk": read_vtk,
    ".vtp": read_vtp,
    ".stl": read_stl,
    ".ply": read_ply,
    ".obj": read_obj,
    ".gii": read_gifti,
}
POINT_EXTENSIONS = tuple(_READERS)
"""Formats of points: tables, 3D Slicer's fiducials and markups, and surfaces."""


def read_points(
    path: str | os.PathLike[str], *, dimension: int = 3, system: str | None = None, name: str = "points"
) -> PointFile:
    """Read the points of a file, in LPS millimetres, and how to write it again in its own system.

    ``.csv`` with columns x, y, z (as ANTs' tables), 3D Slicer's ``.fcsv`` or ``.mrk.json``; or a surface in ``.vtk``
    (legacy), ``.vtp``, ``.stl``, ``.ply``, ``.obj``, ``.surf.gii`` or FreeSurfer's own format. With ``dimension`` 2 a
    third coordinate is left alone. ``system`` is "LPS", "RAS" or, by default, what the file says; LPS where it says
    nothing (CSV, VTK, STL, PLY, OBJ). A file that says another one is refused.
    """
    path = Path(path)
    if system not in (None, "LPS", "RAS"):
        raise RegistrationError(f"system is {system!r}, expected 'LPS', 'RAS' or None")
    reader = _READERS.get(path.suffix.lower())
    if reader is None and not is_freesurfer(path):
        raise RegistrationError(f"{name}: {path} is no file of points, expected one of {', '.join(POINT_EXTENSIONS)}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RegistrationError(f"{name}: {path} cannot be read ({system_reason(error)})") from error
    return (reader or read_freesurfer)(content, dimension, system, f"{name} ({path})")


def is_freesurfer(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a surface of FreeSurfer, by its first bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(3) == FREESURFER
    except OSError:
        return False
