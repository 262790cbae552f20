"""Bones that stay rigid, and organs that slide along the border of a label."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from itk_pdd.cli.register import main
from scipy import ndimage

import itk_pdd
from itk_pdd import Volume
from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.solver.prealignment import fitted_similarity
from itk_pdd.solver.rigid import with_rigid_parts
from itk_pdd.synthesis import make_pair


def rigid_motion(points: np.ndarray, moved: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    matrix = fitted_similarity(points, moved, rigid=True).matrix
    return matrix[:-1, :-1], matrix[:-1, -1]


def test_the_motion_is_the_nearest_rotation() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 3))
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    rotation, translation = rigid_motion(points, points @ turn.T + [1.0, -2, 3])
    np.testing.assert_allclose(rotation, turn, atol=1e-12)
    np.testing.assert_allclose(translation, [1, -2, 3], atol=1e-12)
    mirrored, _ = rigid_motion(points, points * [1, 1, -1])
    assert np.linalg.det(mirrored) == pytest.approx(1)


def test_two_parts_move_rigidly_and_the_rest_stays() -> None:
    grid = Grid.create((60, 50, 40), (1.5, 1.5, 2.0))
    rng = np.random.default_rng(0)
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=grid.shape), 5) for _ in range(3)], axis=-1)
    field = DisplacementField((3 * noise / np.abs(noise).max()).astype(np.float32), grid)
    parts = np.zeros((2, *grid.shape), bool)
    parts[0, 12:22, 10:25, 10:20], parts[1, 12:22, 26:40, 25:35] = True, True
    found = with_rigid_parts(field, [(str(i), Volume(part, grid)) for i, part in enumerate(parts)])
    for part in parts:
        points = grid.to_physical(np.argwhere(part)[:, ::-1])
        moved = points + found.vectors[part]
        rotation, translation = rigid_motion(points, moved)
        assert np.abs(points @ rotation.T + translation - moved).max() < 1e-3
    assert (found.jacobian_determinant() > 0).all()
    far = ndimage.distance_transform_edt(~parts.any(axis=0), sampling=grid.spacing[::-1]) > 30
    np.testing.assert_array_equal(found.vectors[far], field.vectors[far])


def test_bones_of_a_registration_are_rigid(tmp_path) -> None:
    made = make_pair((80, 70), 2.0, seed=5, displacement=10)
    label = int(np.bincount(made.fixed_labels.array[made.fixed_labels.array > 0]).argmax())
    for name in ("fixed", "moving", "fixed_labels"):
        SimpleITK.WriteImage(getattr(made, name).to_simpleitk(), str(tmp_path / f"{name}.nrrd"))
    done = CliRunner().invoke(
        main,
        [str(tmp_path / "fixed.nrrd"), str(tmp_path / "moving.nrrd"), "--fixed-labels",
         str(tmp_path / "fixed_labels.nrrd"), "--rigid", str(label), "-o", str(tmp_path / "field.nrrd"), "-v"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"rigid part {label}: turned by" in done.output
    vectors = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "field.nrrd")))
    part = made.fixed_labels.array == label
    points = made.fixed.grid.to_physical(np.argwhere(part)[:, ::-1])
    rotation, translation = rigid_motion(points, points + vectors[part])
    assert np.abs(points @ rotation.T + translation - points - vectors[part]).max() < 1e-2


def test_the_uncertainty_is_about_the_field_with_its_rigid_parts() -> None:
    made = make_pair((60, 50), 2.0, seed=5, displacement=8)
    label = int(np.bincount(made.fixed_labels.array[made.fixed_labels.array > 0]).argmax())
    images = made.fixed.to_simpleitk(), made.moving.to_simpleitk()
    known = {"fixed_labels": made.fixed_labels.to_simpleitk(), "rigid": label}
    transform, found = itk_pdd.register(*images, **known, return_uncertainty="full")
    vectors = SimpleITK.GetArrayFromImage(transform.GetDisplacementField())
    np.testing.assert_allclose(found.field.vectors, vectors, atol=1e-5)
    assert found.headline.endswith("mm (calibrated without guides)")


def test_a_field_slides_along_a_label() -> None:
    """Texture beside a vertical wall moves down by 12 mm inside of it, and not at all outside."""
    rng = np.random.default_rng(0)
    shape, grid = (90, 90), Grid.create((90, 90), 2.0)
    textures = [ndimage.gaussian_filter(rng.normal(size=shape), 2.0) for _ in range(2)]
    inside = np.zeros(shape, np.uint8)
    inside[:, 25:65] = 7
    moved = ndimage.shift(textures[0], (6, 0), order=1, mode="nearest")
    fixed, moving = (
        Volume(np.where(inside, 500 * a, 100 + 500 * textures[1]).astype(np.float32), grid).to_simpleitk()
        for a in (textures[0], moved)
    )
    labels = Volume(inside, grid).to_simpleitk()
    known = {"fixed_labels": labels, "moving_labels": labels, "guide": "none", "sliding": 7}
    with pytest.warns(RegistrationWarning, match=r"slides along the border of label 7, by 1\d\.\d mm on average"):
        transform = itk_pdd.register(fixed, moving, **known)
    field = SimpleITK.GetArrayFromImage(transform.GetDisplacementField())[20:-20]
    assert np.abs(field[:, 30:60, 1] - 12).mean() < 1.5
    assert np.abs(field[:, :20, 1]).mean() < 1.0
    assert abs((field[:, 25, 1] - field[:, 24, 1]).mean() - 12) < 3.0
    with pytest.raises(RegistrationError, match="not estimated where the field slides"):
        itk_pdd.register(fixed, moving, **known, return_uncertainty=True)


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ({"rigid": 1}, "rigid needs fixed_labels"),
        ({"rigid": 5, "fixed_labels": True}, "rigid names the label 5, but the labels are 1"),
        ({"sliding": 1, "fixed_labels": True}, "fixed_labels is given without moving_labels"),
        ({"sliding": 9, "fixed_labels": True, "moving_labels": True}, "sliding names the label 9"),
    ],
)
def test_bad_input_is_one_sentence(known, told) -> None:
    grid = Grid.create((20, 20), 1.0)
    image = Volume(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid).to_simpleitk()
    labels = np.zeros(grid.shape, np.uint8)
    labels[5:9, 5:9] = 1
    known = {key: Volume(labels, grid).to_simpleitk() if value is True else value for key, value in known.items()}
    with pytest.raises(RegistrationError, match=told) as error:
        itk_pdd.register(image, image, **known)
    assert "\n" not in str(error.value)
