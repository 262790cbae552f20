"""A few voxels far beyond all others are no contrast."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import made_pair

import itk_pdd
from itk_pdd import models, registration
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.solver import prealignment
from itk_pdd.solver.intensities import without_outliers


def spoilt(volume: Volume, *, value: float = 1e9, at: tuple[int, ...] | None = None) -> Volume:
    """A copy with one voxel of another value."""
    array = volume.array.astype(np.float32)
    array[tuple(n // 3 for n in array.shape) if at is None else at] = value
    return Volume(array, volume.grid)


@pytest.mark.parametrize("size", [(48, 44, 40), (96, 80)])
def test_one_huge_voxel_in_each_image_moves_the_field_by_less_than_a_tenth_of_a_voxel(size) -> None:
    made = made_pair(size, 3.0, seed=2, displacement=8)
    images = spoilt(made.fixed), spoilt(made.moving, at=tuple(n // 2 for n in made.moving.array.shape))
    clean, found = (registration.register_volumes(*pair).field.vectors for pair in ((made.fixed, made.moving), images))
    assert np.linalg.norm(clean, axis=-1).max() > 3.0
    # The value that was there is lost: beside that voxel of noisy images the field may differ somewhat more.
    distance = np.linalg.norm(found - clean, axis=-1) / 3.0
    assert np.percentile(distance, 99) < 0.1 and distance.max() < 0.3


@pytest.mark.parametrize("value", [1e9, -1e9, 3e38])
def test_the_affine_alignment_is_that_of_the_clean_images(value) -> None:
    made = made_pair((48, 44, 40), 3.0, seed=3, displacement=5)
    away = Volume(made.moving.array, Grid.create(made.moving.grid.size, 3.0, (25.0, -12.0, 9.0)))
    images = spoilt(made.fixed, value=value), spoilt(away, value=value, at=(1, 2, 3))
    corners = made.fixed.grid.corners()
    clean, found = (
        prealignment.align_affine(*pair, model=models.DEFAULT)(corners) for pair in ((made.fixed, away), images)
    )
    assert np.abs(found - clean).max() < 0.1 * 3.0


def test_the_log_tells_what_is_replaced(caplog) -> None:
    volume = spoilt(made_pair((40, 36), 2.0, seed=1).fixed, value=-1e9)
    found = without_outliers(volume, "moving")
    assert "moving: 1 voxels lie far beyond" in caplog.text
    assert found.array.min() > -1e6
    assert np.count_nonzero(found.array != volume.array) == 1


@pytest.mark.parametrize("kind", ["abdomen", "sparse", "metal", "heavy tails", "half and half", "markers"])
def test_ordinary_intensities_are_left_alone(kind) -> None:
    rng = np.random.default_rng(0)
    array = rng.normal(100, 10, (40, 50, 60)).astype(np.float32)
    if kind == "abdomen":
        array = made_pair((60, 50, 40), 3.0, seed=1).fixed.array
    elif kind == "sparse":
        array = np.zeros_like(array)
        array[20, 25, 28:32] = 255
    elif kind == "metal":
        array[10:14, 10:14, 10:14] = 20000
    elif kind == "heavy tails":
        array = np.exp(rng.normal(0, 1.5, array.shape)).astype(np.float32)
    elif kind == "half and half":
        array[:20] = -1000
    elif kind == "markers":
        array[::10, ::10, ::10] = 5000
    volume = Volume(array, Grid.create(array.shape[::-1], 1.0))
    assert without_outliers(volume) is volume


def test_nobody_is_warned_about_the_range(recwarn) -> None:
    made = made_pair((96, 80), 3.0, seed=2, displacement=8)
    itk_pdd.register(spoilt(made.fixed).to_itk(), spoilt(made.moving).to_itk())
    assert not [w for w in recwarn if issubclass(w.category, itk_pdd.RegistrationWarning)]
