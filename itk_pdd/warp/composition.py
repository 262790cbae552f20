"""Several transforms as one, and transforms backwards."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.chain import Chain, as_chain
from itk_pdd.geometry.field import DisplacementField, slabs
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.inversion import EXACT, InverseError, round_trip
from itk_pdd.geometry.mapping import AffineMapping, FieldMapping, Mapping
from itk_pdd.io import files
from itk_pdd.io.fields import field_from_image, field_to_itk, field_to_simpleitk
from itk_pdd.io.images import is_itk, is_simpleitk, reference_grid
from itk_pdd.io.transforms import affine_to_simpleitk, matrix_of

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["compose", "composite_of", "inverse_field", "invert", "kept_apart", "transform_to_itk"]

log = logging.getLogger("itk_pdd")


def compose(transforms: Any, *, reference: Any = None) -> Any:
    """Several transforms as one.

    Parameters
    ----------
    transforms : list
        From fixed to moving points, of every kind :func:`itk_pdd.warp_image` takes, in ANTs' order: a point of the
        fixed image goes through the first one first (ITK's CompositeTransform holds them the other way round).
    reference : itk.Image, SimpleITK.Image, Grid, str or path-like, optional
        Without it nothing is sampled: the answer is an affine transform if all are linear, else a composite. With it
        the answer is one displacement field transform on the grid of this image.

    Returns
    -------
    itk.Transform or SimpleITK.Transform
        SimpleITK's if some transform or the reference is SimpleITK's and nothing is itk's.

    Raises
    ------
    RegistrationError
        If something cannot be read, the dimensions differ, or no point of the reference gets to some field.
    """
    chain, given = as_chain(transforms), [transforms, reference]
    if reference is None:
        return _answer(composite_of(chain), given)
    grid = reference_grid(reference)
    _check_same_dimension(chain, grid)
    chain.check_reach(grid)
    return _answer(field_to_simpleitk(chain.field(grid)), given)


def invert(transform: Any, *, reference: Any = None) -> tuple[Any, InverseError | None]:
    """The inverse as a transform of its own, from moving to fixed points.

    Parameters
    ----------
    transform : transform, matrix, DisplacementField, str, path-like or list
        From fixed to moving points, of every kind :func:`itk_pdd.warp_image` takes.
    reference : itk.Image, SimpleITK.Image, Grid, str or path-like, optional
        The moving image: the inverse becomes a displacement field on its grid. Not needed for linear transforms, whose
        inverse is exact.

    Returns
    -------
    transform : itk.Transform or SimpleITK.Transform
        In the kind of what was given.
    error : InverseError or None
        How exact it is; None for a linear transform. A warning says so if more than one voxel in a thousand is not
        exact to 0.05 voxel, because the transform folds there.

    Raises
    ------
    RegistrationError
        If something cannot be read, or there is no reference for a transform that is not linear.
    """
    chain, given = as_chain(transform), [transform, reference]
    if reference is None and chain.matrix is not None:
        return _answer(affine_to_simpleitk(np.linalg.inv(chain.matrix)), given), None
    if reference is None:
        raise RegistrationError("there is no reference: give the moving image, on whose grid the inverse is computed")
    field, error = inverse_field(chain, reference_grid(reference))
    return _answer(field_to_simpleitk(field), given), error


def inverse_field(chain: Chain, grid: Grid) -> tuple[DisplacementField, InverseError]:
    """The inverse of a chain as a field on the grid of the moving image, and how exact it is; see :func:`invert`."""
    _check_same_dimension(chain, grid)
    vectors = np.empty((*grid.shape, grid.dimension), np.float32)
    voxel, reached, solved = min(grid.spacing), 0, 0
    for slab, points in slabs(grid):
        solutions, residuals = chain.backward(points, tolerance=0.005 * voxel)
        vectors[slab] = solutions - points
        # The transform says nothing about the rest.
        known = ~chain.outside(solutions)
        reached += int(known.sum())
        solved += int((residuals[known] <= EXACT * voxel).sum())
    inverse = DisplacementField(vectors, grid)
    distances = round_trip(chain.field(chain.grid or grid), inverse)
    if not reached or not len(distances):
        raise RegistrationError(
            "transform takes no point of the fixed image into the reference, which has to be the moving image for an "
            "inverse"
        )
    most = float(np.percentile(distances, 99))
    error = InverseError(solved / reached, float(distances.mean(dtype=float)), most, float(distances.max()))
    log.info("%s", error)
    if error.solved < 0.999:
        warnings.warn(
            f"{100 - 100 * error.solved:.3g} % of the voxels of the inverse are not exact to {EXACT} voxel (largest "
            f"error {error.largest:.3g} mm): the transform folds there",
            RegistrationWarning,
            stacklevel=3,
        )
    return inverse, error


def composite_of(chain: Chain) -> SimpleITK.Transform:
    """A chain as a composite of SimpleITK (the last of it is applied first), or as an affine if all is linear."""
    import SimpleITK

    if chain.matrix is not None:
        return affine_to_simpleitk(chain.matrix)
    transform = chain.transform
    if transform.GetTransformEnum() != SimpleITK.sitkComposite:
        return transform
    flat = SimpleITK.CompositeTransform(transform)
    flat.FlattenTransform()
    return flat


def kept_apart(field: DisplacementField, initial: Mapping | None) -> SimpleITK.Transform:
    """A field that includes its initial transform as the composite "initial after deformable part".

    Parameters
    ----------
    field : DisplacementField
        From fixed to moving points, the initial transform included.
    initial : AffineMapping, FieldMapping or None
        The initial transform, from fixed to moving points.

    Returns
    -------
    SimpleITK.CompositeTransform
        Its first member is the initial transform and its last, applied first, the deformable part on the grid of the
        fixed image; beyond that grid the initial transform goes on alone.

    Raises
    ------
    RegistrationError
        If the initial transform is a field that folds, so that the parts cannot be told apart.
    """
    import SimpleITK

    if initial is None:
        return SimpleITK.CompositeTransform([field_to_simpleitk(field)])
    if isinstance(initial, AffineMapping):
        first = affine_to_simpleitk(initial.matrix)
    elif isinstance(initial, FieldMapping):
        first = field_to_simpleitk(initial.displacement)
    else:
        raise TypeError(f"cannot write a {type(initial).__name__}")
    chain, vectors = as_chain(first), np.empty_like(field.vectors)
    voxel = min(field.grid.spacing)
    for slab, points in slabs(field.grid):
        # Where the initial transform has to act so that the whole ends where the field says.
        between, residuals = chain.backward(points + field.vectors[slab], tolerance=0.001 * voxel)
        vectors[slab] = between - points
        worst = float(residuals.max())
        if worst > EXACT * voxel:
            raise RegistrationError(
                f"the initial transform folds, so that the deformable part cannot be kept apart (off by {worst:.3g} "
                "mm): write the field as a whole"
            )
    return SimpleITK.CompositeTransform([first, field_to_simpleitk(DisplacementField(vectors, field.grid))])


def _check_same_dimension(chain: Chain, grid: Grid) -> None:
    if chain.dimension != grid.dimension:
        raise RegistrationError(
            f"transform is {chain.dimension}-D but the reference is {grid.dimension}-D: expected the same dimension"
        )


def _answer(transform: SimpleITK.Transform, given: list[Any]) -> Any:
    """SimpleITK's transform in the kind of what was given."""
    import SimpleITK

    items = [part for item in given for part in (item if isinstance(item, list | tuple) else [item])]
    theirs = any(is_simpleitk(item) or isinstance(item, SimpleITK.Transform) for item in items)
    return transform if theirs and not any(is_itk(item) for item in items) else transform_to_itk(transform)


def transform_to_itk(transform: SimpleITK.Transform) -> Any:
    """A transform of SimpleITK as one of itk's, in double precision."""
    import itk
    import SimpleITK

    dimension = transform.GetDimension()
    if transform.IsLinear():
        matrix = matrix_of(transform, dimension)
        affine = itk.AffineTransform[itk.D, dimension].New()
        affine.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(matrix[:-1, :-1])))
        affine.SetTranslation(matrix[:-1, -1].tolist())
        return affine
    kind = transform.GetTransformEnum()
    if kind == SimpleITK.sitkComposite:
        composite = itk.CompositeTransform[itk.D, dimension].New()
        parts = SimpleITK.CompositeTransform(transform)
        for number in range(parts.GetNumberOfTransforms()):
            composite.AddTransform(transform_to_itk(parts.GetNthTransform(number)))
        return composite
    if kind == SimpleITK.sitkDisplacementField:
        field = SimpleITK.DisplacementFieldTransform(transform).GetDisplacementField()
        return field_to_itk(field_from_image(field, name="transform"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transform.h5"
        files.write_transform(transform, path)
        return itk.down_cast(itk.transformread(str(path))[0])
