"""Images of micrometres per voxel are images too: tolerances are in voxels, and borders of fields are no folds."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import rotation, wave

from itk_pdd import invert, jacobian_determinant, warp_points
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.transforms import as_mapping

MILLI = np.diag([0.001, 0.001, 0.001, 1.0])


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_inverses_in_voxels_do_not_depend_on_the_unit(scale: float) -> None:
    """The same field of 1 voxel in three units: points and fields come back alike."""
    grid = Grid.create((24, 22, 20), scale, 5 * scale, rotation(20, -15, 40))
    field = wave(grid, amplitude=1.5 * scale)
    points = grid.to_physical(np.random.default_rng(0).uniform(4, 15, (200, 3)))
    there = warp_points(points, field, to="moving")
    back = warp_points(there, field, to="fixed")
    assert np.abs(back - points).max() < 1e-3 * scale
    _, error = invert(field, reference=grid)
    assert error.solved == 1
    assert error.largest < 0.25 * scale


@pytest.mark.parametrize("order", ["field first", "affine first"])
def test_chain_between_two_units(order: str) -> None:
    """A field in micrometres taken as millimetres, and an affine mapping to an image in millimetres."""
    grid = Grid.create((24, 22, 20), 1000.0)
    field = wave(grid, amplitude=1500.0)
    small = DisplacementField((field.vectors * 0.001).astype(np.float32), Grid.create(grid.size, 1.0))
    chain = [field, MILLI] if order == "field first" else [MILLI, small]
    points = grid.to_physical(np.random.default_rng(0).uniform(4, 15, (100, 3)))
    there = warp_points(points, chain, to="moving")
    np.testing.assert_allclose(there, small(points * 0.001), atol=1e-3)
    assert np.abs(warp_points(there, chain, to="fixed") - points).max() < 1.0  # a thousandth of a voxel
    _, error = invert(chain, reference=Grid.create(grid.size, 1.0))
    assert error.solved == 1
    assert error.largest < 250


def test_linear_transforms_of_any_scale() -> None:
    for scale in (1e-6, 1e-3, 1e3, 1e6):
        mapping = as_mapping(np.diag([scale, scale, scale, 1.0]))
        np.testing.assert_allclose(mapping.invert(mapping(np.ones((1, 3))))[0], 1)


def test_border_of_a_field_is_no_fold() -> None:
    """A pure shift on a part of the reference: 1 everywhere, however far it shifts."""
    reference = Grid.create((30, 28, 26), 2.0)
    inner = reference.padded([-2] * 3, [-3] * 3)
    shift = DisplacementField.from_function(lambda p: p + np.array([9.0, -5.0, 4.0]), inner)
    found = SimpleITK.GetArrayFromImage(jacobian_determinant(shift, reference=_image(reference)))
    np.testing.assert_allclose(found, 1, atol=1e-4)
    stretched = DisplacementField.from_function(lambda p: p + 0.1 * (p - inner.centre), inner)
    found = SimpleITK.GetArrayFromImage(jacobian_determinant([stretched, np.diag([2.0, 2, 2, 1])],
                                                             reference=_image(reference)))  # fmt: skip
    inside = inner.contains(reference.points())
    np.testing.assert_allclose(found[inside], 8 * 1.1**3, rtol=1e-3)
    np.testing.assert_allclose(found[~inside], 8, rtol=1e-3)


def _image(grid: Grid) -> SimpleITK.Image:
    image = SimpleITK.Image([int(n) for n in grid.size], SimpleITK.sitkUInt8)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    return image
