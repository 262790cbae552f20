"""Images are read as what they are, and refused with one sentence if they cannot be registered."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, rotation, to_itk
from PIL import Image

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.images import image_kind
from itk_pdd.io.volume import Volume

GRID = GEOMETRIES["oblique"]


def physical_values(image, index) -> tuple:
    return tuple(image.TransformIndexToPhysicalPoint(index)), image.GetPixel(index)


def test_simpleitk_image_keeps_its_voxels_at_their_physical_places(grid: Grid) -> None:
    image = blobs(grid).to_simpleitk()
    volume = Volume.from_image(image)
    index = [2, 5, 1][: grid.dimension]
    place, value = physical_values(image, index)
    np.testing.assert_allclose(volume.grid.to_physical(index), place, atol=1e-9)
    assert volume.array[tuple(index[::-1])] == value


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float32", "float64"])
def test_to_itk_keeps_its_voxels_at_their_physical_places(grid: Grid, dtype: str) -> None:
    import itk

    volume = blobs(grid, dtype=dtype)
    image = volume.to_itk()
    index = [2, 5, 1][: grid.dimension]
    place, value = physical_values(image, index)
    np.testing.assert_allclose(volume.grid.to_physical(index), place, atol=1e-9)
    assert volume.array[tuple(index[::-1])] == value
    assert type(image) is type(itk.image_from_array(np.zeros(grid.shape, "uint8" if dtype == "bool" else dtype)))
    image.SetPixel(index, 77)
    assert volume.array[tuple(index[::-1])] == value, "it is a copy"


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_to_itk_refuses_pixel_types_that_itk_lacks(dtype: str) -> None:
    with pytest.raises(RegistrationError, match=rf"itk has no images of {dtype} voxels"):
        blobs(GRID, dtype=dtype).to_itk()


@pytest.mark.parametrize("start", [0, 7, -3])
def test_itk_image_with_any_start_index(grid: Grid, start: int) -> None:
    image = to_itk(blobs(grid), start=start)
    volume = Volume.from_image(image)
    index = np.array([2, 5, 1][: grid.dimension])
    place = image.TransformIndexToPhysicalPoint((index + start).tolist())
    np.testing.assert_allclose(volume.grid.to_physical(index), list(place), atol=1e-9)
    assert volume.array[tuple(index[::-1])] == image.GetPixel((index + start).tolist())
    assert volume.grid.same_space(grid)


def test_extracted_region_of_an_itk_filter() -> None:
    import itk

    whole = to_itk(blobs(GRID))
    region = itk.ImageRegion[3]([4, 3, 2], [6, 7, 8])
    extract = itk.ExtractImageFilter.New(whole, extraction_region=region)
    extract.SetDirectionCollapseToIdentity()
    # Not updated yet: reading brings the pipeline up to date.
    volume = Volume.from_image(extract)
    np.testing.assert_array_equal(volume.array, blobs(GRID).array[2:10, 3:10, 4:10])
    np.testing.assert_allclose(volume.grid.to_physical([0, 0, 0]), GRID.to_physical([4, 3, 2]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "uint64", "float32", "float64"])
def test_pixel_types_of_itk(dtype: str) -> None:
    volume = Volume.from_image(to_itk(blobs(GRID, dtype=dtype)))
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, blobs(GRID, dtype=dtype).array)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64", "float32", "float64"])
def test_pixel_types_of_simpleitk(dtype: str) -> None:
    volume = Volume.from_image(blobs(GRID, dtype=dtype).to_simpleitk())
    assert volume.array.dtype == dtype


def test_the_voxels_are_a_copy() -> None:
    import itk

    image = to_itk(blobs(GRID))
    volume = Volume.from_image(image)
    itk.array_view_from_image(image)[:] = 0
    assert volume.array.any()


def test_path_is_read(tmp_path) -> None:
    SimpleITK.WriteImage(blobs(GRID).to_simpleitk(), str(tmp_path / "image.nrrd"))
    for path in (tmp_path / "image.nrrd", str(tmp_path / "image.nrrd")):
        volume = Volume.from_image(path)
        assert volume.grid.same_space(GRID)
        np.testing.assert_array_equal(volume.array, blobs(GRID).array)


def with_values(*values: float) -> SimpleITK.Image:
    array = blobs(GRID).array
    array[3, 4, 5 : 5 + len(values)] = values
    return Volume(array, GRID).to_simpleitk()


def sheared() -> SimpleITK.Image:
    image = blobs(GRID).to_simpleitk()
    image.SetDirection([1, 0.2, 0, 0, 1, 0, 0, 0, 1])
    return image


BAD = {
    "not an image": (lambda: "a".__len__, "not an image: found .*expected an itk.Image"),
    "array": (lambda: np.zeros((3, 4, 5)), "bare array of shape .3, 4, 5."),
    "nothing": (lambda: None, "not an image: found NoneType"),
    "missing file": (lambda: "/no/such/file.nii", "there is no file /no/such/file.nii"),
    "RGB": (lambda: SimpleITK.Image([8, 8], SimpleITK.sitkVectorUInt8, 3), "3 components per voxel"),
    "4-D": (lambda: SimpleITK.Image([4, 4, 4, 2], SimpleITK.sitkFloat32), "4 dimensions .*expected 2 or 3"),
    "complex": (lambda: SimpleITK.Image([4, 4, 4], SimpleITK.sitkComplexFloat32), "complex pixels"),
    "NaN": (lambda: with_values(np.nan, np.nan), r"2 NaN or infinite voxels, the first at index \(5, 4, 3\)"),
    "infinite": (lambda: with_values(1, np.inf), r"1 NaN or infinite voxels, the first at index \(6, 4, 3\)"),
    "both infinities": (lambda: with_values(np.inf, -np.inf), "2 NaN or infinite voxels"),
    "beyond float32": (lambda: Volume(blobs(GRID).array * np.float64(1e200), GRID).to_simpleitk(), "single precision"),
    "constant": (lambda: Volume(np.full(GRID.shape, 7), GRID).to_simpleitk(), "constant .every voxel is 7."),
    "thin": (lambda: SimpleITK.Image([8, 8, 1], SimpleITK.sitkFloat32), "one voxel only along z"),
    "thin 2-D": (lambda: SimpleITK.Image([1, 8], SimpleITK.sitkFloat32), "one voxel only along x"),
    "sheared": (sheared, "expected orthonormal columns"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_what_cannot_be_registered_is_refused(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(RegistrationError, match=message) as caught:
        Volume.from_image(make(), name="moving")
    text = str(caught.value)
    assert text.startswith("moving"), "the argument is named"
    assert "\n" not in text


def test_itk_images_are_refused_alike() -> None:
    import itk

    with pytest.raises(RegistrationError, match=r"3 components"):
        Volume.from_image(itk.Image[itk.RGBPixel[itk.UC], 2].New(Regions=[4, 4]))
    image = itk.Image[itk.B, 3].New(Regions=[4, 4, 4])
    image.Allocate()
    with pytest.raises(RegistrationError, match=r"cast it to float"):
        Volume.from_image(image)
    unfinished = itk.ImageFileReader[itk.Image[itk.F, 3]].New(FileName="/no/such/file.mha")
    with pytest.raises(RegistrationError, match=r"cannot be made by its filter"):
        Volume.from_image(unfinished)


def test_a_slightly_rounded_direction_is_accepted() -> None:
    image = blobs(GRID).to_simpleitk()
    image.SetDirection(np.round(rotation(20, -15, 40), 3).ravel().tolist())
    Volume.from_image(image)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "bool"])
def test_mask_takes_voxels_other_than_zero(dtype: str) -> None:
    array = np.zeros(GRID.shape, dtype)
    array[2:5] = 1
    mask = Volume.mask_from_image(Volume(array, GRID), GRID)
    assert mask.array.dtype == bool
    assert mask.array.sum() == 3 * 14 * 17


def test_bad_masks() -> None:
    empty = Volume(np.zeros(GRID.shape, np.uint8), GRID).to_simpleitk()
    with pytest.raises(RegistrationError, match=r"fixed_mask is empty"):
        Volume.mask_from_image(empty, GRID)
    full = Volume(np.ones(GRID.shape, np.uint8), GRID).to_simpleitk()
    with pytest.raises(RegistrationError, match=r"another grid than its image: .*expected .*resample"):
        Volume.mask_from_image(full, GRID.padded((0, 0, 0), (1, 0, 0)))
    full.SetOrigin([0.3, 0, 0])
    with pytest.raises(RegistrationError, match=r"moving_mask lies on another grid"):
        Volume.mask_from_image(full, GRID, name="moving_mask")
    with pytest.raises(RegistrationError, match=r"NaN"):
        Volume.mask_from_image(with_values(np.nan), GRID)


def test_labels_must_be_whole_numbers() -> None:
    labels = np.zeros(GRID.shape, np.float32)
    labels[3] = 5
    assert Volume.labels_from_image(Volume(labels, GRID)).array.max() == 5
    labels[4, 2, 1] = 0.5
    with pytest.raises(RegistrationError, match=r"voxel \(1, 2, 4\) is 0.5"):
        Volume.labels_from_image(Volume(labels, GRID))


def test_kind_of_the_answer() -> None:
    ours, theirs = blobs(GRID).to_simpleitk(), to_itk(blobs(GRID))
    assert image_kind(ours, ours) == "simpleitk"
    assert image_kind(ours, "file.nii") == "simpleitk"
    assert image_kind(theirs, ours) == "itk"
    assert image_kind("a.nii", "b.nii") == "itk"


@pytest.mark.parametrize("digits", [5, 6])
def test_masks_and_channels_with_rounded_headers_are_taken(digits: int) -> None:
    """Headers written with few digits, far from the origin of the scanner."""
    grid = Grid.create((30, 30, 24), (0.6640625, 0.6640625, 1.25), (-161.69921875, -161.69921875, -1161.69921875))
    rounded = Grid.create(
        grid.size,
        [float(f"{s:.{digits}g}") for s in grid.spacing],
        [float(f"{o:.{digits}g}") for o in grid.origin],
    )
    assert not rounded.same_space(grid)
    mask = Volume(np.ones(grid.shape, np.uint8), rounded).to_simpleitk()
    assert Volume.mask_from_image(mask, grid).grid == grid
    channels = Volume.channels_from_image([blobs(grid).to_simpleitk(), blobs(rounded, seed=1).to_simpleitk()])
    assert [channel.grid for channel in channels] == [grid, grid]


def test_a_mask_a_fifth_of_a_voxel_away_is_refused_and_the_distance_told() -> None:
    moved = Grid.create(GRID.size, GRID.spacing, GRID.to_physical([0.2, 0, 0]), np.asarray(GRID.direction))
    with pytest.raises(RegistrationError, match=r"another grid than its image: .* up to 0.2 voxels apart"):
        Volume.mask_from_image(Volume(np.ones(GRID.shape, np.uint8), moved), GRID)


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3), ("RGBA", 3), ("LA", 1)])
def test_an_opaque_alpha_channel_is_left_out(tmp_path, mode: str, channels: int) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (12, 14)).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    volumes = Volume.channels_from_image(tmp_path / "a.png")
    assert len(volumes) == channels
    for volume in volumes:
        np.testing.assert_array_equal(volume.array, grey)
    if mode == "LA":
        np.testing.assert_array_equal(Volume.from_image(tmp_path / "a.png").array, grey)


def test_an_alpha_channel_that_says_something_is_kept(tmp_path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (12, 14)).astype(np.uint8)
    alpha = np.where(grey > 50, 255, 0).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3 + [alpha], axis=-1)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(Volume.channels_from_image(tmp_path / "a.png")[3].array, alpha)
