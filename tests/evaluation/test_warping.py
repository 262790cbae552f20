"""Warping against SimpleITK's resampling and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from itk_pdd import DisplacementField, Grid, RegistrationError, Volume
from itk_pdd.evaluation import warping


def oblique(seed: int, size: tuple[int, ...], spacing: tuple[float, ...]) -> Grid:
    rng = np.random.default_rng(seed)
    dimension = len(size)
    q, _ = np.linalg.qr(np.eye(dimension) + 0.2 * rng.normal(size=(dimension, dimension)))
    q = q * np.sign(np.diag(q))
    return Grid.create(size, spacing, rng.normal(size=dimension), q)


def to_sitk(array: np.ndarray, grid: Grid, vector: bool = False):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.asarray(grid.direction).ravel().tolist())
    return image


@pytest.fixture(params=[2, 3])
def scene(request):
    dimension = request.param
    rng = np.random.default_rng(0)
    fixed = oblique(1, (9, 11, 8)[:dimension], (1.0, 1.5, 2.0)[:dimension])
    moving = oblique(2, (12, 10, 9)[:dimension], (0.9, 1.2, 2.2)[:dimension])
    field = DisplacementField(rng.normal(scale=2, size=(*fixed.shape, dimension)).astype(np.float32), fixed)
    image = Volume(rng.normal(size=moving.shape).astype(np.float32), moving)
    labels = Volume(rng.integers(1, 5, size=moving.shape).astype(np.uint8), moving)
    return field, image, labels


def test_images_and_labels_are_warped_as_itk_does(scene):
    import SimpleITK as sitk

    field, image, labels = scene
    transform = sitk.DisplacementFieldTransform(to_sitk(field.vectors.astype(np.float64), field.grid, True))
    reference = to_sitk(np.zeros(field.grid.shape, np.float32), field.grid)
    linear = sitk.Resample(to_sitk(image.array, image.grid), reference, transform, sitk.sitkLinear, -7.0)
    found = warping.warp_image(image, field, fill=-7.0)
    assert found.grid == field.grid
    assert found.array == pytest.approx(sitk.GetArrayFromImage(linear), abs=1e-4)
    assert (found.array == -7).any() and (found.array != -7).any()
    nearest = sitk.Resample(to_sitk(labels.array, labels.grid), reference, transform, sitk.sitkNearestNeighbor, 0)
    warped = warping.warp_labels(labels, field)
    assert warped.array.dtype == np.uint8
    assert np.array_equal(warped.array, sitk.GetArrayFromImage(nearest))


def test_a_translation_moves_the_image_the_other_way():
    grid = Grid.create((10, 8), (2.0, 1.0))
    image = Volume(np.arange(80.0, dtype=np.float32).reshape(8, 10), grid)
    field = DisplacementField(np.broadcast_to(np.float32([2.0, 1.0]), (8, 10, 2)).copy(), grid)
    warped = warping.warp_image(image, field).array
    assert np.array_equal(warped[:-1, :-1], image.array[1:, 1:])
    assert warped[-1, -1] == 0  # outside: the smallest value


def test_a_field_on_another_grid_is_interpolated_and_one_in_the_same_space_is_not():
    grid = oblique(3, (8, 9, 7), (1.0, 2.0, 0.5))
    matrix = np.random.default_rng(4).normal(size=(3, 3))
    field = DisplacementField((grid.points() @ matrix.T).astype(np.float32), grid)
    finer = grid.with_spacing(0.8)
    index = grid.to_index(finer.points())
    inside = np.all((index >= 0) & (index <= np.asarray(grid.size) - 1), axis=-1)
    found = warping.onto_grid(field, finer)
    assert found.vectors[inside] == pytest.approx((finer.points() @ matrix.T)[inside], abs=1e-3)
    rounded = Grid.create(grid.size, np.float32(grid.spacing), np.float32(grid.origin), np.float32(grid.direction))
    assert warping.onto_grid(field, rounded).vectors is field.vectors


def test_target_registration_error():
    grid = Grid.create((20, 20, 20))
    field = DisplacementField(np.broadcast_to(np.float32([1, 2, 3]), (20, 20, 20, 3)).copy(), grid)
    fixed = np.array([[3.5, 4.2, 5.0], [10, 10, 10], [100, 0, 0]])
    moving = fixed + np.array([1, 2, 3])
    assert warping.target_registration_error(fixed, moving) == pytest.approx([14**0.5] * 3)
    assert warping.target_registration_error(fixed, moving, field) == pytest.approx([0, 0, 14**0.5], abs=1e-6)
    with pytest.raises(RegistrationError, match="equal length"):
        warping.target_registration_error(fixed, moving[:2])


def test_inverse_consistency():
    grid = Grid.create((12, 12), (1.0, 2.0))
    forward = DisplacementField(np.broadcast_to(np.float32([3, 0]), (12, 12, 2)).copy(), grid)
    exact = DisplacementField(-forward.vectors, grid)
    error = warping.inverse_consistency_error(forward, exact)
    assert np.isnan(error[:, 9:]).all()
    assert error[:, :9] == pytest.approx(0)
    short = DisplacementField(-forward.vectors * 0.5, grid)
    assert warping.inverse_consistency_error(forward, short)[:, :9] == pytest.approx(1.5)
