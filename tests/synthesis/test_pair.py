import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.synthesis import Acquisition, make_pair, random_affine, random_deformation

ANGLE = 0.3
OBLIQUE = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1.0]])
LEFT_HANDED = OBLIQUE @ np.diag([1, -1, 1])


def warp(volume, field, order):
    """A moving volume on the field's grid, and which of its points lie within the moving volume."""
    index = volume.grid.to_index(field.grid.points() + field.vectors)
    inside = np.all((index >= 0) & (index <= np.array(volume.grid.size) - 1), axis=-1)
    arrays = np.moveaxis(index, -1, 0)[::-1]
    return ndimage.map_coordinates(volume.array, arrays, order=order, output=float, mode="nearest"), inside


def dices(pair, at_least=100):
    warped, inside = warp(pair.moving_labels, pair.truth, 0)
    fixed = pair.fixed_labels.array
    found = {}
    for label in np.unique(fixed):
        a, b = (fixed == label) & inside, (warped == label) & inside
        if a.sum() >= at_least:
            found[pair.names[int(label)]] = 2 * (a & b).sum() / (a.sum() + b.sum())
    return found


def fine(size, spacing, factor, **options):
    """A moving grid finer than the fixed one, so that the nearest moving voxel is near enough."""
    return Grid.create(size, spacing, **options).with_spacing(np.asarray(spacing) / factor)


@pytest.mark.parametrize(
    ("size", "spacing", "factor", "least", "kind", "options"),
    [
        ((32, 27, 22), 9.0, 4, 0.95, "abdomen", {}),
        ((20, 18, 16), 6.0, 6, 0.93, "shapes", {"displacement": 12.0}),
        ((96, 72), 4.0, 4, 0.95, "abdomen", {}),
        ((60, 72), 2.0, 4, 0.95, "shapes", {}),
        ((30, 28, 12), (9.6, 8.5, 23.0), 5, 0.95, "abdomen", {"direction": LEFT_HANDED, "origin": -60.0}),
    ],
)
def test_truth_takes_moving_labels_to_fixed_labels(size, spacing, factor, least, kind, options):
    spacing = np.broadcast_to(spacing, len(size))
    geometry = {k: v for k, v in options.items() if k != "displacement"}
    moving_grid = fine(size, spacing, factor, **geometry)
    pair = make_pair(size, spacing, seed=5, kind=kind, moving_grid=moving_grid, **options)
    found = dices(pair)
    # Thin tissues suffer from the raster, thick ones do not.
    thick = ("liver", "background", "visceral fat", "lung", "heart", "spleen", "left kidney", "right kidney")
    checked = [dice for name, dice in found.items() if name in thick or kind == "shapes"]
    assert len(checked) >= 4 and np.mean(checked) > least, found
    displaced = np.linalg.norm(pair.truth.vectors, axis=-1).max()
    assert displaced > 1.5 * spacing.min()


def test_agreement_is_limited_by_the_raster_alone():
    """Each halving of the moving voxels halves the disagreement: the truth itself has no error."""
    grid = Grid.create((24, 20, 16), 10.0)
    wrong = []
    for factor in (1, 2, 4):
        pair = make_pair(grid.size, grid.spacing, seed=1, moving_grid=grid.with_spacing(10.0 / factor))
        warped, inside = warp(pair.moving_labels, pair.truth, 0)
        wrong.append(np.mean((warped != pair.fixed_labels.array)[inside]))
    assert wrong[1] < 0.7 * wrong[0] and wrong[2] < 0.65 * wrong[1]


def test_truth_takes_the_moving_image_to_the_fixed_image():
    pair = make_pair((64, 54, 44), 4.5, seed=2)
    warped, inside = warp(pair.moving, pair.truth, 1)
    inside &= pair.body
    before = np.corrcoef(pair.moving.array[inside], pair.fixed.array[inside])[0, 1]
    after = np.corrcoef(warped[inside], pair.fixed.array[inside])[0, 1]
    assert after > 0.93 > before + 0.05


def test_inverse_belongs_to_the_moving_grid():
    moving_grid = Grid.create((50, 40, 20), (6.0, 6.5, 11.0), (-10, 5, 0), OBLIQUE)
    fixed_grid = Grid.create((40, 34, 28), 7.0)
    affine = random_affine(fixed_grid, seed=3)
    pair = make_pair((40, 34, 28), 7.0, seed=3, moving_grid=moving_grid, affine=affine)
    assert pair.inverse.grid == moving_grid == pair.moving.grid == pair.moving_labels.grid
    points = moving_grid.points()
    back = points + pair.inverse.vectors
    index = fixed_grid.to_index(back)
    inside = np.all((index >= 0) & (index <= np.array(fixed_grid.size) - 1), axis=-1)
    arrays = np.moveaxis(index, -1, 0)[::-1]
    again = np.stack([ndimage.map_coordinates(c, arrays, order=1) for c in np.moveaxis(pair.truth.vectors, -1, 0)], -1)
    assert inside.mean() > 0.2
    assert np.abs(back + again - points)[inside].max() < 0.7


@pytest.mark.parametrize("modality", ["same", "random"])
@pytest.mark.parametrize("kind", ["abdomen", "shapes"])
def test_seed_determines_every_byte(kind, modality):
    def all_bytes(seed):
        pair = make_pair((24, 20, 18), 12.0, seed=seed, kind=kind, modality=modality)
        arrays = (pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels)
        return [a.array.tobytes() for a in arrays] + [pair.truth.vectors.tobytes(), pair.inverse.vectors.tobytes()]

    first = all_bytes(11)
    assert first == all_bytes(11)
    assert all(a != b for a, b in zip(first, all_bytes(12), strict=True))


def test_types_and_body():
    pair = make_pair((40, 30), 8.0, seed=0)
    assert pair.fixed.array.dtype == pair.moving.array.dtype == pair.truth.vectors.dtype == np.float32
    assert pair.truth.vectors.shape == (30, 40, 2) and pair.truth.grid == pair.fixed.grid
    assert pair.body.dtype == bool and pair.body.shape == (30, 40)
    np.testing.assert_array_equal(pair.body, pair.fixed_labels.array > 0)


def test_still_pair_differs_by_noise_alone():
    pair = make_pair((40, 34, 30), 7.0, seed=1, displacement=0.0)
    assert not pair.truth.vectors.any()
    np.testing.assert_array_equal(pair.fixed_labels.array, pair.moving_labels.array)
    difference = (pair.fixed.array - pair.moving.array).ravel()
    assert difference.std() == pytest.approx(np.sqrt(2) * 0.05 * 200, rel=0.05)
    quiet = make_pair((40, 34, 30), 7.0, seed=1, displacement=0.0, acquisition=Acquisition(noise=0))
    np.testing.assert_array_equal(quiet.fixed.array, quiet.moving.array)


def test_modalities_change_the_look_and_not_the_geometry():
    same = make_pair((40, 34, 30), 7.0, seed=1, displacement=0.0)
    random = make_pair((40, 34, 30), 7.0, seed=1, displacement=0.0, modality="random")
    np.testing.assert_array_equal(same.fixed_labels.array, random.fixed_labels.array)

    def likeness(pair):
        return np.corrcoef(pair.fixed.array[pair.body], pair.moving.array[pair.body])[0, 1]

    assert likeness(same) > 0.98 > 0.8 > abs(likeness(random))


def test_displacement_is_met_and_a_given_deformation_is_used():
    pair = make_pair((40, 34, 30), 7.0, seed=1, displacement=25.0)
    assert np.linalg.norm(pair.truth.vectors, axis=-1).max() == pytest.approx(25, rel=0.06)
    deformation = random_deformation(pair.fixed.grid, seed=9, magnitude=5.0)
    given = make_pair((40, 34, 30), 7.0, seed=1, deformation=deformation)
    np.testing.assert_array_equal(given.truth.vectors, deformation.forward().vectors)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (10,)}, "size is"),
        ({"size": (10, 10, 2)}, "at least 4 voxels"),
        ({"spacing": 0.0}, "spacing is"),
        ({"seed": -1}, "seed is -1"),
        ({"kind": "brain"}, "kind is 'brain'"),
        ({"modality": "mr"}, "modality is 'mr'"),
        ({"moving_grid": Grid.create((10, 10))}, "moving_grid has 2 dimensions"),
        ({"displacement": -3.0}, "magnitude is -3.0"),
    ],
)
def test_unusable_requests_are_refused(options, words):
    with pytest.raises(RegistrationError, match=words):
        make_pair(**({"size": (10, 10, 10), "seed": 0} | options))


def test_a_deformation_and_a_displacement_contradict_each_other():
    grid = Grid.create((10, 10, 10), 3.0)
    deformation = random_deformation(grid, seed=0, magnitude=1.0)
    with pytest.raises(RegistrationError, match="one or the other"):
        make_pair((10, 10, 10), seed=0, deformation=deformation, displacement=2.0)


def test_import_is_cheap_and_names_resolve():
    code = "import itk_pdd.synthesis as s, sys; assert 'scipy' not in sys.modules; [getattr(s, n) for n in dir(s)]"
    subprocess.run([sys.executable, "-c", code], check=True)
