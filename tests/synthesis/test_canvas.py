import itertools

import numpy as np
import pytest

from itk_pdd.synthesis.canvas import Canvas, smooth_path
from itk_pdd.synthesis.noise import NoiseTile


def canvas_of(shape=(20, 24, 28), width=1.0, bend=0.0):
    """A canvas whose points are voxel indices from the centre, optionally bent."""
    z, y, x = np.meshgrid(*[np.arange(n, dtype=np.float32) - (n - 1) / 2 for n in shape], indexing="ij")
    x, y, z = x + bend * np.sin(y / 5), y + bend * np.sin(z / 5), z + bend * np.sin(x / 5)
    return Canvas([c.astype(np.float32) for c in (x, y, z)], width)


@pytest.mark.parametrize("bend", [0.0, 2.0])
def test_region_misses_no_point_of_the_box(bend):
    canvas = canvas_of(bend=bend)
    lower, upper = np.array([-3.0, 1, -5]), np.array([4.0, 6, -2])
    inside = np.all([(c >= a) & (c <= b) for c, a, b in zip(canvas.coordinates, lower, upper, strict=True)], axis=0)
    region = canvas.region(lower, upper)
    found = np.zeros_like(inside)
    found[region] = True
    assert inside.any() and not (inside & ~found).any()
    assert found.sum() < 0.2 * found.size
    assert canvas.region((100, 0, 0), (110, 1, 1)) is None


def test_level_of_a_sphere_is_the_distance():
    canvas = canvas_of(bend=1.0)
    level, region = canvas.ellipsoid((1, -2, 0.5), (6, 6, 6))
    x, y, z = canvas.at(region)
    np.testing.assert_allclose(level, np.sqrt((x - 1) ** 2 + (y + 2) ** 2 + (z - 0.5) ** 2) - 6, atol=1e-3)


@pytest.mark.parametrize("exponent", [2.0, 4.0])
def test_inside_of_a_turned_ellipsoid(exponent):
    canvas = canvas_of()
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    level, region = canvas.ellipsoid((0, 1, 0), (9, 4, 6), turn, exponent=exponent)
    along = (np.stack(canvas.coordinates, axis=-1) - [0, 1, 0]) @ turn / [9, 4, 6]
    expected = np.sum(np.abs(along) ** exponent, axis=-1) < 1
    found = np.zeros_like(expected)
    found[region] = level < 0
    np.testing.assert_array_equal(found, expected)


def test_level_of_a_tube_is_the_distance_to_its_path():
    canvas = canvas_of(bend=1.0)
    path = smooth_path([(-8, -5, -4), (0, 6, 0), (9, -3, 5)])
    level, region = canvas.tube(path, 3.0, margin=2.0)
    points = np.stack(canvas.at(region), axis=-1)
    dense = np.concatenate([np.linspace(a, b, 60) for a, b in itertools.pairwise(path)])
    distance = np.sqrt(((points[..., None, :] - dense) ** 2).sum(axis=-1)).min(axis=-1) - 3
    near = distance < 1.5
    np.testing.assert_allclose(level[near], distance[near], atol=0.02)


def test_smooth_path_goes_through_its_points():
    points = np.array([(0.0, 0, 0), (5, 3, 1), (9, -2, 4), (12, 0, 0)])
    path = smooth_path(points, 5)
    np.testing.assert_allclose(path[::5], points, atol=1e-12)
    assert len(path) == 16


def test_partial_volume_is_the_covered_share():
    canvas = canvas_of(width=1.0)
    x = canvas.coordinates[0]
    canvas.paint(1, x - 100)
    canvas.paint(2, x - 0.25)  # covers x < 0.25; voxel centres lie at half-integers
    tissues = canvas.tissue_map()
    column = {float(v): i for i, v in enumerate(x[0, 0])}
    for position, covered in ((-0.5, 1.0), (0.5, 0.25), (1.5, 0.0)):
        at = (0, 0, column[position])
        share_of_2 = 1 - tissues.share[at] if tissues.labels[at] == 2 else tissues.share[at] * (tissues.second[at] == 2)
        assert share_of_2 == pytest.approx(covered, abs=1e-6)
    # Painting half of it back.
    canvas.paint(1, x - 0.1)
    assert not (canvas.labels == 2).any()


def test_only_the_tissues_allowed_are_covered():
    canvas = canvas_of()
    x, y, _ = canvas.coordinates
    canvas.paint(1, x)
    canvas.paint(2, y, over=(1,))
    np.testing.assert_array_equal(canvas.labels == 2, (x < 0) & (y < 0))


@pytest.mark.parametrize("dimension", [2, 3])
def test_noise_is_smooth_periodic_and_normal(dimension):
    tile = NoiseTile.draw(np.random.default_rng(0), dimension, 3.0, 60.0, 64)
    assert tile.values.shape == (40,) * dimension
    assert tile.values.mean() == pytest.approx(0, abs=1e-5) and tile.values.std() == pytest.approx(1, abs=1e-5)
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 60, (dimension, 500))
    here = tile.sample(points)
    np.testing.assert_allclose(tile.sample(points + 60.0), here, atol=1e-3)
    np.testing.assert_allclose(tile.sample(points, [60.0] * dimension), here, atol=1e-3)
    assert np.abs(tile.sample(points + 0.3) - here).max() < 0.5
    assert np.corrcoef(tile.sample(points + 15.0), here)[0, 1] < 0.5
