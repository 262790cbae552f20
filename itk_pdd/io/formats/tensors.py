"""Images of diffusion tensors in NIfTI (intent 1005) and NRRD (with a measurement frame)."""

from __future__ import annotations

import bz2
import gzip
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.checks import check_geometry
from itk_pdd.io.guards.headers import nrrd_fields
from itk_pdd.io.guards.nifti import missing_bytes, read_head, read_intent
from itk_pdd.io.guards.placement import check_placement, check_shear

__all__ = ["EXTENSIONS", "TensorImage", "holds_tensors", "read_tensors", "tensor_writer"]

EXTENSIONS = (".nii", ".nii.gz", ".nrrd")
"""Formats in which tensors can be written."""

_SYMMETRIC = 1005  # NIfTI's intent of symmetric matrices
_UPPER = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # NRRD's order
_LOWER = ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2))  # NIfTI's order
_KINDS = {"3d-symmetric-matrix": 6, "3d-masked-symmetric-matrix": 7, "3d-matrix": 9}
_TYPES = {
    "float": "f4", "double": "f8", "short": "i2", "ushort": "u2", "unsigned short": "u2", "int": "i4",
}  # fmt: skip
_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class TensorImage:
    """Symmetric tensors on a grid."""

    values: np.ndarray  # float64 matrices (z, y, x, 3, 3); rows and columns are the physical (LPS) axes x, y, z
    grid: Grid


def holds_tensors(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file holds tensors, from its header."""
    name = str(path).lower()
    if name.endswith((".nii", ".nii.gz")):
        return read_intent(path).code == _SYMMETRIC
    if name.endswith((".nrrd", ".nhdr")) and Path(path).is_file():
        return any(kind in _KINDS for kind in nrrd_fields(Path(path)).get("kinds", "").lower().split())
    return False


def read_tensors(path: str | os.PathLike[str], *, name: str = "image") -> TensorImage:
    """Read an image of symmetric tensors.

    A NIfTI file of intent 1005, whose six numbers are the lower triangle, taken in the axes of the voxels (the standard
    names no axes, and programs differ); or a NRRD file of the kind 3D-symmetric-matrix, 3D-masked-symmetric-matrix or
    3D-matrix, whose measurement frame takes the numbers to its space.
    """
    read = _read_nifti if str(path).lower().endswith((".nii", ".nii.gz")) else _read_nrrd
    try:
        tensors = read(path, name)
    except RegistrationError:
        raise
    except Exception as error:  # whatever the file libraries raise about damaged files
        raise RegistrationError(f"{name}: {path} cannot be read as an image of tensors ({error})") from error
    check_geometry(tensors.grid, name)
    if not np.isfinite(tensors.values).all():
        raise RegistrationError(f"{name}: {path} holds tensors that are NaN or infinite: replace them")
    return tensors


def tensor_writer(tensors: TensorImage) -> Callable[[Path], None]:
    """Give a function that writes tensors to a path; its extension, one of ``EXTENSIONS``, gives the format."""
    return lambda path: (_write_nrrd if path.suffix == ".nrrd" else _write_nifti)(tensors, path)


def _grid(size: Any, matrix: np.ndarray, origin: np.ndarray) -> Grid:
    spacing = np.linalg.norm(matrix, axis=0)
    return Grid.create(size, spacing, origin, matrix / np.where(spacing > 0, spacing, 1))


def _matrices(numbers: np.ndarray, order: tuple[tuple[int, int], ...]) -> np.ndarray:
    result = np.empty((*numbers.shape[:-1], 3, 3))
    for position, (row, column) in enumerate(order):
        result[..., row, column] = result[..., column, row] = numbers[..., position]
    return result


def _numbers(values: np.ndarray, order: tuple[tuple[int, int], ...]) -> np.ndarray:
    return np.stack([values[..., row, column] for row, column in order], axis=-1).astype(np.float32)


def _read_nifti(path: str | os.PathLike[str], name: str) -> TensorImage:
    import nibabel
    import SimpleITK

    head, where = read_head(path), f"{name} ({path})"
    if head is not None:
        check_shear(head, where=where)
    if missing_bytes(path):
        raise RegistrationError(f"{name}: {path} was cut short: copy it again")
    image: Any = nibabel.load(path)
    if image.ndim != 5 or image.shape[3:] != (1, 6):
        raise RegistrationError(
            f"{name} has the shape {image.shape}, expected (x, y, z, 1, 6) for the symmetric 3 x 3 matrices that its "
            "intent 1005 promises"
        )
    millimetres = {"meter": 1000.0, "micron": 1e-3}.get(image.header.get_xyzt_units()[0], 1.0)
    affine = np.array(image.affine, float)
    affine[:3] *= millimetres
    grid = _grid(image.shape[:3], _RAS @ affine[:3, :3], _RAS @ affine[:3, 3])
    if head is not None:
        place = SimpleITK.Image(grid.size, SimpleITK.sitkUInt8)
        place.SetOrigin(grid.origin)
        place.SetSpacing(grid.spacing)
        place.SetDirection(np.ravel(grid.direction).tolist())
        check_placement(place, head, where=where)
    numbers = np.asarray(image.dataobj, np.float64)[:, :, :, 0].transpose(2, 1, 0, 3)
    axes = np.asarray(grid.direction)
    return TensorImage(axes @ _matrices(numbers, _LOWER) @ axes.T, grid)


def _write_nifti(tensors: TensorImage, path: Path) -> None:
    import nibabel

    axes = np.asarray(tensors.grid.direction)
    numbers = _numbers(axes.T @ tensors.values @ axes, _LOWER).transpose(2, 1, 0, 3)[:, :, :, None]
    affine = tensors.grid.affine
    affine[:3] = _RAS @ affine[:3]
    image = nibabel.Nifti1Image(numbers, affine)
    image.header.set_intent(_SYMMETRIC, (3,))
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def _vectors(text: str) -> np.ndarray:
    groups = [group.strip(" ()") for group in text.split(")") if group.strip(" ()")]
    return np.array([[float(number) for number in group.split(",")] for group in groups])


def _read_nrrd(path: str | os.PathLike[str], name: str) -> TensorImage:
    _, data, *_ = [*re.split(rb"\r?\n\r?\n", Path(path).read_bytes(), maxsplit=1), b""]
    head = nrrd_fields(Path(path))
    kinds, sizes = head["kinds"].lower().split(), [int(n) for n in head["sizes"].split()]
    if len(sizes) != 4 or kinds[0] not in _KINDS or sizes[0] != _KINDS[kinds[0]] or "data file" in head:
        raise RegistrationError(
            f"{name} has the kinds {head['kinds']!r} and sizes {head['sizes']!r}, expected one file with the tensors "
            "on the first axis and three axes of space"
        )
    space = head.get("space", "left-posterior-superior").lower()
    signs = {"left": 1, "right": -1, "l": 1, "r": -1}, {"posterior": 1, "anterior": -1, "p": 1, "a": -1}
    words = space.split("-") if "-" in space else list(space)
    to_lps = np.diag([float(signs[0][words[0]]), float(signs[1][words[1]]), 1.0])
    if words[2][0] != "s":
        raise RegistrationError(f"{name} has the space {space!r}, expected left-posterior-superior or a mirrored one")
    directions = _vectors(head["space directions"].replace("none", "")).T
    grid = _grid(sizes[1:], to_lps @ directions, to_lps @ _vectors(head.get("space origin", "(0,0,0)"))[0])
    order = {"little": "<", "big": ">"}[head.get("endian", "little").lower()]
    kind = np.dtype(order + _TYPES[head["type"].lower()])
    coding = head["encoding"].lower()
    if coding in ("gz", "gzip"):
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else zlib.decompress(data)
    elif coding in ("bz2", "bzip2"):
        data = bz2.decompress(data)
    elif coding != "raw":
        raise RegistrationError(f"{name} has the encoding {coding!r}, expected raw, gzip or bzip2")
    count = int(np.prod(sizes))
    if len(data) < count * kind.itemsize:
        raise RegistrationError(f"{name}: {path} was cut short: copy it again")
    numbers = np.frombuffer(data, kind, count).reshape(sizes[::-1]).astype(np.float64)
    if sizes[0] == 9:
        values = numbers.reshape(*numbers.shape[:-1], 3, 3)
        values = (values + values.swapaxes(-1, -2)) / 2
    else:
        values = _matrices(numbers[..., -6:], _UPPER)
        if sizes[0] == 7:
            values *= (numbers[..., :1] > 0)[..., None]
    frame = _vectors(head["measurement frame"]).T if "measurement frame" in head else np.eye(3)
    turn = to_lps @ frame
    return TensorImage(turn @ values @ turn.T, grid)


def _write_nrrd(tensors: TensorImage, path: Path) -> None:
    def told(vector: np.ndarray) -> str:
        return "(" + ",".join(repr(float(number)) for number in vector) + ")"

    grid = tensors.grid
    head = [
        "NRRD0005", "type: float", "dimension: 4", "space: left-posterior-superior",
        f"sizes: 6 {' '.join(map(str, grid.size))}",
        f"space directions: none {' '.join(told(column) for column in grid.matrix.T)}",
        "kinds: 3D-symmetric-matrix domain domain domain", "endian: little", "encoding: gzip",
        f"space origin: {told(np.asarray(grid.origin))}", "measurement frame: (1,0,0) (0,1,0) (0,0,1)", "", "",
    ]  # fmt: skip
    body = gzip.compress(_numbers(tensors.values, _UPPER).astype("<f4").tobytes(), 1, mtime=0)
    path.write_bytes("\n".join(head).encode() + body)
