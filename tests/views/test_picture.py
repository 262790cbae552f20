"""The picture shows the patient the same way however the images are stored."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import GEOMETRIES, blobs, wave

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.views.picture import overview, write_png

GRID = Grid.create((40, 32, 24), (2.0, 2.5, 3.0), (5.0, -9.0, 30.0))


def stored_otherwise(volume: Volume) -> Volume:
    """The same voxels with the axes permuted and two of them reversed."""
    array = np.ascontiguousarray(volume.array.transpose(2, 0, 1, *range(3, volume.array.ndim))[:, ::-1, ::-1])
    # The new axes x, y, z run along -old y, -old z, old x.
    old = volume.grid
    nx, ny, nz = old.size
    direction = np.asarray(old.direction)
    grid = Grid.create(
        (ny, nz, nx),
        (old.spacing[1], old.spacing[2], old.spacing[0]),
        old.to_physical([0, ny - 1, nz - 1]),
        np.stack([-direction[:, 1], -direction[:, 2], direction[:, 0]], axis=1),
    )
    return Volume(array, grid)


def test_helper_keeps_every_voxel_in_its_place() -> None:
    volume = blobs(GRID)
    other = stored_otherwise(volume)
    index = np.round(other.grid.to_index(GRID.to_physical([3, 4, 5]))).astype(int)
    assert other.array[tuple(index[::-1])] == volume.array[5, 4, 3]


def pictured(store) -> np.ndarray:
    fixed, moving = store(blobs(GRID)), store(blobs(GRID, seed=1))
    labels = store(Volume((blobs(GRID).array > 60).astype(np.uint8), GRID))
    grid = fixed.grid
    centred = Grid.create(GRID.size, GRID.spacing, GRID.origin)
    vectors = 2 * np.sin((grid.points() - centred.centre) / 15)
    field = DisplacementField(vectors.astype(np.float32), grid)
    return overview(fixed, moving, moving, field, labels=(labels, labels, labels))


def test_same_picture_however_the_images_are_stored() -> None:
    plain, other = pictured(lambda volume: volume), pictured(stored_otherwise)
    assert plain.shape == other.shape
    # A middle slice of an even number of voxels is the other one of the two when an axis is reversed.
    assert np.abs(plain.astype(int) - other).mean() < 12
    flipped = np.abs(plain.astype(int) - other[::-1]).mean()
    assert flipped > 2 * np.abs(plain.astype(int) - other).mean()


def tile(picture: np.ndarray, column: int) -> np.ndarray:
    """A column of tiles of the picture of equal widths."""
    width = (picture.shape[1] - 62) // 6
    return picture[22:, 62 + column * width : 62 + (column + 1) * width - 4]


def test_overlay_is_grey_where_the_images_agree() -> None:
    image, other = blobs(GRID), blobs(GRID, seed=1)
    picture = overview(image, other, image, DisplacementField.zeros(GRID))
    before, after = tile(picture, 3).astype(int), tile(picture, 4).astype(int)
    assert np.abs(before[..., 0] - before[..., 1]).max() > 60
    assert np.abs(after[..., 0] - after[..., 1]).max() == 0
    assert after.max() > 200


@pytest.mark.parametrize("name", GEOMETRIES, ids=lambda name: name.replace(" ", "-"))
def test_every_geometry_can_be_drawn(name: str, tmp_path) -> None:
    from skimage.io import imread

    grid = GEOMETRIES[name]
    picture = overview(blobs(grid), blobs(grid, seed=1), blobs(grid, seed=1), wave(grid))
    assert picture.dtype == np.uint8
    write_png(picture, tmp_path / "picture.png")
    np.testing.assert_array_equal(imread(tmp_path / "picture.png"), picture)


def test_lines_of_the_grid_move_against_the_field() -> None:
    """What lies at x in the fixed image lies at x + u in the moving one: a line of the moving image appears at -u."""
    grid = Grid.create((64, 64), 1.0)
    still = DisplacementField.zeros(grid)
    shift = DisplacementField(np.full((64, 64, 2), (0.5, 0.0), np.float32), grid)
    image = blobs(grid)
    columns = []
    for field in (still, shift):
        picture = overview(image, image, image, field, height=256)
        columns.append(picture[22:-4, -260:-4, 0].astype(float).mean(axis=0))
    best = max(range(-3, 4), key=lambda step: np.corrcoef(columns[1][10:-10], np.roll(columns[0], step)[10:-10])[0, 1])
    assert best == -2
