"""Points beside folds find back: what the field reaches has a source, and the search finds it."""

import numpy as np
import pytest
from scipy import ndimage

from itk_pdd import warp_points
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid


def folded(strength: float) -> DisplacementField:
    """A wave along x that turns back on itself where the strength is above 1."""
    grid = Grid.create((40, 12, 10), 2.0, (-39.0, -11.0, -9.0))
    x = grid.points()[..., 0]
    vectors = np.zeros((*grid.shape, 3), np.float32)
    vectors[..., 0] = strength * 10 * np.sin(x / 10)
    return DisplacementField(vectors, grid)


def crumpled() -> DisplacementField:
    """A rough field that folds nearly everywhere."""
    grid = Grid.create((40, 30, 24), 2.0, (-39.0, -29.0, -23.0))
    noise = np.random.default_rng(3).normal(size=(*grid.shape, 3))
    smooth = ndimage.gaussian_filter(noise, (1.5, 1.5, 1.5, 0))
    return DisplacementField((12 * smooth / smooth.std()).astype(np.float32), grid)


@pytest.mark.parametrize("field", [folded(0.8), folded(4.0), crumpled()], ids=["smooth", "folded", "crumpled"])
def test_what_the_field_reaches_comes_back(field):
    points = np.random.default_rng(0).uniform(-1, 1, (60, 3)) * 0.9 * field.grid.extent / 2
    there = points + field.at(points, outside="nearest")
    back = warp_points(there, field, to="fixed", outside="nearest")
    again = back + field.at(back, outside="nearest")
    assert np.abs(again - there).max() < 1e-3


def test_what_no_point_reaches_is_refused():
    # Everything is drawn to the plane x = 0 and the border values go on: nothing arrives between the two.
    grid = Grid.create((20, 8, 8), 2.0, (1.0, -7.0, -7.0))
    vectors = np.zeros((*grid.shape, 3), np.float32)
    vectors[..., 10:, 0] = 30.0
    vectors[..., :10, 0] = -30.0
    with pytest.raises(RegistrationError, match=r"folds there|lie outside"):
        warp_points(np.asarray([[200.0, 0, 0]]), DisplacementField(vectors, grid), to="fixed")
