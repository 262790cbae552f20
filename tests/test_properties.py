"""Laws every registration must keep, on images drawn by hypothesis: mirrored, turned, rescaled, in other units."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK
from conftest import made_pair, rotation
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import itk_pdd
from itk_pdd.errors import RegistrationWarning
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_from_simpleitk
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import make_pair

few = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
any_size = st.one_of(
    st.tuples(st.integers(12, 60), st.integers(12, 60)), st.tuples(*[st.integers(8, 30)] * 3)
)  # fmt: skip
larger = st.one_of(st.tuples(st.integers(24, 60), st.integers(24, 60)), st.tuples(*[st.integers(21, 30)] * 3))
seeds = st.integers(0, 50)


spacings = st.sampled_from([(2.0, 2.0, 2.0), (1.5, 2.0, 3.5), (3.0, 1.0, 2.0)])


def pair(size: tuple[int, ...], seed: int, spacing: float | tuple[float, ...] = 2.0) -> tuple[np.ndarray, np.ndarray]:
    made = make_pair(size, spacing, seed=seed, kind="shapes")
    return made.fixed.array, made.moving.array


def vectors(fixed: np.ndarray, moving: np.ndarray, grid: Grid | None = None, **options) -> np.ndarray:
    """Displacements in voxels of a grid of 2 mm, or in millimetres of another one."""
    where = Grid.create(fixed.shape[::-1], 2.0) if grid is None else grid
    images = [Volume(np.ascontiguousarray(a), where).to_simpleitk() for a in (fixed, moving)]
    found = field_from_simpleitk(itk_pdd.register(*images, **options)).vectors
    return found / 2 if grid is None else found


def turned(array: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """Axes permuted, then some reversed; a last axis of components stays."""
    rest = tuple(range(len(order), array.ndim))
    return np.flip(array.transpose(*order, *rest), [axis for axis, flip in enumerate(flips) if flip])


def turned_vectors(field: np.ndarray, order: tuple[int, ...], flips: tuple[bool, ...]) -> np.ndarray:
    """A field as :func:`turned` turns the images: its components (x, y, z) change places and signs too."""
    components = np.stack([field[..., len(order) - 1 - axis] * (1 - 2 * flip) for axis, flip in
                           zip(order, flips, strict=True)][::-1], axis=-1)  # fmt: skip
    return turned(components, order, flips)


@few
@given(size=larger, seed=seeds, data=st.data())
def test_mirrored_and_turned_images_give_the_mirrored_and_turned_field(size, seed, data) -> None:
    """Flips, permutations of the axes and their products, rotations by 90 degrees: to a voxel on average.

    Not to the bit, since control points and samples are counted from the first corner of an image.
    """
    order = data.draw(st.sampled_from(list(itertools.permutations(range(len(size))))))
    flips = data.draw(st.tuples(*[st.booleans()] * len(size)))
    fixed, moving = pair(size, seed)
    expected = turned_vectors(vectors(fixed, moving), order, flips)
    found = vectors(turned(fixed, order, flips), turned(moving, order, flips))
    # A voxel on average, and less than half of what there is to be found.
    difference = np.linalg.norm(found - expected, axis=-1).mean()
    assert difference < min(1, 0.5 * np.linalg.norm(expected, axis=-1).mean())


@few
@given(size=any_size, seed=seeds)
def test_a_picture_on_its_side_gives_the_same_field_on_its_side(size, seed) -> None:
    """The axes of a 2-D image may change places exactly."""
    fixed, moving = pair(size[:2], seed)
    expected = turned_vectors(vectors(fixed, moving), (1, 0), (False, False))
    np.testing.assert_allclose(vectors(fixed.T, moving.T), expected, atol=1e-3)


@few
@given(size=any_size, seed=seeds, spacing=spacings, data=st.data())
def test_how_the_voxels_are_stored_does_not_matter(size, seed, spacing, data) -> None:
    """The same patient with the index axes in another order and direction: the same mapping, voxel by voxel."""
    order = data.draw(st.sampled_from(list(itertools.permutations(range(len(size))))))
    flips = data.draw(st.tuples(*[st.booleans()] * len(size)))
    n = len(size)
    spacing = spacing[:n]
    fixed, moving = pair(size, seed, spacing)
    axes = [n - 1 - axis for axis in order][::-1]  # of the old index, for each new index axis x, y(, z)
    signs = np.array([1 - 2 * flip for flip in flips][::-1])
    first = [spacing[axis] * (size[axis] - 1) * (sign < 0) for axis, sign in zip(axes, signs, strict=True)]
    origin = np.zeros(n)
    origin[axes] = first
    direction = np.zeros((n, n))
    direction[axes, range(n)] = signs
    grid = Grid.create([size[axis] for axis in axes], [spacing[axis] for axis in axes], origin, direction)
    found = vectors(turned(fixed, order, flips), turned(moving, order, flips), grid)
    expected = vectors(fixed, moving, Grid.create(size, spacing))
    np.testing.assert_allclose(found, turned(expected, order, flips), atol=2e-3)


@few
@given(size=any_size, seed=seeds, scale=st.floats(0.01, 100), shift=st.floats(-1000, 1000), other=st.floats(0.1, 10))
def test_intensities_may_be_scaled_and_shifted(size, seed, scale, shift, other) -> None:
    """Each image on its own; single precision rounds, and so may move single points a little."""
    fixed, moving = pair(size, seed)
    changed = vectors((fixed * scale + shift).astype(np.float32), (moving * other - shift).astype(np.float32))
    assert np.linalg.norm(changed - vectors(fixed, moving), axis=-1).mean() < 0.05


@few
@given(size=any_size, seed=seeds, dtype=st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.float64]))
def test_pixel_types_do_not_matter(size, seed, dtype) -> None:
    fixed, moving = (np.round(255 * (a - a.min()) / np.ptp(a)).astype(np.uint8) for a in pair(size, seed))
    expected = vectors(fixed.astype(np.float32), moving.astype(np.float32))
    np.testing.assert_array_equal(vectors(fixed.astype(dtype), moving.astype(dtype)), expected)


@few
@given(
    size=st.tuples(*[st.integers(12, 30)] * 3),
    seed=seeds,
    spacing=spacings,
    angles=st.sampled_from([(0, 0, 0), (0, 0, -33), (17, -10, 25), (-20, 15, 5)]),
    origin=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    unit=st.sampled_from([1e-3, 1.0, 25.4]),
)
def test_the_physical_frame_does_not_matter(size, seed, spacing, angles, origin, unit) -> None:
    """In another place, direction and unit of length the same displacements are found, turned and in that unit."""
    fixed, moving = pair(size, seed, spacing)
    turn = rotation(*angles)
    grid = Grid.create(size, np.asarray(spacing) * unit, np.asarray(origin) * unit, turn)
    found = vectors(fixed, moving, grid) @ turn / unit
    np.testing.assert_allclose(found, vectors(fixed, moving, Grid.create(size, spacing)), atol=0.04)


@few
@given(size=any_size, seed=seeds)
def test_an_image_and_itself(size, seed) -> None:
    """About a twentieth of a voxel on average; up to a few tenths near borders, where samples leave the image."""
    fixed, _ = pair(size, seed)
    error = np.linalg.norm(vectors(fixed, fixed), axis=-1)
    assert error.mean() < 0.06
    assert error[(slice(3, -3),) * len(size)].max() < 0.15
    assert error.max() < 0.3


@few
@given(size=any_size, seed=seeds)
def test_the_same_bytes_again_and_nearly_the_same_with_other_threads(size, seed) -> None:
    fixed, moving = pair(size, seed)
    first = vectors(fixed, moving, threads=2)
    assert vectors(fixed, moving, threads=2).tobytes() == first.tobytes()
    np.testing.assert_allclose(vectors(fixed, moving, threads=1), first, atol=1e-5)


@few
@given(size=larger, seed=seeds)
def test_a_mask_of_everything_changes_nothing(size, seed) -> None:
    fixed, moving = pair(size, seed)
    mask = Volume(np.ones(fixed.shape, np.uint8), Grid.create(size, 2.0)).to_simpleitk()
    np.testing.assert_array_equal(vectors(fixed, moving, fixed_mask=mask, moving_mask=mask), vectors(fixed, moving))


def window(anatomy: Volume, shift: int) -> SimpleITK.Image:
    """A part of a larger image, whose content lies ``shift`` voxels further along y in the same frame."""
    array = anatomy.array[60 - shift : 190 - shift, 20:140]
    return Volume(np.ascontiguousarray(array), Grid.create((120, 130), 2.0)).to_simpleitk()


@pytest.mark.parametrize("shift", [-24, -13, -4, 1, 8, 16, 24])
def test_translations_are_found_to_the_edge_of_the_range(shift: int) -> None:
    """The first stage tries 28 working voxels along each axis."""
    anatomy = made_pair((160, 250), 2.0, seed=2).fixed
    found = field_from_simpleitk(itk_pdd.register(window(anatomy, 0), window(anatomy, shift))).vectors / 2
    inner = found[40:-40, 30:-30] - [0, shift]
    assert np.linalg.norm(inner, axis=-1).mean() < min(1, 0.5 * abs(shift))


@pytest.mark.parametrize("shift", [-30, 28, 32])
def test_beyond_the_range_it_warns(shift: int) -> None:
    anatomy = made_pair((160, 250), 2.0, seed=2).fixed
    with pytest.warns(RegistrationWarning, match=r"lies at the edge of the range that was searched \(56 mm") as told:
        itk_pdd.register(window(anatomy, 0), window(anatomy, shift))
    assert {warning.filename for warning in told} == {__file__}, "at the line that asked for the registration"
