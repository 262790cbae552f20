import numpy as np
import pytest
from scipy import ndimage

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.synthesis import random_affine, random_deformation


def rotation(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


GRIDS = {
    "2-D": Grid.create((60, 47), (2.0, 2.5), (10, -40)),
    "3-D": Grid.create((40, 34, 27), 3.0),
    "oblique, left-handed, anisotropic": Grid.create(
        (40, 34, 12), (2.0, 2.5, 7.0), (50, -20, 300), rotation(0.4) @ np.diag([1, -1, 1])
    ),
}


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def grid(request):
    return request.param


def displacement_at(field, points):
    """Linear interpolation of a sampled field, written without the package's spline."""
    index = np.moveaxis(field.grid.to_index(points), -1, 0)[::-1]
    components = [ndimage.map_coordinates(c, index, order=1, mode="nearest") for c in np.moveaxis(field.vectors, -1, 0)]
    return np.stack(components, axis=-1)


def jacobian_determinants(field):
    by_index = [np.gradient(field.vectors[..., c].astype(float)) for c in range(field.grid.dimension)]
    by_index = np.moveaxis(np.array([g[::-1] for g in by_index]), (0, 1), (-2, -1))
    return np.linalg.det(by_index @ np.linalg.inv(field.grid.matrix) + np.eye(field.grid.dimension))


def test_inverse_undoes_the_deformation(grid):
    deformation = random_deformation(grid, seed=3, magnitude=0.15 * min(grid.extent))
    forward, inverse = deformation.forward(), deformation.inverse()
    points = grid.points()
    there = points + forward.vectors
    inside = np.all((grid.to_index(there) >= 0) & (grid.to_index(there) <= np.array(grid.size) - 1), axis=-1)
    assert inside.mean() > 0.5
    back = there + displacement_at(inverse, there)
    error = np.linalg.norm(back - points, axis=-1)[inside]
    moved = np.linalg.norm(forward.vectors, axis=-1)
    assert moved.max() > 5
    # Linear interpolation of the sampled inverse costs a few hundredths of a voxel.
    assert error.max() < 0.1 * max(grid.spacing)


def test_points_go_there_and_back(grid):
    deformation = random_deformation(grid, seed=4, magnitude=0.15 * min(grid.extent))
    points = grid.points()
    there = deformation.map_points(points)
    np.testing.assert_allclose(there - points, deformation.forward().vectors, atol=1e-4)
    np.testing.assert_allclose(deformation.map_points(there, inverse=True), points, atol=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_folds(grid, seed):
    deformation = random_deformation(grid, seed=seed, magnitude=0.2 * min(grid.extent))
    for field in (deformation.forward(), deformation.inverse()):
        determinants = jacobian_determinants(field)
        assert determinants.min() > 0
        assert determinants.max() > 1.1


@pytest.mark.parametrize("quantile", [1.0, 0.95])
def test_magnitude_is_met(grid, quantile):
    field = random_deformation(grid, seed=5, magnitude=9.0, quantile=quantile).forward()
    lengths = np.linalg.norm(field.vectors, axis=-1)
    assert np.quantile(lengths, quantile) == pytest.approx(9.0, rel=0.06)


def test_finer_scales_make_rougher_fields():
    grid = GRIDS["3-D"]

    def roughness(scales):
        vectors = random_deformation(grid, seed=1, magnitude=8, scales=scales).forward().vectors
        return np.mean(np.square(np.gradient(vectors, axis=(0, 1, 2)))) / np.mean(np.square(vectors))

    assert roughness([10.0]) > 3 * roughness([30.0])


def test_seed_determines_every_byte():
    grid = GRIDS["3-D"]

    def bytes_of(seed):
        deformation = random_deformation(grid, seed=seed, magnitude=10)
        return deformation.forward().vectors.tobytes(), deformation.inverse().vectors.tobytes()

    assert bytes_of(7) == bytes_of(7) == bytes_of(np.random.default_rng(7))
    assert bytes_of(7) != bytes_of(8)


def test_fields_are_float32_on_the_grid_asked_for(grid):
    deformation = random_deformation(grid, seed=0, magnitude=5)
    field = deformation.forward()
    assert field.grid == grid
    assert field.vectors.dtype == np.float32 and field.vectors.shape == (*grid.shape, grid.dimension)
    finer = grid.with_spacing(1.7)
    assert deformation.inverse(finer).grid == finer


def test_any_other_grid_samples_the_same_mapping():
    grid = GRIDS["3-D"]
    other = Grid.create((20, 15, 11), (3.3, 4.1, 5.0), (25, 20, 12), rotation(-0.3))
    deformation = random_deformation(grid, seed=2, magnitude=12, cover=[other])
    points = other.points()
    np.testing.assert_allclose(deformation.forward(other).vectors, deformation.map_points(points) - points, atol=1e-4)
    np.testing.assert_allclose(
        deformation.forward(other).vectors, displacement_at(deformation.forward(), points), atol=0.3
    )


def test_affine_alone_is_exact(grid):
    affine = random_affine(grid, seed=6, rotation=12, scale=0.1, shear=0.05, translation=8)
    deformation = random_deformation(grid, seed=0, magnitude=0.0, affine=affine)
    points = grid.points()
    expected = points @ affine[:-1, :-1].T + affine[:-1, -1] - points
    assert np.abs(expected).max() > 5
    np.testing.assert_allclose(deformation.forward().vectors, expected, atol=1e-3)
    undone = (points - affine[:-1, -1]) @ np.linalg.inv(affine[:-1, :-1]).T - points
    np.testing.assert_allclose(deformation.inverse().vectors, undone, atol=1e-3)


def test_affine_comes_after_the_displacement(grid):
    affine = random_affine(grid, seed=6)
    smooth = random_deformation(grid, seed=1, magnitude=8)
    both = random_deformation(grid, seed=1, magnitude=8, affine=affine)
    points = grid.points()
    expected = (points + smooth.forward().vectors) @ affine[:-1, :-1].T + affine[:-1, -1]
    np.testing.assert_allclose(points + both.forward().vectors, expected, atol=1e-3)
    np.testing.assert_allclose(both.map_points(expected, inverse=True), points, atol=0.1 * min(grid.spacing))


def test_random_affine_stays_in_its_ranges(grid):
    dimension = grid.dimension
    still = random_affine(grid, seed=0, rotation=0, scale=0, shear=0, translation=0)
    np.testing.assert_allclose(still, np.eye(dimension + 1), atol=1e-12)
    for seed in range(20):
        turned = random_affine(grid, seed=seed, rotation=15, scale=0, shear=0, translation=0)
        linear = turned[:-1, :-1]
        np.testing.assert_allclose(linear @ linear.T, np.eye(dimension), atol=1e-12)
        np.testing.assert_allclose(linear @ grid.centre + turned[:-1, -1], grid.centre, atol=1e-9)
        scaled = random_affine(grid, seed=seed, rotation=0, scale=0.2, shear=0, translation=3)
        factors = np.diag(scaled[:-1, :-1])
        assert np.abs(np.log(factors)).max() <= 0.2
        assert np.abs(scaled[:-1, :-1] @ grid.centre + scaled[:-1, -1] - grid.centre).max() <= 3 + 1e-9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"magnitude": -1.0}, "magnitude is -1.0"),
        ({"magnitude": np.nan}, "magnitude is nan"),
        ({"magnitude": 5.0, "quantile": 0.0}, "quantile is 0.0"),
        ({"magnitude": 5.0, "scales": []}, "scales are"),
        ({"magnitude": 5.0, "scales": [10.0, -3.0]}, "scales are"),
        ({"magnitude": 5.0, "scales": [0.2]}, "choose larger scales"),
        ({"magnitude": 5.0, "affine": np.eye(3)}, "affine has shape"),
        ({"magnitude": 5.0, "affine": np.diag([-1.0, 1, 1, 1])}, "determinant"),
    ],
)
def test_unusable_requests_are_refused(options, words):
    with pytest.raises(RegistrationError, match=words):
        random_deformation(GRIDS["3-D"], seed=0, **options)


def test_a_magnitude_that_folds_is_refused():
    with pytest.raises(RegistrationError, match="folds space"):
        random_deformation(GRIDS["2-D"], seed=0, magnitude=60.0, scales=[7.0])


def test_a_grid_of_another_dimension_is_refused():
    deformation = random_deformation(GRIDS["3-D"], seed=0, magnitude=3)
    with pytest.raises(RegistrationError, match="2 dimensions"):
        deformation.forward(GRIDS["2-D"])
    with pytest.raises(RegistrationError, match="rotation is -1"):
        random_affine(GRIDS["2-D"], seed=0, rotation=-1)
