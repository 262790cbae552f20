"""Affine matrices of FSL, greedy and c3d, FreeSurfer, AFNI and MINC, as matrices between LPS points and back.

Every function takes and gives the homogeneous matrix from fixed to moving points in LPS millimetres.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.messages import read_text

__all__ = ["AFFINE_FORMATS", "affine_writer", "check_named", "read_affine"]

AFFINE_FORMATS = {
    "ras": (".mat", ".txt"),
    "fsl": (".mat",),
    "lta": (".lta",),
    "afni": (".1D", ".1d"),
    "xfm": (".xfm",),
}
"""Names of the formats and the extensions of their files."""

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS to LPS and back
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_VOXELS, _RAS = 0, 1  # what the matrix of an LTA file maps


def read_affine(path: Path, kind: str, fixed: Grid | None, moving: Grid | None, *, name: str) -> np.ndarray:
    """Read an affine matrix of another program: the homogeneous matrix (4, 4) from fixed to moving points in LPS mm.

    ``kind`` "ras" is a 4 x 4 matrix of greedy, c3d or NiftyReg, from fixed to moving RAS points; "fsl" a matrix of
    FLIRT, from the moving to the fixed image in FSL's own coordinates, the only one that needs the grids of both
    images; "lta" FreeSurfer's linear transform, from the moving (source) to the fixed (target) image; "afni" a line of
    twelve numbers (``.aff12.1D``), from fixed (base) to moving (source) points in LPS; "xfm" a linear transform of
    MINC, from moving (source) to fixed (target) RAS points.

    References
    ----------
    FLIRT's coordinates: https://fsl.fmrib.ox.ac.uk/fsl/docs (FLIRT FAQ). LTA: https://surfer.nmr.mgh.harvard.edu
    (mri_robust_register). AFNI: 3dAllineate -help, option -1Dmatrix_save. MINC: mincresample(1), option
    -transformation.
    """
    text, where = read_text(path, "the numbers of a matrix", name=name), f"{name}: {path}"
    if kind == "lta":
        return _from_lta(text, where)
    if kind == "xfm":
        return _from_xfm(text, where)
    lines = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    try:
        numbers = np.array([float(word) for line in lines for word in line])
    except ValueError as error:
        raise RegistrationError(f"{where} holds something other than the numbers of a matrix") from error
    count = 12 if kind == "afni" else 16
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise RegistrationError(f"{where} holds {len(numbers)} numbers, expected {count} finite ones of one matrix")
    matrix = np.vstack([numbers.reshape(-1, 4)[:3], [0, 0, 0, 1]])
    if len(numbers) == 16 and not np.allclose(numbers[12:], [0, 0, 0, 1]):
        raise RegistrationError(f"{where} is a matrix with the last row {numbers[12:].tolist()}, expected 0 0 0 1")
    if kind == "afni":
        return matrix
    if kind == "ras":
        return _FLIP @ matrix @ _FLIP
    fixed, moving = _both(fixed, moving, where)
    return _fsl_to_lps(moving) @ np.linalg.inv(_invertible(matrix, where)) @ np.linalg.inv(_fsl_to_lps(fixed))


def _text(matrix: np.ndarray, kind: str, fixed: Grid | None, moving: Grid | None, *, name: str) -> str:
    """Write out an affine matrix as another program reads it; the parameters are those of :func:`read_affine`."""
    if matrix.shape != (4, 4):
        raise RegistrationError(f"{name} is a 2-D transform, and the format {kind} holds 3-D ones")
    if kind == "afni":
        return "# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n" + _row(matrix[:3].ravel())
    if kind == "ras":
        return "".join(map(_row, _FLIP @ matrix @ _FLIP))
    back = np.linalg.inv(matrix)
    if kind == "xfm":
        rows = "".join(map(_row, (_FLIP @ back @ _FLIP)[:3])).rstrip()
        return f"MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows};\n"
    fixed, moving = _both(fixed, moving, name)
    if kind == "fsl":
        return "".join(map(_row, np.linalg.inv(_fsl_to_lps(fixed)) @ back @ _fsl_to_lps(moving)))
    return (
        "type      = 1 # LINEAR_RAS_TO_RAS\nnxforms   = 1\nmean      = 0.0 0.0 0.0\nsigma     = 1.0\n1 4 4\n"
        + "".join(map(_row, _FLIP @ back @ _FLIP))
        + _lta_geometry("src", moving)
        + _lta_geometry("dst", fixed)
    )


def check_named(path: str, name: str) -> None:
    """Refuse a matrix that does not say which program's it is: an array of numpy, or a text of sixteen numbers."""
    if path.lower().endswith(".npy"):
        raise RegistrationError(
            f"{name}: {path} is an array of numpy, expected a transform file: give the array itself in Python, or "
            "write it with numpy.savetxt and give that as ras:FILE if the matrix maps RAS points"
        )
    if path.lower().endswith((".mat", ".txt")) and _is_bare_matrix(path):
        raise RegistrationError(
            f"{name}: {path} holds a bare matrix and does not say whose: give it as ras:{path} if it is of greedy, "
            f"c3d or NiftyReg, as fsl:{path},FIXED,MOVING (with both images) if it is FLIRT's"
        )


def _is_bare_matrix(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            return len([float(word) for word in file.read(4096).split()]) == 16
    except (OSError, ValueError):
        return False


def _row(numbers: np.ndarray) -> str:
    return " ".join(f"{number:.17g}" for number in numbers) + "\n"


def _both(fixed: Grid | None, moving: Grid | None, where: str) -> tuple[Grid, Grid]:
    if fixed is None or moving is None:
        raise RegistrationError(
            f"{where} is a matrix between the coordinates of two images: give the fixed and the moving image as well"
        )
    return fixed, moving


def _invertible(matrix: np.ndarray, where: str) -> np.ndarray:
    if abs(np.linalg.det(matrix)) < 1e-30:
        raise RegistrationError(f"{where} is singular: it flattens the image")
    return matrix


def _fsl_to_lps(grid: Grid) -> np.ndarray:
    """Give the matrix from FSL's coordinates of an image to LPS: voxels times spacing, x reversed if it runs to RAS."""
    to_voxel = np.diag([*(1 / np.asarray(grid.spacing)), 1.0])
    # FSL wants left-handed voxel axes; LPS and RAS have the same handedness.
    if np.linalg.det(grid.matrix) > 0:
        reverse = np.diag([-1.0, 1, 1, 1])
        reverse[0, 3] = grid.size[0] - 1
        to_voxel = reverse @ to_voxel
    return grid.affine @ to_voxel


def _from_lta(text: str, where: str) -> np.ndarray:
    """Read FreeSurfer's LTA: a matrix from source to target, between RAS points or between voxels."""
    kind = re.search(r"^\s*type\s*=\s*(\d+)", text, re.MULTILINE)
    count = re.search(r"^\s*nxforms\s*=\s*(\d+)", text, re.MULTILINE)
    matrix = re.search(rf"^\s*1\s+4\s+4\s*$((?:\s+{_NUMBER}){{16}})", text, re.MULTILINE)
    if kind is None or matrix is None or (count is not None and int(count[1]) != 1):
        raise RegistrationError(f"{where} is no linear transform of FreeSurfer with one matrix of four rows")
    forward = _invertible(np.array(matrix[1].split(), dtype=float).reshape(4, 4), where)
    if int(kind[1]) == _VOXELS:
        source, target = (_lta_affine(text, volume, where) for volume in ("src", "dst"))
        forward = target @ forward @ np.linalg.inv(source)
    elif int(kind[1]) != _RAS:
        raise RegistrationError(
            f"{where} is of type {kind[1]}, expected 0 (between voxels) or 1 (between RAS points): convert it with "
            "lta_convert --outlta"
        )
    return _FLIP @ np.linalg.inv(forward) @ _FLIP


def _from_xfm(text: str, where: str) -> np.ndarray:
    """Read MINC's linear transform: three rows from source to target points, RAS."""
    matrix = re.search(rf"^\s*Linear_Transform\s*=((?:\s+{_NUMBER}){{12}})\s*;", text, re.MULTILINE)
    if matrix is None or text.count("Transform_Type") != 1:
        raise RegistrationError(f"{where} is no linear transform of MINC with one matrix of three rows")
    forward = np.vstack([np.array(matrix[1].split(), dtype=float).reshape(3, 4), [0, 0, 0, 1]])
    return _FLIP @ np.linalg.inv(_invertible(forward, where)) @ _FLIP


def _lta_affine(text: str, volume: str, where: str) -> np.ndarray:
    """Give the matrix from voxels to RAS of a volume of an LTA file."""
    section = re.search(rf"{volume} volume info(.*?)(?=(?:src|dst) volume info|\Z)", text, re.DOTALL)
    found = {}
    for key, numbers in (("volume", 3), ("voxelsize", 3), ("xras", 3), ("yras", 3), ("zras", 3), ("cras", 3)):
        entry = section and re.search(rf"^\s*{key}\s*=((?:\s+{_NUMBER}){{{numbers}}})", section[1], re.MULTILINE)
        if not entry:
            raise RegistrationError(f"{where} maps voxels, but does not say where those of its {volume} volume lie")
        found[key] = np.array(entry[1].split(), dtype=float)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([found["xras"], found["yras"], found["zras"]], axis=1) * found["voxelsize"]
    affine[:3, 3] = found["cras"] - affine[:3, :3] @ (found["volume"] / 2)
    return affine


def _lta_geometry(volume: str, grid: Grid) -> str:
    """Write out where a volume lies, as LTA files say it: directions, and the place of the voxel at half its size."""
    ras = _FLIP @ grid.affine
    cosines = ras[:3, :3] / np.asarray(grid.spacing)
    centre = ras[:3, :3] @ (np.asarray(grid.size) / 2) + ras[:3, 3]
    rows = [("xras  ", cosines[:, 0]), ("yras  ", cosines[:, 1]), ("zras  ", cosines[:, 2]), ("cras  ", centre)]
    lines = [f"{volume} volume info", "valid = 1  # volume info valid", f"filename = {volume}.nii.gz"]
    lines += [f"volume = {' '.join(map(str, grid.size))}", f"voxelsize = {_row(np.asarray(grid.spacing)).strip()}"]
    return "\n".join(lines + [f"{key} = {_row(values).strip()}" for key, values in rows]) + "\n"


def affine_writer(
    matrix: np.ndarray, kind: str, fixed: Grid | None, moving: Grid | None, *, name: str
) -> Callable[[Path], Any]:
    """Make a function that writes an affine matrix for another program to the path it is called with."""
    return partial(Path.write_text, data=_text(matrix, kind, fixed, moving, name=name), encoding="utf-8")
