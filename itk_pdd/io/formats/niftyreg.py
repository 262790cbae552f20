"""NiftyReg's convention for fields in NIfTI files: the intent NREG_TRANS and vectors in RAS millimetres."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid

__all__ = ["EXTENSIONS", "NAME", "displacements_from_ras", "from_niftyreg", "mark_intent", "mirrored"]

EXTENSIONS = (".nii", ".nii.gz")
"""Formats that NiftyReg reads."""
NAME = "NREG_TRANS"
"""Name of the intent of its transforms."""
_POSITIONS, _DISPLACEMENTS = 0, 1
_OTHERS = {
    2: "a cubic B-spline grid",
    3: "a velocity field of positions",
    4: "a velocity field",
    5: "a B-spline velocity grid",
    6: "a linear spline grid",
}


def mirrored(vectors: np.ndarray) -> np.ndarray:
    """Turn vectors or points (..., dim) from LPS to RAS or back: x and y change their sign."""
    result = vectors.copy()
    result[..., :2] *= -1
    return result


def from_niftyreg(vectors: np.ndarray, grid: Grid, kind: float, *, name: str = "field") -> np.ndarray:
    """Turn the vectors (z, y, x, dim) of a NiftyReg file, RAS mm, into displacements in LPS millimetres.

    ``kind`` is the first parameter of the intent: 0 for positions, 1 for displacements; others are refused.
    """
    if round(kind) == _POSITIONS:
        return displacements_from_ras(vectors, grid)
    if round(kind) != _DISPLACEMENTS:
        found = _OTHERS.get(round(kind), f"of the unknown kind {round(kind)}")
        raise RegistrationError(
            f"{name} is {found} of NiftyReg, expected a deformation or displacement field: convert it with "
            "reg_transform -def"
        )
    return mirrored(vectors)


def displacements_from_ras(positions: np.ndarray, grid: Grid) -> np.ndarray:
    """Turn RAS positions (z, y, x, dim) at the voxels of a grid into LPS displacements, float32."""
    return (mirrored(positions) - grid.points()).astype(np.float32)


def mark_intent(path: Path, name: str = NAME, kind: float = _DISPLACEMENTS) -> None:
    """Set the name and the first parameter of the intent of a NIfTI-1 file; by default NiftyReg's displacements."""
    compressed = path.name.lower().endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if compressed else path.read_bytes())
    order = "<" if struct.unpack_from("<i", content)[0] == 348 else ">"
    struct.pack_into(order + "f", content, 56, kind)
    struct.pack_into("16s", content, 328, name.encode())
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
