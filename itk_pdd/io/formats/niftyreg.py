"""NiftyReg's convention for fields in NIfTI files: the intent NREG_TRANS and vectors in RAS millimetres."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io import files
from itk_pdd.io.guards.nifti import Intent

__all__ = ["EXTENSIONS", "from_niftyreg", "niftyreg_writer"]

EXTENSIONS = (".nii", ".nii.gz")
"""What NiftyReg reads."""
NAME = "NREG_TRANS"
_POSITIONS, _DISPLACEMENTS = 0, 1
_OTHERS = {
    2: "a cubic B-spline grid",
    3: "a velocity field of positions",
    4: "a velocity field",
    5: "a B-spline velocity grid",
    6: "a linear spline grid",
}


def _mirrored(vectors: np.ndarray) -> np.ndarray:
    """LPS to RAS or back: x and y change their sign."""
    result = vectors.copy()
    result[..., :2] *= -1
    return result


def from_niftyreg(field: DisplacementField, intent: Intent, *, name: str = "field") -> DisplacementField:
    """The field in LPS millimetres of a NiftyReg file.

    Parameters
    ----------
    field : DisplacementField
        What the file holds, as it stands there: RAS positions or displacements.
    intent : Intent
        What the header says about it.
    name : str
        What to call it in errors.

    Raises
    ------
    RegistrationError
        If it is neither a deformation nor a displacement field.
    """
    kind = round(intent.parameter)
    vectors = _mirrored(field.vectors)
    if kind == _POSITIONS:
        vectors = (vectors - field.grid.points()).astype(np.float32)
    elif kind != _DISPLACEMENTS:
        found = _OTHERS.get(kind, f"of the unknown kind {kind}")
        raise RegistrationError(
            f"{name} is {found} of NiftyReg, expected a deformation or displacement field: convert it with "
            "reg_transform -def"
        )
    return DisplacementField(vectors, field.grid)


def niftyreg_writer(field: DisplacementField) -> Callable[[Path], None]:
    """What writes a field as NiftyReg's displacement field (``reg_resample -trans``) to the path it is called with."""
    from itk_pdd.io.fields import field_to_image

    def write(path: Path) -> None:
        files.write_image(field_to_image(DisplacementField(_mirrored(field.vectors), field.grid)), path)
        _mark(path)

    return write


def _mark(path: Path) -> None:
    """Set the intent of a NIfTI-1 file of vectors to NREG_TRANS, a displacement field."""
    compressed = path.name.lower().endswith(".gz")
    content = bytearray(gzip.decompress(path.read_bytes()) if compressed else path.read_bytes())
    order = "<" if struct.unpack_from("<i", content)[0] == 348 else ">"
    struct.pack_into(order + "f", content, 56, _DISPLACEMENTS)
    struct.pack_into("16s", content, 328, NAME.encode())
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
