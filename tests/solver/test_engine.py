"""The whole registration against known truths and the laws of geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import made_pair

from itk_pdd import models, registration
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.solver.settings import Refinement
from itk_pdd.solver.working import working_grid
from itk_pdd.synthesis import make_pair


def errors(field: DisplacementField, truth: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Distances from the true displacements in voxels."""
    return np.linalg.norm(field.vectors - truth, axis=-1)[where] / min(field.grid.spacing)


@pytest.fixture(scope="module")
def pair():
    return make_pair((80, 70, 56), 3.0, seed=5, displacement=25)


@pytest.fixture(scope="module")
def forward(pair) -> DisplacementField:
    """The registration of the pair by the default model, which several laws compare others with."""
    return registration.register_volumes(pair.fixed, pair.moving).field


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (80, 70, 56), "spacing": 3.0, "displacement": 25},
        {"size": (96, 80, 64), "spacing": 3.0, "displacement": 40},
        {"size": (160, 140), "spacing": 2.0, "displacement": 20},
        {"size": (80, 70, 56), "spacing": 3.0, "kind": "shapes"},
    ],
    ids=str,
)
def test_known_deformation_is_found(settings):
    made = make_pair(seed=1, **settings)
    result = registration.register_volumes(made.fixed, made.moving)
    start = np.linalg.norm(made.truth.vectors, axis=-1)[made.body].mean() / min(made.fixed.grid.spacing)
    found = errors(result.field, made.truth.vectors, made.body).mean()
    assert found < 1.5
    assert found < 0.5 * start
    assert (result.field.jacobian_determinant() <= 0).mean() < 0.005


def moved_pair(matrix: np.ndarray) -> tuple[Volume, Volume]:
    """Two windows of one larger anatomy, the second seen through an affine mapping (fixed to moving points)."""
    whole = made_pair((128, 112, 88), 3.0, seed=3).fixed
    grid = Grid.create((80, 70, 56), 3.0, whole.grid.to_physical((24, 21, 16)))
    return resample(whole, grid), resample(whole, grid, mapping=AffineMapping(np.linalg.inv(matrix)))


def check_affine(matrix: np.ndarray, limit: float) -> None:
    fixed, moving = moved_pair(matrix)
    points = fixed.grid.points()
    truth = AffineMapping(matrix)(points) - points
    index = moving.grid.to_index(points + truth)
    # What has left the moving image, or lies at its very edge, cannot be found.
    seen = ((index > 3) & (index < np.asarray(moving.grid.size) - 4)).all(axis=-1) & (fixed.array > -800)
    field = registration.register_volumes(fixed, moving).field
    assert errors(field, truth, seen).mean() < limit


@pytest.mark.parametrize("shift", [(6, -3, 4.5), (30, 0, 0), (-24, 18, 12), (0, -63, 0)], ids=str)
def test_translation_is_recovered(shift):
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    check_affine(matrix, 1.5)


def test_affine_is_recovered():
    angle = np.radians(8)
    matrix = np.eye(4)
    matrix[:2, :2] = [[1.08 * np.cos(angle), -np.sin(angle)], [np.sin(angle), 0.95 * np.cos(angle)]]
    centre = np.asarray([0.0, 0.0, 0.0])
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + [5, -8, 4]
    check_affine(matrix, 1.5)


def test_image_and_itself(pair):
    field = registration.register_volumes(pair.fixed, pair.fixed).field
    assert np.linalg.norm(field.vectors, axis=-1).mean() / 3 < 0.1


def test_swapped_images_give_nearly_inverse_fields(pair, forward):
    backward = registration.register_volumes(pair.moving, pair.fixed).field
    rest = np.linalg.norm(backward.compose(forward).vectors, axis=-1)[pair.body] / 3
    # The searches are symmetric, the descent that follows compares windows of the fixed image.
    assert rest.mean() < 0.5


def test_same_bytes_twice_and_with_other_threads(pair):
    first = registration.register_volumes(pair.fixed, pair.moving, threads=2).field.vectors
    assert np.array_equal(first, registration.register_volumes(pair.fixed, pair.moving, threads=2).field.vectors)
    np.testing.assert_allclose(
        first, registration.register_volumes(pair.fixed, pair.moving, threads=1).field.vectors, atol=1e-5
    )


def stored_otherwise(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same voxels at the same places, with the index axes permuted and reversed."""
    array, grid = volume.array, volume.grid
    array = array.transpose([2 - order[2 - axis] for axis in range(3)])
    direction = np.asarray(grid.direction)[:, list(order)]
    size, spacing = [grid.size[i] for i in order], [grid.spacing[i] for i in order]
    grid = Grid.create(size, spacing, grid.origin, direction)
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, 2 - axis)
            first = np.zeros(3)
            first[axis] = grid.size[axis] - 1
            direction = np.asarray(grid.direction).copy()
            direction[:, axis] *= -1
            grid = Grid.create(grid.size, grid.spacing, grid.to_physical(first), direction)
    return Volume(np.ascontiguousarray(array), grid)


@pytest.mark.parametrize(
    "order, flips", [((0, 1, 2), (False, True, True)), ((2, 0, 1), (True, False, False)), ((1, 2, 0), (False,) * 3)]
)
def test_storage_order_does_not_matter(pair, forward, order, flips):
    stored = stored_otherwise(pair.fixed, order, flips)
    other = registration.register_volumes(stored, stored_otherwise(pair.moving, order[::-1], flips)).field
    points = pair.fixed.grid.points()[5:-5:7, 5:-5:7, 5:-5:7]
    np.testing.assert_allclose(other.at(points), forward.at(points), atol=1e-3)


def test_physical_frame_does_not_matter(pair, forward):
    """Rotating and shifting the space of both images rotates the displacements with it."""
    angle = np.radians(25)
    turn = np.asarray([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

    def moved(volume: Volume) -> Volume:
        grid = volume.grid
        return Volume(
            volume.array,
            Grid.create(grid.size, grid.spacing, turn @ grid.origin + [100, -50, 7], turn @ np.asarray(grid.direction)),
        )

    turned = registration.register_volumes(moved(pair.fixed), moved(pair.moving)).field.vectors
    np.testing.assert_allclose(turned, forward.vectors @ turn.T, atol=2e-2)


def test_another_spacing_gives_the_same_mapping(pair):
    """Both images in voxels of 2.4 x 3 x 4 mm instead of 3 mm: the mapping changes by less than a voxel."""

    def respaced(volume: Volume) -> Volume:
        return resample(volume, volume.grid.with_spacing((2.4, 3.0, 4.0)))

    reference = registration.register_volumes(pair.fixed, pair.moving, spacing=3.0).field
    other = registration.register_volumes(respaced(pair.fixed), respaced(pair.moving), spacing=3.0).field
    difference = np.linalg.norm(
        other.resampled(pair.fixed.grid, outside="nearest").vectors - reference.vectors, axis=-1
    )
    assert difference[pair.body].mean() < 3.0


def test_initial_transform_is_part_of_the_result(pair, forward):
    """With the moving image shifted away, the shift as initial transform gives the same mapping plus the shift."""
    shift = np.asarray([300.0, -200.0, 50.0])
    grid = pair.moving.grid
    away = Volume(
        pair.moving.array, Grid.create(grid.size, grid.spacing, grid.origin + shift, np.asarray(grid.direction))
    )
    matrix = np.eye(4)
    matrix[:3, 3] = shift
    result = registration.register_volumes(pair.fixed, away, initial=AffineMapping(matrix)).field.vectors
    np.testing.assert_allclose(result - shift, forward.vectors, atol=1e-3)


def test_fixed_mask_decides_what_counts(pair):
    """Where the mask is, the field is right, even though the images contradict each other elsewhere."""
    mask = np.zeros(pair.fixed.array.shape, bool)
    mask[:, :, :50] = True
    spoilt = pair.fixed.array.copy()
    spoilt[:, :, 52:] = np.random.default_rng(0).normal(scale=300, size=spoilt[:, :, 52:].shape)
    field = registration.register_volumes(
        Volume(spoilt, pair.fixed.grid), pair.moving, fixed_mask=Volume(mask, pair.fixed.grid)
    ).field
    inside = pair.body.copy()
    inside[:, :, 40:] = False
    assert errors(field, pair.truth.vectors, inside).mean() < 2.0
    assert np.isfinite(field.vectors).all()


@pytest.mark.parametrize("size", [(7, 5, 3), (2, 40, 33), (31, 2), (64, 9, 5)])
def test_small_and_odd_sizes(size):
    rng = np.random.default_rng(0)
    grid = Grid.create(size, 1.5)
    fixed, moving = (Volume(rng.normal(size=grid.shape).astype(np.float32), grid) for _ in range(2))
    field = registration.register_volumes(fixed, moving).field
    assert field.grid == grid
    assert np.isfinite(field.vectors).all()


def test_large_images_are_registered_at_a_coarser_spacing():
    model = models.load("auto")
    grid = working_grid(Grid.create((512, 512, 400), (0.8, 0.8, 1.0)), max_voxels=model.max_voxels)
    assert grid.voxels < 1.05 * model.max_voxels
    np.testing.assert_allclose(grid.extent, (409.6, 409.6, 400), atol=max(grid.spacing))


@pytest.mark.parametrize("steps", [30, 0])
def test_smoothness_is_the_users(pair, steps):
    """With and without a refinement."""
    roughness = []
    model = replace(models.DEFAULT, refinement=Refinement(iterations=steps))
    for smoothness in (0.2, 1.0, 5.0):
        result = registration.register_volumes(pair.fixed, pair.moving, model=model, smoothness=smoothness, spacing=4.0)
        roughness.append(np.std(result.field.jacobian_determinant()))
    assert roughness[0] > 1.05 * roughness[1] > 1.05**2 * roughness[2]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"model": "none"}, "mind-ssc"),
        ({"device": "tpu"}, "'cuda'"),
        ({"threads": 0}, "at least 1"),
        ({"spacing": -1.0}, "above 0 mm"),
        ({"smoothness": 0.0}, "above 0"),
        ({"smoothness": float("nan")}, "above 0"),
    ],
)
def test_bad_options(pair, options, words):
    with pytest.raises(RegistrationError, match=words):
        registration.register_volumes(pair.fixed, pair.moving, **options)
