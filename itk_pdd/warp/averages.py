"""The halfway transform and the mean of several transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping, FieldMapping, Mapping, check_reach
from itk_pdd.io.images import reference_grid
from itk_pdd.io.transforms import as_mapping, mapping_answer
from itk_pdd.warp.fit import check_dimension

__all__ = ["HalfError", "halfway", "halfway_mapping", "mean", "mean_mapping"]

_ITERATIONS = 50
_TOLERANCE_VOXELS = 1e-3
_EXACT_VOXELS = 0.05  # beyond this a warning is issued


@dataclass(frozen=True)
class HalfError:
    """Hold the error in mm of the half applied twice, at voxels where both steps stay inside the field.

    Parameters
    ----------
    mean, largest : float
        In millimetres.
    """

    mean: float
    largest: float

    def __str__(self) -> str:
        return (
            f"applied twice it differs from the whole by {self.mean:.3g} mm on average, {self.largest:.3g} mm at most"
        )


def halfway(transform: Any, *, reference: Any = None) -> tuple[Any, HalfError | None]:
    """Find the transform that, applied twice, is the given one.

    Parameters
    ----------
    transform : transform, matrix, DisplacementField, str, path-like or list
        From fixed to moving points, of every kind :func:`itk_pdd.warp_image` takes.
    reference : itk.Image, SimpleITK.Image, Grid, str or path-like, optional
        The fixed image: the half becomes a displacement field on its grid. Not needed for linear transforms, whose
        half is exact, nor for fields, which have a grid.

    Returns
    -------
    transform : itk.Transform or SimpleITK.Transform
        From fixed points to the middle, in the kind of what was given.
    error : HalfError or None
        How exact it is; None for a linear transform.

    Raises
    ------
    RegistrationError
        If something cannot be read, a matrix has no real square root (it mirrors or turns by 180 degrees), or there is
        no grid.
    """
    half, error = halfway_mapping(as_mapping(transform), None if reference is None else reference_grid(reference))
    return mapping_answer(half, [transform, reference]), error


def mean(transforms: Any, *, reference: Any = None) -> Any:
    """Average several transforms of one fixed image.

    Parameters
    ----------
    transforms : list
        From fixed to moving points, each of a kind :func:`itk_pdd.warp_image` takes (a list within it is composed).
    reference : itk.Image, SimpleITK.Image, Grid, str or path-like, optional
        The fixed image, on whose grid displacements are averaged; by default the grid of the first field.

    Returns
    -------
    itk.Transform or SimpleITK.Transform
        If all are linear and there is no reference, the log-Euclidean mean: an affine transform, a rotation where all
        turn about the same axis. Otherwise the field that takes each fixed point to the mean of the points it is
        taken to: right for shape averages of small differences, no mean of rotations.

    Raises
    ------
    RegistrationError
        If something cannot be read, the dimensions differ, or a matrix has no real logarithm.

    References
    ----------
    Arsigny V. et al., "A Log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006.
    """
    items = list(transforms) if isinstance(transforms, list | tuple) else [transforms]
    if not items:
        raise RegistrationError("transforms is an empty list, expected at least one transform")
    mappings = [as_mapping(item, name=f"transforms[{number}]") for number, item in enumerate(items)]
    grid = None if reference is None else reference_grid(reference)
    return mapping_answer(mean_mapping(mappings, grid), [*items, reference])


def halfway_mapping(mapping: Mapping, grid: Grid | None) -> tuple[Mapping, HalfError | None]:
    """Find the mapping that, applied twice, is the given one; see :func:`halfway`."""
    if mapping.matrix is not None and grid is None:
        return AffineMapping(_function_of_matrix("sqrtm", mapping.matrix)), None
    grid = _grid_for(mapping, mapping.grid if grid is None else grid)
    field, voxel = mapping.field(grid), min(grid.spacing)
    half = DisplacementField((field.vectors / 2).astype(np.float32), grid)
    before = np.inf
    for _ in range(_ITERATIONS):
        left, inside = _left_over(half, field)
        largest = float(np.linalg.norm(left[inside], axis=-1).max(initial=0))
        if largest <= _TOLERANCE_VOXELS * voxel or largest >= before:
            break
        before, half = largest, DisplacementField(half.vectors + left / 2, grid)
    left, inside = _left_over(half, field)
    distances = np.linalg.norm(left[inside], axis=-1)
    if not len(distances):
        raise RegistrationError("transform takes every point out of the reference: give a larger one")
    error = HalfError(float(distances.mean(dtype=float)), float(distances.max()))
    if error.largest > _EXACT_VOXELS * voxel:
        warn(f"the halfway transform is not exact to {_EXACT_VOXELS} voxel: {error}")
    return FieldMapping(half), error


def mean_mapping(mappings: list[Mapping], grid: Grid | None) -> Mapping:
    """Average mappings; see :func:`mean`."""
    matrices = [mapping.matrix for mapping in mappings if mapping.matrix is not None]
    if grid is None and len(matrices) == len(mappings):
        logarithms = [_function_of_matrix("logm", matrix) for matrix in matrices]
        return AffineMapping(_function_of_matrix("expm", np.mean(logarithms, axis=0)))
    if grid is None:
        grid = next((mapping.grid for mapping in mappings if mapping.grid is not None), None)
    total = None
    for mapping in mappings:
        grid = _grid_for(mapping, grid)
        vectors = mapping.field(grid).vectors
        total = vectors.astype(float) if total is None else total + vectors
    assert total is not None and grid is not None  # there is at least one mapping
    return FieldMapping(DisplacementField((total / len(mappings)).astype(np.float32), grid))


def _left_over(half: DisplacementField, whole: DisplacementField) -> tuple[np.ndarray, np.ndarray]:
    """Give what the half applied twice lacks of the whole, and where its second step is inside the grid."""
    middle = half.grid.points() + half.vectors
    twice = half.vectors + half.at(middle, outside="nearest")
    return whole.vectors - twice, half.grid.contains(middle)


def _grid_for(mapping: Mapping, grid: Grid | None) -> Grid:
    if grid is None:
        raise RegistrationError("there is no reference, and no field with a grid: give the fixed image")
    check_dimension(mapping, grid)
    check_reach(mapping, grid)
    return grid


def _function_of_matrix(name: str, matrix: np.ndarray) -> np.ndarray:
    from scipy import linalg

    values = np.linalg.eigvals(matrix)
    if name != "expm" and ((values.real <= 0) & (np.abs(values.imag) <= 1e-9 * np.abs(values))).any():
        raise RegistrationError(
            "transform mirrors or turns by 180 degrees, so that it has no real square root or logarithm"
        )
    result = np.real(getattr(linalg, name)(matrix))
    result[-1] = np.eye(len(matrix))[-1] if name != "logm" else 0
    return result
