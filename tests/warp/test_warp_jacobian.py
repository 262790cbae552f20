"""The Jacobian determinant of known transforms."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, rotation

from itk_pdd import jacobian_determinant
from itk_pdd.errors import RegistrationWarning
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.images import simpleitk_image

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def array_of(image) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(image)


def test_jacobian_of_an_affine_is_its_determinant(grid: Grid) -> None:
    turn = rotation(*((10, -20, 5) if grid.dimension == 3 else (10,)))
    matrix = np.eye(grid.dimension + 1)
    matrix[:-1, :-1] = turn @ np.diag([1.2, 0.8, 1.1][: grid.dimension])
    image = jacobian_determinant(matrix, reference=simpleitk_image(np.zeros(grid.shape), grid))
    np.testing.assert_allclose(array_of(image), np.linalg.det(matrix), rtol=1e-3)
    double = DisplacementField.from_function(lambda p: 2 * p, grid)
    import itk

    theirs = jacobian_determinant(double)
    assert isinstance(theirs, itk.Image[itk.F, grid.dimension])
    np.testing.assert_allclose(itk.array_view_from_image(theirs), 2**grid.dimension, rtol=1e-3)
    folded = DisplacementField.from_function(lambda p: p * [-1, *[1] * (grid.dimension - 1)], grid)
    assert (itk.array_view_from_image(jacobian_determinant(folded)) < 0).all()


@pytest.mark.parametrize("grid", [GRID, FLAT], ids=["3-D", "2-D"])
def test_the_border_of_a_field_smaller_than_the_reference_is_no_fold(grid: Grid) -> None:
    small = grid.padded([-3] * grid.dimension, [-3] * grid.dimension)
    shift = DisplacementField(np.full((*small.shape, grid.dimension), -7.0, np.float32), small)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)  # how much of the image lies outside
        found = array_of(jacobian_determinant(shift, reference=simpleitk_image(np.zeros(grid.shape), grid)))
    np.testing.assert_allclose(found, 1, atol=1e-5)
