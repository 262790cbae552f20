"""Labels warped by transforms: every value is kept, and the largest share wins."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, to_itk, wave
from scipy import ndimage

from itk_pdd import warp_labels
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_to_itk, field_to_simpleitk
from itk_pdd.io.images import simpleitk_image
from itk_pdd.io.volume import Volume

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def array_of(image) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(image)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("way", ["nearest", "partial-volume"])
def test_label_values_and_types_are_kept(dtype: str, way: str) -> None:
    limits = np.iinfo(dtype)
    # Numbers that double precision cannot tell apart.
    values = np.array([0, 1, limits.max, limits.max - 1, limits.min], dtype)
    array = values[np.random.default_rng(0).integers(0, 5, FLAT.shape)]
    same = array_of(warp_labels(simpleitk_image(array, FLAT), np.eye(3), reference=FLAT, interpolation=way))
    assert same.dtype == dtype
    np.testing.assert_array_equal(same, array)
    moved = array_of(warp_labels(simpleitk_image(array, FLAT), wave(FLAT), interpolation=way))
    assert moved.dtype == dtype
    assert set(np.unique(moved).tolist()) <= set(values.tolist())


@pytest.mark.parametrize("grid", [GRID, FLAT], ids=["3-D", "2-D"])
def test_partial_volume_is_the_argmax_of_every_label_by_itself(grid: Grid) -> None:
    generator = np.random.default_rng(0)
    array = ndimage.zoom(generator.integers(0, 40, [3] * grid.dimension), np.divide(grid.shape, 3), order=0)
    array = np.where(generator.random(grid.shape) < 0.2, generator.integers(0, 40, grid.shape), array).astype(np.int32)
    field = wave(grid, amplitude=2.0)
    found = array_of(warp_labels(simpleitk_image(array, grid), field, interpolation="partial-volume"))
    labels = np.unique(array)
    shares = np.stack([
        array_of(
            SimpleITK.Resample(simpleitk_image((array == label).astype(np.float64), grid), field_to_simpleitk(field))
        )
        for label in labels
    ])  # fmt: skip
    inside = shares.sum(axis=0) > 0.5
    assert inside.mean() > 0.5
    chosen = np.take_along_axis(shares, np.searchsorted(labels, found)[None], axis=0)[0]
    assert (chosen >= shares.max(axis=0) - 1e-6)[inside].all(), "no other label has a larger share"
    assert (found[~inside] == 0).all()
    nearest = array_of(warp_labels(simpleitk_image(array, grid), field))
    assert (nearest != found)[inside].mean() > 0.02
    theirs = SimpleITK.Resample(simpleitk_image(array, grid), field_to_simpleitk(field), SimpleITK.sitkNearestNeighbor)
    assert (nearest == array_of(theirs)).mean() > 0.999


def test_labels_of_itk_in_kind() -> None:
    import itk

    labels = Volume((blobs(GRID).array > 60).astype(np.uint16) * 500, GRID)
    warped = warp_labels(to_itk(labels), field_to_itk(wave(GRID)))
    assert isinstance(warped, itk.Image[itk.US, 3])
    assert set(np.unique(itk.array_view_from_image(warped))) == {0, 500}


def test_fractions_are_no_labels() -> None:
    with pytest.raises(RegistrationError, match=r"labels is no label image: voxel .*expected whole numbers"):
        warp_labels(blobs(GRID).to_simpleitk(), wave(GRID))
    whole = simpleitk_image(np.full(GRID.shape, 3.0, np.float32), GRID)
    assert array_of(warp_labels(whole, wave(GRID))).dtype == np.float32
