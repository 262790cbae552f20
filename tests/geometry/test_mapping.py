"""Initial transforms of every kind become mappings of physical points."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, rotation, to_itk, wave

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping, FieldMapping, Mapping
from itk_pdd.io.fields import field_to_image, field_to_itk, field_to_itk_image, field_to_simpleitk, write_field
from itk_pdd.io.transforms import as_mapping as read_mapping

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]
POINTS = GRID.to_physical(np.random.default_rng(0).uniform(1, 10, (30, 3)))


def as_mapping(transform, grid: Grid) -> Mapping:
    return read_mapping(transform, dimension=grid.dimension, name="initial_transform")


def affine() -> SimpleITK.AffineTransform:
    transform = SimpleITK.AffineTransform(3)
    transform.SetMatrix((rotation(10, 5, -20) @ np.diag([1.1, 0.9, 1.05])).ravel().tolist())
    transform.SetTranslation([4.0, -3.0, 11.0])
    transform.SetCenter([30.0, 20.0, -10.0])
    return transform


def applied(transform, points: np.ndarray = POINTS) -> np.ndarray:
    return np.array([list(transform.TransformPoint(point.tolist())) for point in points])


def bspline() -> SimpleITK.BSplineTransform:
    transform = SimpleITK.BSplineTransformInitializer(blobs(GRID).to_simpleitk(), [4, 4, 4])
    count = len(transform.GetParameters())
    transform.SetParameters(np.random.default_rng(1).normal(0, 2, count).tolist())
    return transform


@pytest.mark.parametrize("name", ["a.tfm", "a.txt", "a.h5", "a.mat"])
def test_linear_transforms_in_files_are_exact(tmp_path, name: str) -> None:
    SimpleITK.WriteTransform(affine(), str(tmp_path / name))
    mapping = as_mapping(tmp_path / name, GRID)
    assert isinstance(mapping, AffineMapping)
    np.testing.assert_allclose(mapping(POINTS), applied(affine()), atol=1e-9)


LINEAR = {
    "affine": lambda: affine(),
    "translation": lambda: SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0)),
    "rigid": lambda: SimpleITK.Euler3DTransform((5.0, 4.0, 3.0), 0.1, 0.2, -0.3, (1.0, 2.0, 3.0)),
    "versor": lambda: SimpleITK.VersorRigid3DTransform((0.0, 0.6, 0.8), 0.3, (1.0, 2.0, 3.0), (9.0, 8.0, 7.0)),
    "scale": lambda: SimpleITK.ScaleTransform(3, (1.1, 0.8, 1.2)),
    "composite": lambda: SimpleITK.CompositeTransform([affine(), SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0))]),
    "inverse": lambda: affine().GetInverse(),
    "identity": lambda: SimpleITK.Transform(3, SimpleITK.sitkIdentity),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_linear_transforms_of_simpleitk_and_itk_are_exact(tmp_path, kind: str) -> None:
    import itk

    transform = LINEAR[kind]()
    SimpleITK.WriteTransform(transform, str(tmp_path / "t.h5"))
    theirs = itk.transformread(str(tmp_path / "t.h5"))
    # A composite is read as a list with the composite first.
    for given in (transform, theirs[0]):
        mapping = as_mapping(given, GRID)
        assert isinstance(mapping, AffineMapping)
        np.testing.assert_allclose(mapping(POINTS), applied(transform), atol=1e-9)


def test_float_transform_of_itk() -> None:
    import itk

    transform = itk.AffineTransform[itk.F, 3].New()
    transform.SetTranslation([1.5, -2.0, 0.25])
    np.testing.assert_allclose(as_mapping(transform, GRID)(POINTS), POINTS + np.array([1.5, -2.0, 0.25]), atol=1e-5)


def test_matrix() -> None:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(10, 20, 30), (1, 2, 3)
    np.testing.assert_allclose(as_mapping(matrix, GRID)(POINTS), POINTS @ rotation(10, 20, 30).T + [1, 2, 3])


def test_two_dimensions() -> None:
    points = FLAT.points()[::4, ::4]
    transform = SimpleITK.Euler2DTransform((3.0, 4.0), 0.2, (1.0, -1.0))
    expected = applied(transform, points.reshape(-1, 2)).reshape(points.shape)
    np.testing.assert_allclose(as_mapping(transform, FLAT)(points), expected, atol=1e-9)
    field = wave(FLAT)
    np.testing.assert_allclose(as_mapping(field_to_itk(field), FLAT)(FLAT.points()), FLAT.points() + field.vectors,
                               atol=1e-4)  # fmt: skip


def test_field_is_linear_between_voxels_and_goes_on_outside() -> None:
    field = wave(GRID)
    mapping = FieldMapping(field)
    np.testing.assert_allclose(mapping(GRID.points()), GRID.points() + field.vectors, atol=1e-4)
    between = GRID.to_physical(np.array([3.5, 4, 5]))
    mean = (field.vectors[5, 4, 3] + field.vectors[5, 4, 4]) / 2
    np.testing.assert_allclose(mapping(between), between + mean, atol=1e-5)
    outside = GRID.to_physical(np.array([-30.0, 4, 5]))
    np.testing.assert_allclose(mapping(outside), outside + field.vectors[5, 4, 0], atol=1e-5)


def test_bspline_is_sampled_on_the_fixed_grid_and_around_it() -> None:
    import itk

    transform = bspline()
    mapping = as_mapping(transform, GRID)
    voxels = GRID.points()[1::4, 1::4, 1::4].reshape(-1, 3)
    np.testing.assert_allclose(mapping(voxels), applied(transform, voxels), atol=1e-4)
    beyond = GRID.to_physical(np.array([[-1.0, 3, 4], [5, 15, 2]]))
    np.testing.assert_allclose(mapping(beyond), applied(transform, beyond), atol=1e-4)
    theirs = itk.BSplineTransform[itk.D, 3, 3].New()
    theirs.SetFixedParameters(itk.OptimizerParameters[itk.D](list(transform.GetFixedParameters())))
    theirs.SetParameters(itk.OptimizerParameters[itk.D](list(transform.GetParameters())))
    np.testing.assert_allclose(as_mapping(theirs, GRID)(voxels), mapping(voxels), atol=1e-4)


def test_displacement_fields_of_every_kind(tmp_path) -> None:
    field = wave(GRID)
    write_field(field, tmp_path / "u.nii.gz")
    write_field(field, tmp_path / "u.h5")
    expected = GRID.points() + field.vectors
    for given in (field, field_to_itk(field), field_to_simpleitk(field), tmp_path / "u.nii.gz", str(tmp_path / "u.h5")):
        np.testing.assert_allclose(as_mapping(given, GRID)(GRID.points()), expected, atol=2e-4)


def test_itk_field_that_begins_at_another_index() -> None:
    import itk

    field = wave(GRID)
    image = field_to_itk_image(field)
    region = itk.ImageRegion[3]([3, 2, 4], [10, 9, 7])
    part = itk.extract_image_filter(image, extraction_region=region, direction_collapse_to_strategy=1)
    double = itk.Image[itk.Vector[itk.D, 3], 3].New()
    double.CopyInformation(part)
    double.SetRegions(part.GetLargestPossibleRegion())
    double.Allocate()
    itk.array_view_from_image(double)[:] = itk.array_view_from_image(part)
    transform = itk.DisplacementFieldTransform[itk.D, 3].New(displacement_field=double)
    inner = np.s_[4:11, 2:11, 3:13]
    mapped = as_mapping(transform, GRID)(GRID.points())
    np.testing.assert_allclose(mapped[inner], (GRID.points() + field.vectors)[inner], atol=2e-4)
    # As in ITK nothing moves where the transform has no field.
    np.testing.assert_allclose(mapped[0], GRID.points()[0], atol=1e-9)


def test_list_in_ants_order(tmp_path) -> None:
    shift = SimpleITK.TranslationTransform(3, (5.0, 0.0, 0.0))
    turn = SimpleITK.Euler3DTransform((0.0, 0.0, 0.0), 0.0, 0.0, 0.4)
    mapping = as_mapping([turn, shift], GRID)
    assert isinstance(mapping, AffineMapping)
    np.testing.assert_allclose(mapping(POINTS), applied(turn) + np.array([5, 0, 0]), atol=1e-9)
    # Also with a field, a file and a matrix among them: u first, the matrix last.
    SimpleITK.WriteTransform(turn, str(tmp_path / "turn.tfm"))
    matrix = np.eye(4)
    matrix[:3, 3] = 5, 0, 0
    field = wave(GRID)
    mapped = as_mapping([field, tmp_path / "turn.tfm", matrix], GRID)(GRID.points()).reshape(-1, 3)
    expected = applied(turn, (GRID.points() + field.vectors).reshape(-1, 3)) + np.array([5, 0, 0])
    np.testing.assert_allclose(mapped, expected, atol=1e-4)


def test_itk_composite_with_a_field() -> None:
    import itk

    field = wave(GRID)
    shift = itk.TranslationTransform[itk.D, 3].New()
    shift.SetOffset([5.0, 0.0, 0.0])
    composite = itk.CompositeTransform[itk.D, 3].New()
    composite.AddTransform(shift)
    composite.AddTransform(field_to_itk(field))
    np.testing.assert_allclose(
        as_mapping(composite, GRID)(GRID.points()), GRID.points() + field.vectors + np.array([5, 0, 0]), atol=2e-4
    )


def garbage(folder) -> str:
    (folder / "bad.h5").write_bytes(b"no transform at all")
    return str(folder / "bad.h5")


def scalar_image(folder) -> str:
    SimpleITK.WriteImage(blobs(GRID).to_simpleitk(), str(folder / "scalar.nii.gz"))
    return str(folder / "scalar.nii.gz")


def flat_field(folder) -> str:
    write_field(wave(FLAT), folder / "flat.nii.gz")
    return str(folder / "flat.nii.gz")


BAD = {
    "missing": (lambda _: "/no/such.tfm", "there is no file"),
    "garbage": (garbage, "cannot be read as an ITK transform"),
    "scalar image": (scalar_image, "1 components per voxel"),
    "2-D transform": (lambda _: SimpleITK.Euler2DTransform(), "is 2-D but the fixed image is 3-D"),
    "2-D matrix": (lambda _: np.eye(3), "is 2-D but the fixed image is 3-D"),
    "2-D field": (flat_field, "is 2-D but the fixed image is 3-D"),
    "not square": (lambda _: np.eye(4)[:3], r"shape \(3, 4\), expected a homogeneous matrix"),
    "row vectors": (lambda _: np.eye(4) + np.eye(4)[[3]].T @ np.ones((1, 4)), "last row .* expected"),
    "singular": (lambda _: np.diag([1.0, 0, 1, 1]), "singular"),
    "NaN": (lambda _: np.diag([1.0, np.nan, 1, 1]), "NaN or infinite"),
    "no transform": (lambda _: 42, "of type int, expected an itk.Transform"),
    "image object": (lambda _: field_to_image(wave(GRID)), "of type Image, expected"),
    "empty list": (lambda _: [], "is an empty list, expected"),
    "list of the wrong": (lambda _: [np.eye(4), SimpleITK.Euler2DTransform()], r"initial_transform\[1\] is 2-D"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_what_is_no_transform_is_refused(tmp_path, case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(RegistrationError, match=message) as caught:
        as_mapping(make(tmp_path), GRID)
    assert str(caught.value).startswith("initial_transform")
    assert "\n" not in str(caught.value)


def test_itk_transform_of_another_dimension() -> None:
    import itk

    with pytest.raises(RegistrationError, match=r"initial_transform is 2-D but the fixed image is 3-D"):
        as_mapping(itk.AffineTransform[itk.D, 2].New(), GRID)
    with pytest.raises(RegistrationError, match=r"expected an itk.Transform"):
        as_mapping(to_itk(blobs(GRID)), GRID)
