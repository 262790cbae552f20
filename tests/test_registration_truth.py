"""The whole way with the real engine on small pairs of known truth: from images of ITK to transforms of ITK."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from conftest import rotation, to_itk
from itk_pdd.cli.register import main

import itk_pdd
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_from_image, read_field
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import SyntheticPair, make_pair

SPACING = 6.0


@pytest.fixture(scope="module")
def pair() -> SyntheticPair:
    return make_pair((48, 40, 32), SPACING, seed=1, kind="abdomen", displacement=24.0)


@pytest.fixture(scope="module")
def found(pair: SyntheticPair) -> DisplacementField:
    """What the function finds for the pair as it is."""
    transform = itk_pdd.register(pair.fixed.to_simpleitk(), pair.moving.to_simpleitk(), device="cpu")
    return field_from_image(transform.GetDisplacementField())


def mean_error(field: np.ndarray, pair: SyntheticPair) -> float:
    return float(np.linalg.norm(field - pair.truth.vectors, axis=-1)[pair.body].mean())


def test_known_deformation_is_found(pair: SyntheticPair, found: DisplacementField) -> None:
    before = mean_error(np.zeros_like(found.vectors), pair)
    after = mean_error(found.vectors, pair)
    assert before > 1.4 * SPACING
    assert after < min(0.5 * before, SPACING)


def test_itk_images_with_start_indices_give_the_same(pair: SyntheticPair, found: DisplacementField) -> None:
    transform = itk_pdd.register(to_itk(pair.fixed, start=13), to_itk(pair.moving, start=-4), device="cpu")
    np.testing.assert_allclose(field_from_image(transform.GetDisplacementField()).vectors, found.vectors, atol=1e-3)


def test_command_line_gives_the_same(pair: SyntheticPair, found: DisplacementField, tmp_path) -> None:
    for name, volume in (("f", pair.fixed), ("m", pair.moving)):
        SimpleITK.WriteImage(volume.to_simpleitk(), str(tmp_path / f"{name}.mha"))
    arguments = [str(tmp_path / "f.mha"), str(tmp_path / "m.mha"), "-o", str(tmp_path / "u.mha"), "--device", "cpu"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_field(tmp_path / "u.mha").vectors, found.vectors)


def framed(volume: Volume, turn: np.ndarray, shift: np.ndarray) -> Volume:
    """The same voxels in a physical frame that is turned and shifted: x becomes turn @ x + shift."""
    grid = volume.grid
    origin = turn @ np.asarray(grid.origin) + shift
    return Volume(volume.array, Grid.create(grid.size, grid.spacing, origin, turn @ np.asarray(grid.direction)))


def stored_backwards(volume: Volume) -> Volume:
    """The same patient with axes x and z swapped and y reversed."""
    grid = volume.grid
    direction = np.asarray(grid.direction)[:, [2, 1, 0]] * [1, -1, 1]
    origin = grid.to_physical([0, grid.size[1] - 1, 0])
    array = np.ascontiguousarray(volume.array.transpose(2, 1, 0)[:, ::-1])
    return Volume(array, Grid.create(grid.size[::-1], np.asarray(grid.spacing)[[2, 1, 0]], origin, direction))


def test_turned_frame_turns_the_mapping(pair: SyntheticPair, found: DisplacementField) -> None:
    turn, shift = rotation(8, -5, 12), np.array([310.0, -45.0, 17.0])
    fixed, moving = (framed(volume, turn, shift).to_simpleitk() for volume in (pair.fixed, pair.moving))
    field = field_from_image(itk_pdd.register(fixed, moving, device="cpu").GetDisplacementField())
    np.testing.assert_allclose(field.vectors, found.vectors @ turn.T, atol=0.05)


def test_patient_stored_otherwise_gives_the_same_mapping(pair: SyntheticPair, found: DisplacementField) -> None:
    fixed, moving = stored_backwards(pair.fixed), stored_backwards(pair.moving)
    field = field_from_image(
        itk_pdd.register(fixed.to_simpleitk(), moving.to_simpleitk(), device="cpu").GetDisplacementField()
    )
    assert field.grid.same_space(fixed.grid)
    points = pair.fixed.grid.points()
    difference = np.linalg.norm(field(points) - (points + found.vectors), axis=-1)
    assert difference.max() < 0.05


def test_distant_frames_with_an_initial_transform(pair: SyntheticPair, found: DisplacementField) -> None:
    """The initial transform is part of the result, and what remains is as good as without it."""
    shift = np.array([800.0, -300.0, 120.0])
    moving = framed(pair.moving, np.eye(3), shift).to_simpleitk()
    fixed = pair.fixed.to_simpleitk()
    initial = SimpleITK.TranslationTransform(3, shift.tolist())
    for options in ({"initial_transform": initial}, {"initialise": "center"}):
        transform = itk_pdd.register(fixed, moving, device="cpu", **options)
        field = field_from_image(transform.GetDisplacementField())
        np.testing.assert_allclose(field.vectors, found.vectors + shift, atol=0.05)


def test_two_dimensions() -> None:
    pair = make_pair((80, 64), 3.0, seed=2, kind="shapes", displacement=9.0)
    transform = itk_pdd.register(pair.fixed.to_simpleitk(), pair.moving.to_simpleitk(), device="cpu")
    field = field_from_image(transform.GetDisplacementField())
    before, after = mean_error(np.zeros_like(field.vectors), pair), mean_error(field.vectors, pair)
    assert after < 0.6 * before


def test_output_of_the_method_looks_like_the_fixed_image(pair: SyntheticPair) -> None:
    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=pair.fixed.to_simpleitk(), moving_image=pair.moving.to_simpleitk(), device="cpu",
        default_pixel_value=float(pair.moving.array.min()),
    )  # fmt: skip
    warped = SimpleITK.GetArrayFromImage(method.GetOutput())
    before = np.corrcoef(pair.moving.array[pair.body], pair.fixed.array[pair.body])[0, 1]
    after = np.corrcoef(warped[pair.body], pair.fixed.array[pair.body])[0, 1]
    assert after > before + 0.1
