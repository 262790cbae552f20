"""Transforms of every kind and from every file, as SimpleITK transforms of physical points."""

from __future__ import annotations

import os
import re
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io import files
from itk_pdd.io.fields import field_from_image, field_to_simpleitk, read_field_image
from itk_pdd.io.formats.elastix import is_elastix, read_elastix
from itk_pdd.io.images import is_itk
from itk_pdd.io.outputs import extension

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["affine_to_simpleitk", "check_dimension", "check_homogeneous", "composite", "matrix_of", "to_simpleitk"]

# ANTs' way to ask for the inverse of a file.
_INVERTED = re.compile(r"^\[\s*(.+?)\s*,\s*([01])\s*\]$")


def to_simpleitk(transform: Any, dimension: int | None, name: str) -> SimpleITK.Transform:
    """Anything that is a transform as one of SimpleITK's; a list, in ANTs' order, as a composite.

    Parameters
    ----------
    transform : itk.Transform, SimpleITK.Transform, numpy.ndarray, DisplacementField, str, path-like or list
        Maps fixed points to moving points in physical (LPS) millimetres. A matrix is homogeneous, (dim + 1, dim + 1).
        A file is a transform of ITK or ANTs (.h5, .hdf5, .tfm, .txt, .mat), elastix' transform parameters (.txt) or
        the image of a displacement field; "[file,1]" asks for its inverse as in ANTs. A fixed point goes through the
        first one of a list first (so that the moving image is changed by the last one first).
    dimension : int or None
        Dimension it must have; None takes any (of a list the dimension of its first member).
    name : str
        What to call it in errors.

    Raises
    ------
    RegistrationError
        If it is no transform, cannot be read, or has another dimension.
    """
    import SimpleITK

    if isinstance(transform, list | tuple) and len(transform):
        parts: list[SimpleITK.Transform] = []
        for i, part in enumerate(transform):
            parts.append(to_simpleitk(part, dimension, f"{name}[{i}]" if len(transform) > 1 else name))
            dimension = parts[-1].GetDimension()
        return composite(parts)
    if isinstance(transform, str | os.PathLike):
        transform = _read(os.fspath(transform), name)
    if isinstance(transform, DisplacementField):
        check_dimension(transform.grid.dimension, dimension, name)
        return field_to_simpleitk(transform)
    if isinstance(transform, np.ndarray):
        check_homogeneous(transform, name)
        check_dimension(len(transform) - 1, dimension, name)
        return affine_to_simpleitk(transform.astype(float))
    if isinstance(transform, SimpleITK.Transform):
        check_dimension(transform.GetDimension(), dimension, name)
        return transform
    if is_itk(transform) and hasattr(transform, "TransformPoint"):
        found = transform.GetInputSpaceDimension()
        check_dimension(found, dimension, name)
        return _itk_to_simpleitk(transform, found, name)
    raise RegistrationError(
        f"{name} is of type {type(transform).__name__}, expected an itk.Transform, a SimpleITK.Transform, a "
        "homogeneous matrix, a DisplacementField or the path of a transform or field file"
    )


def composite(transforms: list[SimpleITK.Transform]) -> SimpleITK.Transform:
    """Transforms of which a point goes through the first one first, as one; ITK's composites hold them backwards."""
    import SimpleITK

    return transforms[0] if len(transforms) == 1 else SimpleITK.CompositeTransform(transforms[::-1])


def _read(path: str, name: str) -> Any:
    """A transform or a field from a file, inverted where the name is written as ANTs does for that."""
    match = None if os.path.exists(path) else _INVERTED.match(path)
    if match is None:
        if extension(path).lower() not in files.TRANSFORM_EXTENSIONS:
            return read_field_image(path, name=name)
        return read_elastix(path, name=name) if is_elastix(path) else files.read_transform(path, name=name)
    transform = _read(match[1], name)
    if match[2] == "0":
        return transform
    if isinstance(transform, DisplacementField) or not transform.IsLinear():
        raise RegistrationError(
            f"{name}: {match[1]} is not linear and cannot be inverted on the way (nor can ANTs): give the file of its "
            "inverse (1InverseWarp.nii.gz in ANTs), or make one with pdd-transform inverse"
        )
    try:
        return transform.GetInverse()
    except RuntimeError as error:
        raise RegistrationError(f"{name}: {match[1]} is singular and has no inverse") from error


def check_dimension(found: int, expected: int | None, name: str) -> None:
    """Refuse a transform of another dimension than the images or the transforms before it."""
    if expected not in (None, found):
        raise RegistrationError(f"{name} is {found}-D but the fixed image is {expected}-D: expected the same dimension")


def check_homogeneous(matrix: np.ndarray, name: str) -> None:
    """Refuse an array that is no homogeneous matrix of column vectors."""
    if matrix.shape not in ((3, 3), (4, 4)):
        raise RegistrationError(
            f"{name} is an array of shape {matrix.shape}, expected a homogeneous matrix: (3, 3) in 2-D, (4, 4) in 3-D"
        )
    last = np.eye(len(matrix))[-1]
    if not np.allclose(matrix[-1].astype(float), last):
        raise RegistrationError(
            f"{name} is a matrix with the last row {matrix[-1].tolist()}, expected {last.tolist()} (an affine mapping "
            "of column vectors)"
        )


def matrix_of(transform: Any, dimension: int) -> np.ndarray:
    """Homogeneous matrix of a linear transform of ITK or SimpleITK, whatever its parameters are."""
    start = np.asarray(list(transform.TransformPoint([0.0] * dimension)))
    columns = [np.asarray(list(transform.TransformPoint(row))) - start for row in np.eye(dimension).tolist()]
    matrix = np.eye(dimension + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = np.stack(columns, axis=1), start
    return matrix


def affine_to_simpleitk(matrix: np.ndarray) -> SimpleITK.Transform:
    """A homogeneous matrix (dim + 1, dim + 1) as a SimpleITK transform."""
    import SimpleITK

    affine = SimpleITK.AffineTransform(len(matrix) - 1)
    affine.SetMatrix(matrix[:-1, :-1].ravel().tolist())
    affine.SetTranslation(matrix[:-1, -1].tolist())
    return affine


def _itk_to_simpleitk(transform: Any, dimension: int, name: str) -> SimpleITK.Transform:
    import itk
    import SimpleITK

    transform = itk.down_cast(transform)
    if transform.IsLinear():
        return affine_to_simpleitk(matrix_of(transform, dimension))
    if hasattr(transform, "GetNthTransform"):
        parts = [transform.GetNthTransform(i) for i in range(transform.GetNumberOfTransforms())]
        return SimpleITK.CompositeTransform([_itk_to_simpleitk(part, dimension, name) for part in parts])
    if "DisplacementField" in transform.GetTransformTypeAsString():
        # Not by a file, which would misplace a field whose start index is not 0.
        return field_to_simpleitk(field_from_image(transform.GetDisplacementField(), name=name))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "transform.h5")
        try:
            itk.transformwrite(transform, path)
        except RuntimeError as error:
            kind = transform.GetTransformTypeAsString()
            raise RegistrationError(f"{name} is a {kind}, which cannot be converted: sample it to a field") from error
        return files.read_transform(path, name=name)
