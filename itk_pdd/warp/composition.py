"""Several transforms as one, and transforms backwards."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid, slabs
from itk_pdd.geometry.inversion import EXACT, InverseError, inverse_vectors
from itk_pdd.geometry.mapping import AffineMapping, Chain, FieldMapping, Mapping, check_reach, parts_of
from itk_pdd.io.images import reference_grid
from itk_pdd.io.transforms import as_mapping, mapping_answer
from itk_pdd.warp.fit import check_dimension

__all__ = ["compose", "inverse_field", "invert", "kept_apart", "simplest"]

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
    mapping, given = as_mapping(transforms), [transforms, reference]
    if reference is None:
        return mapping_answer(simplest(mapping), given)
    grid = reference_grid(reference)
    check_dimension(mapping, grid)
    check_reach(mapping, grid)
    return mapping_answer(FieldMapping(mapping.field(grid)), given)


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
        How exact it is; None for a linear transform. A warning is issued if more than one voxel in a thousand is not
        exact to 0.05 voxel, because the transform folds there.

    Raises
    ------
    RegistrationError
        If something cannot be read, or there is no reference for a transform that is not linear.
    """
    mapping, given = as_mapping(transform), [transform, reference]
    if reference is None and mapping.matrix is not None:
        return mapping_answer(AffineMapping(np.linalg.inv(mapping.matrix)), given), None
    if reference is None:
        raise RegistrationError("there is no reference: give the moving image, on whose grid the inverse is computed")
    field, error = inverse_field(mapping, reference_grid(reference))
    return mapping_answer(FieldMapping(field), given), error


def inverse_field(mapping: Mapping, grid: Grid) -> tuple[DisplacementField, InverseError]:
    """Compute the inverse as a field on the grid of the moving image, and its error; see :func:`invert`.

    The log tells the error; a warning is issued where the transform folds.
    """
    check_dimension(mapping, grid)
    vectors, error = inverse_vectors(mapping, grid)
    log.info("%s", error)
    if error.solved < 0.999:
        warn(
            f"{100 - 100 * error.solved:.3g} % of the voxels of the inverse are not exact to {EXACT} voxel (largest "
            f"error {error.largest:.3g} mm): the transform folds there"
        )
    return DisplacementField(vectors, grid), error


def simplest(mapping: Mapping) -> Mapping:
    """Return an affine mapping if all parts are linear, else the mapping itself."""
    return mapping if mapping.matrix is None else AffineMapping(mapping.matrix)


def kept_apart(field: DisplacementField, initial: Mapping | None) -> Chain:
    """Take a field that includes its initial transform apart: "initial after deformable part".

    The first part of the chain is the deformable part on the grid of the fixed image, its last the initial transform;
    beyond that grid the initial transform goes on alone. An initial transform that folds is refused: the parts cannot
    be told apart.
    """
    if initial is None:
        return Chain((FieldMapping(field),))
    vectors = np.empty_like(field.vectors)
    voxel = min(field.grid.spacing)
    for slab, points in slabs(field.grid):
        # Where the initial transform has to act so that the whole ends where the field says.
        between, residuals = initial.invert(points + field.vectors[slab], tolerance=0.001 * voxel)
        vectors[slab] = between - points
        worst = float(residuals.max())
        if worst > EXACT * voxel:
            raise RegistrationError(
                f"the initial transform folds, so that the deformable part cannot be kept apart (off by {worst:.3g} "
                "mm): write the field as a whole"
            )
    return Chain((FieldMapping(DisplacementField(vectors, field.grid)), *parts_of(initial)))
