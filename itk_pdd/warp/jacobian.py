"""The Jacobian determinant of transforms."""

from __future__ import annotations

from typing import Any

import numpy as np

from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.jacobian import jacobian_determinant as determinant_of
from itk_pdd.geometry.mapping import Mapping, check_reach
from itk_pdd.io.images import answer, simpleitk_image
from itk_pdd.io.transforms import as_mapping
from itk_pdd.warp.fit import grid_for

__all__ = ["determinants", "jacobian_determinant"]


def jacobian_determinant(transform: Any, *, reference: Any = None) -> Any:
    """Compute the Jacobian determinant of a transform from fixed to moving points, per voxel of the fixed image.

    Parameters
    ----------
    transform, reference
        As for :func:`warp_image`.

    Returns
    -------
    itk.Image or SimpleITK.Image
        float32: above 1 where the moving image is larger than the fixed one, not positive where the transform folds.
        SimpleITK's if the reference is, itk's otherwise. Central differences between voxels, one-sided at the border.
        The border of a field that is smaller than the reference is no fold: outside, what moves nothing counts as 1.
    """
    determinant, grid, _ = determinants(as_mapping(transform), reference)
    return answer(simpleitk_image(determinant, grid), reference, reference, same_pixels=False)


def determinants(mapping: Mapping, reference: Any) -> tuple[np.ndarray, Grid, float]:
    """Compute the determinant per voxel, float32 (z, y, x), its grid, and the share of it that is inside all fields."""
    grid = grid_for(mapping, reference)
    check_reach(mapping, grid)
    determinant, inside = determinant_of(mapping, grid)
    return determinant, grid, inside
