"""Transforms composed, kept apart and inverted."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, rotation, to_itk, wave

from itk_pdd import compose, invert
from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping, FieldMapping
from itk_pdd.io.fields import field_to_itk
from itk_pdd.io.files import read_transform, write_transform
from itk_pdd.io.transforms import as_mapping, mapping_to_simpleitk
from itk_pdd.warp.composition import inverse_field, kept_apart

GRID = GEOMETRIES["oblique"]
MATRIX = np.eye(4)
MATRIX[:3, :3], MATRIX[:3, 3] = rotation(10, 5, -20) @ np.diag([1.1, 0.9, 1.05]), (40.0, -30.0, 11.0)
POINTS = GRID.to_physical(np.random.default_rng(0).uniform(2, np.asarray(GRID.size) - 3, (30, 3)))
SMOOTH = Grid.create((33, 29, 27), (2.0, 2.5, 3.0), (-13.0, 40.0, 7.5), rotation(20, -15, 40))


def applied(transform, points: np.ndarray = POINTS) -> np.ndarray:
    return np.array([list(transform.TransformPoint(point.tolist())) for point in points])


def test_composite_and_one_field_map_alike() -> None:
    import itk

    field = wave(GRID)
    expected = (POINTS + field.at(POINTS)) @ MATRIX[:3, :3].T + MATRIX[:3, 3]
    both = compose([field_to_itk(field), MATRIX])
    assert isinstance(both, itk.CompositeTransform[itk.D, 3])
    np.testing.assert_allclose(applied(both), expected, atol=1e-4)
    one = compose([field, MATRIX], reference=blobs(GRID).to_simpleitk())
    assert one.GetTransformEnum() == SimpleITK.sitkDisplacementField
    np.testing.assert_allclose(applied(one), expected, atol=1e-3)
    assert isinstance(compose([MATRIX, np.linalg.inv(MATRIX)]), itk.AffineTransform[itk.D, 3])
    np.testing.assert_allclose(applied(compose([MATRIX, np.linalg.inv(MATRIX)])), POINTS, atol=1e-9)
    with pytest.raises(RegistrationError, match="transform is 3-D but the reference is 2-D"):
        compose([field], reference=GEOMETRIES["oblique 2-D"])


@pytest.mark.parametrize("name", ["c.h5", "c.tfm"])
@pytest.mark.parametrize("kind", ["affine", "field", "none"])
def test_initial_transform_kept_apart(tmp_path, name: str, kind: str) -> None:
    """The composite maps like the whole field, and its first member is the initial transform as it was."""
    deformable = wave(GRID)
    initial = {
        "affine": AffineMapping(MATRIX),
        "field": FieldMapping(wave(GRID.padded([3] * 3, [3] * 3), amplitude=2.0)),
        "none": None,
    }[kind]
    points = GRID.points()
    moved = points + deformable.vectors
    whole = DisplacementField(((moved if initial is None else initial(moved)) - points).astype(np.float32), GRID)
    write_transform(mapping_to_simpleitk(kept_apart(whole, initial)), tmp_path / name)
    composite = SimpleITK.CompositeTransform(read_transform(tmp_path / name))
    assert composite.GetNumberOfTransforms() == (1 if initial is None else 2)
    voxels = points[2:-2:3, 2:-2:3, 2:-2:3].reshape(-1, 3)
    np.testing.assert_allclose(applied(composite, voxels), voxels + whole.at(voxels), atol=5e-3)
    if initial is not None:
        np.testing.assert_allclose(applied(composite.GetNthTransform(0)), initial(POINTS), atol=1e-3)
        last = SimpleITK.DisplacementFieldTransform(composite.GetNthTransform(1)).GetDisplacementField()
        np.testing.assert_allclose(SimpleITK.GetArrayFromImage(last), deformable.vectors, atol=5e-3)


def test_inverse_of_its_own() -> None:
    field = wave(SMOOTH, amplitude=3.0)
    inverse, error = invert(field, reference=SMOOTH)
    assert error.solved == 1
    points = SMOOTH.to_physical(np.random.default_rng(0).uniform(5, np.asarray(SMOOTH.size) - 6, (100, 3)))
    distance = np.linalg.norm(applied(inverse, points + field.at(points)) - points, axis=-1)
    assert distance.max() < 0.05 * min(SMOOTH.spacing)
    assert distance.mean() < 2 * error.mean
    assert distance.max() <= error.largest + 1e-3
    # Backwards the affine comes first: the inverse lies on the grid of the moving image.
    turned = rotation(10, 5, -20) @ np.asarray(SMOOTH.direction)
    moved = Grid.create(SMOOTH.size, SMOOTH.spacing, (MATRIX @ SMOOTH.affine[:, 3])[:3], turned)
    both, error = invert([field, MATRIX], reference=moved)
    there = as_mapping([field, MATRIX])(points)
    np.testing.assert_allclose(applied(both, there), points, atol=0.15)
    assert error.solved == 1


def test_inverse_of_linear_transforms_is_exact() -> None:
    import itk

    inverse, error = invert(MATRIX)
    assert error is None
    assert isinstance(inverse, itk.AffineTransform[itk.D, 3])
    np.testing.assert_allclose(applied(inverse, as_mapping(MATRIX)(POINTS)), POINTS, atol=1e-9)


def test_inverse_asks_for_the_moving_image() -> None:
    with pytest.raises(RegistrationError, match="give the moving image"):
        invert(wave(GRID))
    with pytest.raises(RegistrationError, match="no point of the fixed image into the reference"):
        far = Grid.create((5, 6, 7), 1.0, 900.0)
        invert(wave(GRID), reference=far)


def test_itk_in_itk_out() -> None:
    import itk

    inverse, _ = invert(field_to_itk(wave(GRID)), reference=to_itk(blobs(GRID)))
    assert isinstance(inverse, itk.DisplacementFieldTransform[itk.D, 3])


def test_inverse_brings_points_back() -> None:
    field = wave(GRID)
    inverse, _ = inverse_field(FieldMapping(field), GRID)
    inner = GRID.points()[3:-3, 3:-3, 3:-3].reshape(-1, 3)
    assert np.linalg.norm(field(inverse(inner)) - inner, axis=-1).max() < 0.02
    folded = DisplacementField(wave(GRID, amplitude=40).vectors, GRID)
    with pytest.warns(RegistrationWarning, match="not exact to 0.05 voxel"):
        inverse_field(FieldMapping(folded), GRID)
