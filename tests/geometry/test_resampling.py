"""Resampling onto coarser grids against its definition: smooth by a Gaussian, then interpolate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.resampling import interpolate, resample
from itk_pdd.io.volume import Volume

TURNED = np.array([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]])


def defined(volume: Volume, grid: Grid) -> np.ndarray:
    """The definition, point by point."""
    ratio = np.abs(np.linalg.inv(volume.grid.matrix) @ grid.matrix).max(axis=1)
    array = volume.array.astype(float)
    for axis, value in enumerate(ratio):
        if value > 1.25:
            width = np.sqrt((value**2 - 1) / 12)
            where = volume.grid.dimension - 1 - axis
            array = ndimage.gaussian_filter1d(array, width, axis=where, mode="nearest", truncate=3)
    index = volume.grid.to_index(grid.points())[..., ::-1]
    return ndimage.map_coordinates(array, np.moveaxis(index, -1, 0), order=1, mode="nearest")


@pytest.mark.parametrize(
    "size, spacing, direction, target",
    [
        ((40, 33, 50), (0.7, 0.6, 1.3), np.eye(3), 1.9),
        ((40, 33, 50), (0.7, 0.6, 1.3), TURNED, 1.9),
        ((31, 20, 7), (1.0, 1.0, 5.0), TURNED, 2.0),  # finer along one axis
        ((30, 1, 3), (1.0, 1.0, 1.0), np.eye(3), 3.0),
        ((45, 38), (0.5, 0.8), np.array([[0.0, 1], [-1, 0]]), 1.7),
        ((24, 22, 20), (1.0, 1.0, 1.0), np.eye(3), 1.1),  # no smoothing
    ],
)
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_smoothed_and_interpolated(size, spacing, direction, target, dtype):
    rng = np.random.default_rng(0)
    grid = Grid.create(size, spacing, rng.normal(size=len(size)), direction)
    volume = Volume((100 * rng.normal(size=grid.shape)).astype(dtype), grid)
    # Larger than the image on all sides: beyond it the border goes on.
    wanted = grid.canonical().with_spacing(target).padded([2] * len(size), [1] * len(size))
    found = resample(volume, wanted).array
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, defined(volume, wanted), atol=2e-3)


def test_oblique_grids_are_smoothed_alike():
    rng = np.random.default_rng(1)
    grid = Grid.create((40, 36, 30), 1.0)
    volume = Volume(ndimage.gaussian_filter(rng.normal(size=grid.shape), 2).astype(np.float32), grid)
    angle = 0.2
    turned = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    wanted = Grid.create((12, 10, 9), 2.5, (6, 1, 2), turned)
    np.testing.assert_allclose(resample(volume, wanted).array, defined(volume, wanted), atol=1e-4)


@pytest.mark.parametrize(
    "size, direction, target",
    [
        ((14, 11, 9), np.eye(3), np.eye(3)),
        ((14, 11, 9), TURNED, np.eye(3)),
        ((14, 11, 9), np.eye(3), np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])),
        ((14, 11), np.array([[0.0, 1], [-1, 0]]), np.eye(2)),
        ((14, 11), np.eye(2), np.array([[0.8, -0.6], [0.6, 0.8]])),
    ],
)
@pytest.mark.parametrize("channels", [(), (1,), (6,)])
def test_values_of_several_channels_are_interpolated_whatever_the_axes(size, direction, target, channels):
    rng = np.random.default_rng(2)
    source = Grid.create(size, 2.0, rng.normal(size=len(size)), direction)
    # Finer, shifted, and larger than the source on all sides.
    wanted = Grid.create([3 * n for n in size], 0.9, source.centre - 1.3 * np.asarray(size), target)
    values = rng.normal(size=(*source.shape, *channels)).astype(np.float32)
    found = interpolate(values, source, wanted)
    assert found.dtype == np.float32 and found.shape == (*wanted.shape, *channels) and found.flags.c_contiguous
    index = np.moveaxis(source.to_index(wanted.points())[..., ::-1], -1, 0)
    flat = values.reshape(*source.shape, -1)
    expected = [ndimage.map_coordinates(flat[..., c], index, order=1, mode="nearest") for c in range(flat.shape[-1])]
    np.testing.assert_allclose(found.reshape(*wanted.shape, -1), np.stack(expected, axis=-1), atol=1e-5)
