"""Initial transforms as mappings of physical points, free of ITK."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from itk_pdd import files
from itk_pdd.errors import RegistrationError
from itk_pdd.field import DisplacementField
from itk_pdd.grid import Grid
from itk_pdd.outputs import extension
from itk_pdd.transform import field_from_image, field_to_simpleitk
from itk_pdd.volume import is_itk

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["AffineMapping", "FieldMapping", "Mapping", "affine_to_simpleitk", "as_mapping", "matrix_of"]


class Mapping(Protocol):
    """A mapping from physical points of the fixed image to those of the moving image."""

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres."""


@dataclass(frozen=True)
class AffineMapping:
    """An affine mapping of physical points.

    Parameters
    ----------
    matrix : numpy.ndarray
        Homogeneous matrix (dim + 1, dim + 1), components x, y, z, in physical (LPS) millimetres.
    """

    matrix: np.ndarray

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""
        return len(self.matrix) - 1

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres."""
        return np.asarray(points, dtype=float) @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]


@dataclass(frozen=True)
class FieldMapping:
    """The mapping x -> x + u(x) of a displacement field; outside its grid the nearest displacement goes on.

    Parameters
    ----------
    displacement : DisplacementField
        The field, in physical (LPS) millimetres.
    """

    displacement: DisplacementField

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""
        return self.displacement.grid.dimension

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres; linear between the voxels."""
        return np.asarray(points, dtype=float) + self.displacement.at(points, outside="nearest")


def as_mapping(transform: Any, grid: Grid, *, name: str = "initial_transform") -> Mapping:
    """Any transform as a mapping of physical points.

    Parameters
    ----------
    transform : itk.Transform, SimpleITK.Transform, numpy.ndarray, DisplacementField, Mapping, str, path-like or list
        Maps fixed points to moving points in physical (LPS) millimetres. A matrix is homogeneous, (dim + 1, dim + 1).
        A file is a transform (.h5, .hdf5, .tfm, .txt, .mat; ANTs' affine too) or the image of a displacement field.
        A list is composed as ITK and ANTs do: the last one is applied first.
    grid : Grid
        Grid of the fixed image. Transforms that are not linear are sampled there, and somewhat around it.
    name : str
        What to call it in errors.

    Returns
    -------
    AffineMapping or FieldMapping
        Linear transforms, composites of them too, become exact matrices.

    Raises
    ------
    RegistrationError
        If it is no transform, cannot be read, has another dimension than the grid, or is singular.
    """
    if isinstance(transform, list | tuple) and len(transform) == 1:
        transform = transform[0]
    if isinstance(transform, AffineMapping | FieldMapping):
        mapping = transform
    elif isinstance(transform, DisplacementField):
        mapping = FieldMapping(transform)
    elif isinstance(transform, np.ndarray):
        mapping = _from_matrix(transform, name)
    else:
        mapping = _from_simpleitk(_to_simpleitk(transform, grid.dimension, name), grid, name)
    _check_dimension(mapping.dimension, grid.dimension, name)
    if isinstance(mapping, AffineMapping):
        _check_matrix(mapping.matrix, name)
    return mapping


def _from_matrix(matrix: np.ndarray, name: str) -> AffineMapping:
    if matrix.shape not in ((3, 3), (4, 4)):
        raise RegistrationError(
            f"{name} is an array of shape {matrix.shape}, expected a homogeneous matrix: (3, 3) in 2-D, (4, 4) in 3-D"
        )
    matrix = matrix.astype(float)
    last = np.eye(len(matrix))[-1]
    if not np.allclose(matrix[-1], last):
        raise RegistrationError(
            f"{name} is a matrix with the last row {matrix[-1].tolist()}, expected {last.tolist()} (an affine mapping "
            "of column vectors)"
        )
    return AffineMapping(matrix)


def _check_matrix(matrix: np.ndarray, name: str) -> None:
    if not np.isfinite(matrix).all():
        raise RegistrationError(f"{name} is a matrix that holds NaN or infinite numbers")
    volume = float(np.linalg.det(matrix[:-1, :-1]))
    if abs(volume) < 1e-6:
        raise RegistrationError(f"{name} is singular (determinant {volume:.2g}): it flattens the image")


def _check_dimension(found: int, expected: int, name: str) -> None:
    if found != expected:
        raise RegistrationError(f"{name} is {found}-D but the fixed image is {expected}-D: expected the same dimension")


def _from_simpleitk(transform: SimpleITK.Transform, grid: Grid, name: str) -> Mapping:
    """A matrix if the transform is linear, else a field sampled on the grid and somewhat around it."""
    import SimpleITK

    if transform.IsLinear():
        return AffineMapping(matrix_of(transform, grid.dimension))
    # The working grids of the registration may reach somewhat beyond the fixed image.
    margin = [max(2, int(np.ceil(0.05 * n))) for n in grid.size]
    wide = grid.padded(margin, margin)
    direction = np.asarray(wide.direction).ravel().tolist()
    field = SimpleITK.TransformToDisplacementField(
        transform, SimpleITK.sitkVectorFloat32, wide.size, wide.origin, wide.spacing, direction
    )
    return FieldMapping(field_from_image(field, name=name))


def matrix_of(transform: Any, dimension: int) -> np.ndarray:
    """Homogeneous matrix of a linear transform of ITK or SimpleITK, whatever its parameters are."""
    start = np.asarray(list(transform.TransformPoint([0.0] * dimension)))
    columns = [np.asarray(list(transform.TransformPoint(row))) - start for row in np.eye(dimension).tolist()]
    matrix = np.eye(dimension + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = np.stack(columns, axis=1), start
    return matrix


def _to_simpleitk(transform: Any, dimension: int, name: str) -> SimpleITK.Transform:
    """Anything that is a transform as one of SimpleITK's."""
    import SimpleITK

    if isinstance(transform, list | tuple) and len(transform):
        parts = [_to_simpleitk(part, dimension, f"{name}[{i}]") for i, part in enumerate(transform)]
        return SimpleITK.CompositeTransform(parts)
    if isinstance(transform, str | os.PathLike):
        if extension(transform).lower() in files.TRANSFORM_EXTENSIONS:
            transform = files.read_transform(transform, name=name)
        else:
            transform = field_from_image(files.read_image(transform, name=name), name=name)
    if isinstance(transform, DisplacementField):
        _check_dimension(transform.grid.dimension, dimension, name)
        return field_to_simpleitk(transform)
    if isinstance(transform, np.ndarray):
        mapping = _from_matrix(transform, name)
        _check_dimension(mapping.dimension, dimension, name)
        return affine_to_simpleitk(mapping.matrix)
    if isinstance(transform, SimpleITK.Transform):
        _check_dimension(transform.GetDimension(), dimension, name)
        return transform
    if is_itk(transform) and hasattr(transform, "TransformPoint"):
        _check_dimension(transform.GetInputSpaceDimension(), dimension, name)
        return _itk_to_simpleitk(transform, dimension, name)
    raise RegistrationError(
        f"{name} is of type {type(transform).__name__}, expected an itk.Transform, a SimpleITK.Transform, a "
        "homogeneous matrix, a DisplacementField or the path of a transform or field file"
    )


def affine_to_simpleitk(matrix: np.ndarray) -> SimpleITK.Transform:
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
