"""Images warped by transforms: kinds, types, one interpolation, the value outside, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, to_itk, wave
from scipy import ndimage

from itk_pdd import warp_image, warp_labels
from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_to_itk, field_to_simpleitk
from itk_pdd.io.images import grid_of, simpleitk_image
from itk_pdd.warp import images
from itk_pdd.warp.images import warp_simpleitk

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def array_of(image) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(image)


def shift(*millimetres: float) -> np.ndarray:
    matrix = np.eye(len(millimetres) + 1)
    matrix[:-1, -1] = millimetres
    return matrix


def along(grid: Grid, axis: int, voxels: float) -> np.ndarray:
    """A shift along an index axis."""
    return shift(*(grid.matrix[:, axis] * voxels))


def test_answers_in_kind(tmp_path) -> None:
    import itk

    volume, field = blobs(GRID, dtype=np.int16), wave(GRID)
    SimpleITK.WriteImage(volume.to_simpleitk(), str(tmp_path / "m.nii.gz"))
    expected = array_of(warp_image(volume.to_simpleitk(), field))
    theirs = to_itk(volume, start=3)
    reference = to_itk(blobs(GRID), start=5)
    for image, transform in ((theirs, field_to_itk(field)), (tmp_path / "m.nii.gz", field_to_simpleitk(field))):
        warped = warp_image(image, transform, reference=reference)
        assert isinstance(warped, itk.Image[itk.SS, 3])
        region = warped.GetLargestPossibleRegion()
        assert list(region.GetIndex()) == [5, 5, 5], "on the region of the reference"
        np.testing.assert_array_equal(itk.array_view_from_image(warped), expected)
        np.testing.assert_allclose(list(warped.TransformIndexToPhysicalPoint([5, 5, 5])), list(GRID.origin), atol=1e-6)
    ours = warp_image(volume.to_simpleitk(), field)
    assert isinstance(ours, SimpleITK.Image)
    assert ours.GetPixelID() == SimpleITK.sitkInt16
    np.testing.assert_allclose(ours.GetDirection(), np.ravel(GRID.direction))


def test_vectors_and_colours(tmp_path) -> None:
    import itk

    channels = np.stack([blobs(GRID, seed=i).array for i in range(3)], axis=-1)
    for interpolation in ("linear", "bspline", "nearest"):
        warped = array_of(warp_image(simpleitk_image(channels, GRID), wave(GRID), interpolation=interpolation))
        for i in range(3):
            single = warp_image(simpleitk_image(channels[..., i].copy(), GRID), wave(GRID), interpolation=interpolation)
            np.testing.assert_allclose(warped[..., i], array_of(single), atol=1e-4)
    colours = itk.image_from_array(channels.astype(np.uint8), ttype=itk.Image[itk.RGBPixel[itk.UC], 3])
    warped = warp_image(colours, shift(0, 0, 0), reference=colours)
    assert type(warped) is type(colours)
    np.testing.assert_array_equal(itk.array_view_from_image(warped), channels.astype(np.uint8))


def test_integers_are_rounded_and_stay_in_range() -> None:
    image = np.zeros((8, 9), np.uint8)
    image[:, ::2] = 3
    image[2:5, 3:6] = 255
    grid = Grid.create((9, 8))
    linear = array_of(warp_image(simpleitk_image(image, grid), shift(0.3, 0), reference=grid))
    exact = ndimage.map_coordinates(image.astype(float), np.indices(image.shape) + np.array([0, 0.3])[:, None, None],
                                    order=1, mode="nearest")  # fmt: skip
    np.testing.assert_array_equal(linear[:, :-1], np.rint(exact)[:, :-1].astype(np.uint8))
    smooth = array_of(
        warp_image(simpleitk_image(image, grid), shift(0.3, 0.2), reference=grid, interpolation="bspline")
    )
    assert smooth.dtype == np.uint8
    assert smooth[2:5, 3:5].min() > 200, "what goes beyond 255 does not become dark"
    large = np.full((4, 5), 2**31 - 1, np.int32)
    warped = array_of(
        warp_image(simpleitk_image(large, Grid.create((5, 4))), shift(0.25, 0), reference=Grid.create((5, 4)))
    )
    assert (warped[:, :-1] == 2**31 - 1).all()


@pytest.mark.parametrize("grid", [GRID, FLAT], ids=["3-D", "2-D"])
@pytest.mark.parametrize("labels", [False, True])
def test_slabs_change_nothing(grid: Grid, labels: bool, monkeypatch) -> None:
    field = wave(grid)
    image = blobs(grid, dtype=np.int16).to_simpleitk()
    expected = warp_simpleitk(image, field, labels=labels, default=-7)
    monkeypatch.setattr(images, "_SLAB_VOXELS", 3 * int(np.prod(grid.shape[1:])))
    found = warp_simpleitk(image, field, labels=labels, default=-7)
    assert found.GetPixelID() == expected.GetPixelID()
    assert grid_of(found, "found").same_space(grid_of(expected, "expected"))
    np.testing.assert_array_equal(array_of(found), array_of(expected))


def test_sharper_interpolation_is_nearer_to_the_truth() -> None:
    grid = Grid.create((40, 36))
    points = grid.points()

    def scene(p):
        return np.sin(1.3 * p[..., 0]) * np.cos(1.1 * p[..., 1])

    truth = scene(points + np.array([0.4, 0.3]))
    error = {
        way: np.abs(array_of(warp_image(simpleitk_image(scene(points), grid), shift(0.4, 0.3), reference=grid,
                                        interpolation=way)) - truth)[8:-8, 8:-8].max()
        for way in ("nearest", "linear", "bspline", "sinc")
    }  # fmt: skip
    assert error["nearest"] > error["linear"] > 4 * error["bspline"]
    assert error["linear"] > 4 * error["sinc"]


def test_several_transforms_interpolate_once(tmp_path) -> None:
    """Half a voxel there and half a voxel back: exact with one interpolation, blurred with two."""
    image = simpleitk_image(np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32), GRID)
    there, back = along(GRID, 0, 0.5), along(GRID, 0, -0.5)
    field = DisplacementField.from_function(lambda p: p + there[:-1, -1], GRID)
    inner = np.s_[1:-1, 1:-1, 2:-2]
    once = array_of(warp_image(image, [field, back], reference=GRID))
    np.testing.assert_allclose(once[inner], array_of(image)[inner], atol=1e-4)
    twice = array_of(warp_image(warp_image(image, back, reference=GRID), field))
    assert np.abs(twice - array_of(image))[inner].max() > 0.5


def test_default_value_outside() -> None:
    warped = array_of(warp_image(blobs(GRID).to_simpleitk(), along(GRID, 2, 4.0), reference=GRID, default=-5.0))
    assert (warped[-3:] == -5).all()
    assert (warped[:-4] != -5).all()


def test_what_does_not_fit_is_refused() -> None:
    image, field = blobs(GRID).to_simpleitk(), wave(GRID)
    cases = [
        (lambda: warp_image(image, wave(FLAT)), "transform is 2-D but image is 3-D"),
        (lambda: warp_image(image, field, reference=FLAT), "transform is 3-D but the reference is 2-D"),
        (lambda: warp_image(image, np.eye(4)), "there is no reference"),
        (lambda: warp_image(image, field, interpolation="cubic"), "interpolation is 'cubic', expected one of linear"),
        (lambda: warp_labels(image, field, interpolation="linear"), "expected 'nearest' or 'partial-volume'"),
        (lambda: warp_image(np.zeros((4, 5)), field), "image is not an image: found ndarray"),
        (lambda: warp_image(image, shift(500, 0, 0), reference=GRID), "takes no point of the reference into image"),
    ]
    for make, message in cases:
        with pytest.raises(RegistrationError, match=message):
            make()


def test_wrong_order_and_wrong_direction_are_noticed() -> None:
    """The fixed image lies 300 mm from the moving one; the field on the fixed grid comes first."""
    away = shift(300, 0, 0)
    far = Grid.create(
        GRID.size, GRID.spacing, np.asarray(GRID.origin) + np.array([300, 0, 0]), np.asarray(GRID.direction)
    )
    moving, field = blobs(far).to_simpleitk(), wave(GRID)
    right = array_of(warp_image(moving, [field, away], reference=GRID))
    np.testing.assert_allclose(right, array_of(warp_image(blobs(GRID).to_simpleitk(), field)), atol=1e-3)
    with pytest.raises(RegistrationError, match=r"transform\[1\]: no point .* lies inside this field after .*order"):
        warp_image(moving, [away, field], reference=GRID)
    with pytest.raises(RegistrationError, match="is it the inverse, or are the images exchanged"):
        warp_image(moving, shift(-300, 0, 0), reference=GRID)
    half = Grid.create((6, 14, 12), GRID.spacing, GRID.origin, np.asarray(GRID.direction))
    with pytest.warns(RegistrationWarning, match=r"only .* % of the fixed image lies inside this field"):
        warp_image(blobs(GRID).to_simpleitk(), wave(half), reference=GRID)


def test_small_image_between_the_points_that_are_looked_at() -> None:
    large = Grid.create((200, 200), 1.0)
    small = simpleitk_image(np.ones((2, 2), np.float32), Grid.create((2, 2), 0.5, (100.9, 53.9)))
    assert array_of(warp_image(small, np.eye(3), reference=large)).sum() == 1


@pytest.mark.parametrize("way", ["linear", "bspline", "sinc", "nearest"])
@pytest.mark.parametrize(
    ("dtype", "default", "held"),
    [("uint8", -1000, 0), ("uint8", 300, 255), ("int16", 1e5, 32767), ("int16", -np.inf, -32768), ("uint32", -1, 0)],
)
def test_a_default_outside_the_pixel_type_is_clamped_alike(way: str, dtype: str, default: float, held: int) -> None:
    image = simpleitk_image(np.full(GRID.shape, 100, dtype), GRID)
    with pytest.warns(RegistrationWarning, match=f"which {dtype} pixels cannot hold"):
        warped = array_of(warp_image(image, along(GRID, 2, 4.0), reference=GRID, interpolation=way, default=default))
    assert warped.dtype == dtype
    assert (warped[-3:] == held).all()
    assert (warped[:-5] == 100).all()


@pytest.mark.parametrize("way", ["linear", "nearest"])
def test_defaults_of_floats_integers_and_the_largest_integers(way: str) -> None:
    def outside(dtype: str, default: float) -> float:
        image = simpleitk_image(np.full(GRID.shape, 100, dtype), GRID)
        warped = warp_image(image, along(GRID, 2, 4.0), reference=GRID, interpolation=way, default=default)
        return array_of(warped)[-1, 0, 0]

    assert outside("int16", 2.6) == 3, "rounded, as voxels are"
    assert np.isnan(outside("float32", np.nan))
    assert outside("float32", -1e30) == np.float32(-1e30)
    with pytest.raises(RegistrationError, match="default is NaN but the image has int16 pixels"):
        outside("int16", np.nan)
    with pytest.warns(RegistrationWarning, match="cannot hold"):
        assert outside("uint64", 1e30) > 1.8e19
