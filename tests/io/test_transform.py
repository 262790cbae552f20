"""Fields become transforms and files that ITK and SimpleITK read as the same mapping of physical points."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, to_itk, wave

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import (
    field_from_image,
    field_from_simpleitk,
    field_to_image,
    field_to_itk,
    field_to_itk_image,
    field_to_simpleitk,
    read_field,
    write_field,
)
from itk_pdd.io.outputs import OutputError

OBLIQUE, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def some_voxels(grid: Grid, count: int = 20) -> np.ndarray:
    """Indices (n, dim), components x, y, z."""
    return np.random.default_rng(3).integers(0, grid.size, (count, grid.dimension))


def assert_maps_like(transform, field: DisplacementField, *, tolerance: float = 1e-5) -> None:
    """The transform takes the centres of voxels to where the field says."""
    for index in some_voxels(field.grid):
        point = field.grid.to_physical(index)
        expected = point + field.vectors[tuple(index[::-1])]
        np.testing.assert_allclose(list(transform.TransformPoint(point.tolist())), expected, atol=tolerance)


def test_transforms_map_physical_points(grid: Grid) -> None:
    import itk

    field = wave(grid)
    transform = field_to_itk(field)
    assert isinstance(transform, itk.DisplacementFieldTransform[itk.D, grid.dimension])
    assert_maps_like(transform, field)
    assert_maps_like(field_to_simpleitk(field), field)


def test_images_of_the_field_have_the_right_type_and_geometry(grid: Grid) -> None:
    import itk

    field = wave(grid)
    image = field_to_itk_image(field)
    assert isinstance(image, itk.Image[itk.Vector[itk.F, grid.dimension], grid.dimension])
    for back in (image, field_to_image(field)):
        again = field_from_image(back)
        assert again.grid.same_space(grid)
        np.testing.assert_array_equal(again.vectors, field.vectors)


def test_transform_outlives_what_it_was_made_from() -> None:
    field = wave(OBLIQUE)
    transforms = field_to_itk(field), field_to_simpleitk(field)
    expected = DisplacementField(field.vectors.copy(), OBLIQUE)
    field.vectors[:] = 0
    for transform in transforms:
        assert_maps_like(transform, expected)


@pytest.mark.parametrize("name", ["u.nii", "u.nii.gz", "u.mha", "u.mhd", "u.nrrd", "u.nhdr"])
def test_field_images_are_read_by_itk(grid: Grid, tmp_path, name: str) -> None:
    import itk

    field = wave(grid)
    write_field(field, tmp_path / name)
    dimension = grid.dimension
    image = itk.imread(str(tmp_path / name), itk.Vector[itk.F, dimension])
    transform = itk.DisplacementFieldTransform[itk.F, dimension].New(displacement_field=image)
    assert_maps_like(transform, field, tolerance=1e-4)
    image = SimpleITK.ReadImage(str(tmp_path / name), SimpleITK.sitkVectorFloat64)
    assert_maps_like(SimpleITK.DisplacementFieldTransform(image), field)
    again = read_field(tmp_path / name)
    np.testing.assert_array_equal(again.vectors, field.vectors)
    assert again.grid.same_space(grid)


@pytest.mark.parametrize("name", ["t.h5", "t.hdf5", "t.tfm", "t.txt", "t.mat"])
def test_transform_files_are_read_by_itk(grid: Grid, tmp_path, name: str) -> None:
    import itk

    field = wave(grid)
    write_field(field, tmp_path / name)
    (transform,) = itk.transformread(str(tmp_path / name))
    assert_maps_like(transform, field)
    assert_maps_like(SimpleITK.ReadTransform(str(tmp_path / name)), field)
    np.testing.assert_allclose(read_field(tmp_path / name).vectors, field.vectors, atol=1e-6)


def test_nifti_field_says_that_it_holds_vectors(tmp_path) -> None:
    write_field(wave(OBLIQUE), tmp_path / "u.nii.gz")
    header = gzip.decompress((tmp_path / "u.nii.gz").read_bytes())[:348]
    assert struct.unpack_from("<h", header, 68) == (1007,), "intent code"
    assert struct.unpack_from("<8h", header, 40)[:6] == (5, 17, 14, 12, 1, 3), "x, y, z, 1, components"


def test_field_on_a_grid_that_begins_elsewhere() -> None:
    import itk

    field = wave(OBLIQUE)
    image = field_to_itk_image(field)
    region = itk.ImageRegion[3]([3, 2, 4], [6, 7, 5])
    part = itk.extract_image_filter(image, extraction_region=region, direction_collapse_to_strategy=1)
    assert list(part.GetLargestPossibleRegion().GetIndex()) == [3, 2, 4]
    again = field_from_image(part)
    np.testing.assert_array_equal(again.vectors, field.vectors[4:9, 2:9, 3:9])
    np.testing.assert_allclose(again.grid.origin, OBLIQUE.to_physical([3, 2, 4]), atol=1e-9)


def test_itk_resamples_with_the_transform_as_it_is() -> None:
    import itk

    moving, field = to_itk(blobs(OBLIQUE)), wave(OBLIQUE)
    warped = itk.resample_image_filter(
        moving, transform=field_to_itk(field), use_reference_image=True, reference_image=moving
    )
    by_hand = SimpleITK.Resample(blobs(OBLIQUE).to_simpleitk(), field_to_simpleitk(field))
    np.testing.assert_allclose(itk.array_view_from_image(warped), SimpleITK.GetArrayFromImage(by_hand), atol=1e-3)


def test_not_a_field(tmp_path) -> None:
    scalar = blobs(OBLIQUE).to_simpleitk()
    with pytest.raises(RegistrationError, match=r"field has 1 components per voxel in 3 dimensions"):
        field_from_image(scalar)
    vectors = field_to_image(wave(OBLIQUE))
    vectors[1, 2, 3] = (0.0, float("nan"), 0.0)
    with pytest.raises(RegistrationError, match=r"1 NaN or infinite displacements"):
        field_from_image(vectors)
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3), str(tmp_path / "t.tfm"))
    with pytest.raises(RegistrationError, match=r"holds a TranslationTransform, expected a displacement field"):
        read_field(tmp_path / "t.tfm")
    np.testing.assert_array_equal(field_from_simpleitk(field_to_simpleitk(wave(FLAT))).vectors, wave(FLAT).vectors)


def test_unknown_format_is_refused(tmp_path) -> None:
    for name, found in (("u.xfm", ".xfm"), ("u", ""), ("u.gz", ".gz"), ("U.NII.GZ", ".NII.GZ"), ("u.png", ".png")):
        with pytest.raises(OutputError, match=rf"extension '{found}' .*expected one of .nii"):
            write_field(wave(FLAT), tmp_path / name)
    assert not list(tmp_path.iterdir())
