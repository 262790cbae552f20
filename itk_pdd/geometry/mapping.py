"""Initial transforms as mappings of physical points, free of ITK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_from_image
from itk_pdd.io.transforms import affine_to_simpleitk, check_dimension, check_homogeneous, matrix_of, to_simpleitk

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
        A file is a transform (.h5, .hdf5, .tfm, .txt, .mat; ANTs' affine and elastix' parameters too) or the image of
        a displacement field; "[file,1]" asks for the inverse of a linear one. A list is given in ANTs' order: a
        fixed point goes through the first one first.
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
    mapping: Mapping
    if isinstance(transform, AffineMapping | FieldMapping):
        mapping = transform
    elif isinstance(transform, DisplacementField):
        mapping = FieldMapping(transform)
    elif isinstance(transform, np.ndarray):
        check_homogeneous(transform, name)
        mapping = AffineMapping(transform.astype(float))
    else:
        mapping = _from_simpleitk(to_simpleitk(transform, grid.dimension, name), grid, name)
    check_dimension(mapping.dimension, grid.dimension, name)
    if isinstance(mapping, AffineMapping):
        _check_matrix(mapping.matrix, name)
    return mapping


def _check_matrix(matrix: np.ndarray, name: str) -> None:
    if not np.isfinite(matrix).all():
        raise RegistrationError(f"{name} is a matrix that holds NaN or infinite numbers")
    volume = float(np.linalg.det(matrix[:-1, :-1]))
    if abs(volume) < 1e-6:
        raise RegistrationError(f"{name} is singular (determinant {volume:.2g}): it flattens the image")


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
