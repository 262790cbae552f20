"""Surfaces of brains: GIFTI (.surf.gii) and FreeSurfer's own format (lh.white and the like)."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.formats.pointfile import PointFile, finite, placed, stated_system, to_lps

__all__ = ["FREESURFER", "read_freesurfer", "read_gifti"]

FREESURFER = b"\xff\xff\xfe"
"""The first bytes of FreeSurfer's surfaces."""

_POINTSET = 1008  # GIFTI's intent of points


def read_gifti(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of a GIFTI surface, which are RAS millimetres; all other arrays stay.

    Coordinates of FreeSurfer, relative to the centre of a volume, are refused.
    """
    import nibabel

    own = stated_system("RAS", system, name)
    try:
        image = nibabel.GiftiImage.from_bytes(content)
        arrays = [array for array in image.darrays if array.intent == _POINTSET]
        positions = [np.asarray(array.data, float).reshape(-1, 3) for array in arrays]
    except Exception as error:  # whatever the parsers raise about damaged files
        raise RegistrationError(f"{name} cannot be read as GIFTI ({type(error).__name__})") from error
    for array in arrays:
        centre = [float(array.meta.get(f"VolGeomC_{axis}", 0)) for axis in "RAS"]
        if any(centre) and array.coordsys is not None and array.coordsys.dataspace == 0:
            raise RegistrationError(
                f"{name} holds FreeSurfer's coordinates, relative to a centre at {centre} mm: convert it with "
                "mris_convert --to-scanner"
            )
    points = np.concatenate([*positions, np.empty((0, 3))])
    finite(points, name)

    def rewrite(moved: np.ndarray) -> bytes:
        new, start = placed(points, moved), 0
        for array in arrays:
            count = len(array.data)
            array.data = new[start : start + count].astype(array.data.dtype)
            start += count
        return image.to_bytes()

    return to_lps(PointFile(points[:, :dimension], rewrite, own, stated=True))


def read_freesurfer(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of FreeSurfer's surfaces, by the geometry of the volume that the file names.

    The file's coordinates are relative to the centre of that volume ("tkregister" RAS). They are taken to the
    scanner's coordinates, and back when they are written. See :func:`read_gifti`.
    """
    from nibabel import freesurfer

    own = stated_system("RAS", system, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "surface"
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that there is no geometry: an error below
                own_points, faces, known = freesurfer.read_geometry(str(path), read_metadata=True)
        except Exception as error:
            raise RegistrationError(
                f"{name} cannot be read as FreeSurfer's surface ({type(error).__name__})"
            ) from error
    if "cras" not in known or not str(known.get("valid", "")).startswith("1"):
        raise RegistrationError(
            f"{name} does not say which volume its coordinates refer to: convert it with mris_convert --to-scanner"
        )
    matrix = _to_scanner(known)
    points = own_points @ matrix[:3, :3].T + matrix[:3, 3]
    finite(points, name)

    def rewrite(moved: np.ndarray) -> bytes:
        back = np.linalg.inv(matrix)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "surface"
            freesurfer.write_geometry(str(path), moved @ back[:3, :3].T + back[:3, 3], faces, volume_info=known)
            return path.read_bytes()

    if dimension != 3:
        raise RegistrationError(f"{name} is a surface in space, which no {dimension}-D transform can move")
    return to_lps(PointFile(points, rewrite, own, stated=True))


def _to_scanner(known: dict[str, Any]) -> np.ndarray:
    """Matrix from FreeSurfer's coordinates to RAS of the scanner."""
    spacing, size = np.asarray(known["voxelsize"], float), np.asarray(known["volume"], float)
    axes = np.column_stack([known["xras"], known["yras"], known["zras"]]).astype(float)
    scanner, surface = np.eye(4), np.eye(4)
    scanner[:3, :3] = axes * spacing
    surface[:3, :3] = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) * spacing
    scanner[:3, 3] = np.asarray(known["cras"], float) - scanner[:3, :3] @ size / 2
    surface[:3, 3] = -surface[:3, :3] @ size / 2
    return scanner @ np.linalg.inv(surface)
