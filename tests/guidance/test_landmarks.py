"""Landmarks: what is read, which are obeyed, and how close the field comes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from itk_pdd.cli.register import main

import itk_pdd
from itk_pdd import registration
from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.guidance.guidance import read_guidance
from itk_pdd.guidance.landmarks import read_landmarks
from itk_pdd.solver.correction import corrected
from itk_pdd.solver.problem import Problem
from itk_pdd.solver.trust import Doubt, trusted
from itk_pdd.synthesis import make_pair

GRIDS = (Grid.create((40, 40, 40), 2.0, (-40.0, -40.0, -40.0)),) * 2


@pytest.fixture(scope="module")
def pair() -> SimpleNamespace:
    """A 2-D pair with known deformation and 12 true landmarks within the body."""
    made = make_pair((120, 100), 2.0, seed=4, displacement=16)
    inside = np.argwhere(made.body)
    chosen = inside[np.random.default_rng(1).permutation(len(inside))[:12]]
    points = made.fixed.grid.to_physical(chosen[:, ::-1])
    return SimpleNamespace(made=made, points=points, there=points + made.truth.at(points))


def solved(pair: SimpleNamespace, points: np.ndarray, there: np.ndarray, **options):
    fixed, moving = pair.made.fixed, pair.made.moving
    guidance = read_guidance((fixed.grid, moving.grid), fixed_points=points, moving_points=there, **options)
    return registration.solve(Problem((fixed,), (moving,), guidance=guidance), judged=False)


def off(field: DisplacementField, points: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points + field.at(points) - there, axis=1)


@pytest.mark.parametrize(("options", "limit"), [({}, 0.5), ({"exact_points": True}, 0.02)], ids=["soft", "exact"])
def test_the_field_meets_true_landmarks(pair, options, limit) -> None:
    result = solved(pair, pair.points, pair.there, **options)
    errors = off(result.field, pair.points, pair.there)
    assert errors.max() < limit * 2.0
    np.testing.assert_allclose([each.after for each in result.landmarks], errors, atol=1e-5)
    assert not any(each.ignored for each in result.landmarks)
    assert (result.field.jacobian_determinant() > 0).all()


def test_wrong_landmarks_are_named_and_not_obeyed(pair) -> None:
    grid = pair.made.fixed.grid
    low, high = grid.corners().min(axis=0) + 4, grid.corners().max(axis=0) - 4
    wrong = [np.random.default_rng(2).uniform(low, high, (60, 2)) for _ in range(2)]
    wrong[1] = np.random.default_rng(3).uniform(low, high, (60, 2))
    far = np.linalg.norm(wrong[1] - wrong[0] - pair.made.truth.at(wrong[0]), axis=1) > 16
    wrong = [each[far] for each in wrong]
    points, there = np.concatenate([pair.points, wrong[0]]), np.concatenate([pair.there, wrong[1]])
    with pytest.warns(RegistrationWarning, match=r"landmarks are not obeyed: 12 \("):
        result = solved(pair, points, there)
    ignored = np.array([bool(each.ignored) for each in result.landmarks])
    assert not ignored[:12].any()
    assert ignored[12:].all()
    assert off(result.field, pair.points, pair.there).max() < 1.0
    assert (result.field.jacobian_determinant() > 0).all()


def test_landmarks_that_agree_are_believed_against_the_images() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 60, (6, 3))
    residuals = np.array([20.0, 0, 0]) + rng.normal(size=(6, 3))
    doubt = Doubt(np.full(6, 0.9), np.zeros(6, bool))
    assert trusted(points, residuals, np.full(6, 0.5), doubt).obeyed.all()
    residuals[2] = (-30, 10, 0)
    assert trusted(points, residuals, np.full(6, 0.5), doubt).obeyed.tolist() == [True, True, False, True, True, True]


@pytest.mark.parametrize("off", [0.0, 10.0], ids=["images_right", "images_wrong"])
def test_random_landmarks_among_right_ones_are_told_apart(off) -> None:
    shape, right, wrong = (60, 120, 110), [], []
    size = np.array(shape[::-1])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        points = np.concatenate([rng.uniform(0.3 * size, 0.7 * size, (10, 3)), rng.uniform(0, size, (300, 3))])
        residuals = rng.uniform(0, size, (310, 3)) - points
        # What the search missed, smoothly, and the error of whoever set the landmarks.
        missed = np.outer(1 + 0.3 * np.sin(points[:10, 0] / 20), (off, 0, off / 2))
        residuals[:10] = missed + rng.normal(0, 1, (10, 3))
        chance = np.concatenate([rng.uniform(0, 0.2, 10), rng.uniform(0, 1, 300)])
        obeyed = trusted(points, residuals, np.full(310, 0.5), Doubt(chance, chance < 0.02), shape).obeyed
        right.append(obeyed[:10].sum())
        wrong.append(obeyed[10:].sum())
    assert min(right) >= 8
    assert max(wrong) <= 1


def test_a_correction_meets_points_without_folds() -> None:
    grid = GRIDS[0]
    points = np.array([[0.0, 0, 0], [9.0, 3, -5], [-21.3, 10, 7]])
    targets = points + np.array([[6.0, 0, 0], [0, -5.0, 0], [1, 2, 3]])
    found = corrected(DisplacementField.zeros(grid), points, targets, np.zeros(3), exact=True)
    assert off(found, points, targets).max() < 0.01
    assert (found.jacobian_determinant() > 0).all()
    # Far from all of them nothing moves.
    assert np.abs(found.at(np.array([[37.0, -37.0, -37.0]]))).max() < 0.5


def test_names_match_points_of_files_in_any_order(tmp_path) -> None:
    mark = {"type": "Fiducial", "coordinateSystem": "LPS"}
    for name, order in (("fixed", "ABC"), ("moving", "CAB")):
        shift = 1.0 if name == "moving" else 0.0
        points = [{"label": each, "position": [ord(each) - 66.0 + shift, 2.0, 3.0]} for each in order]
        content = {"markups": [{**mark, "controlPoints": points}]}
        (tmp_path / f"{name}.mrk.json").write_text(json.dumps(content))
    found = read_landmarks(tmp_path / "fixed.mrk.json", tmp_path / "moving.mrk.json", grids=GRIDS)
    assert found.names == ("A", "B", "C")
    np.testing.assert_allclose(found.moving - found.fixed, [[1, 0, 0]] * 3)
    table = tmp_path / "both.csv"
    table.write_text("name,fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z\nhilum,1,2,3,4,5,6\n")
    found = read_landmarks(table, table, grids=GRIDS)
    assert found.names == ("hilum",)
    np.testing.assert_allclose(found.moving, [[4, 5, 6]])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"moving_points": [[0.0, 0, 0]]}, "fixed_points are 2 points and moving_points 1, expected as many"),
        ({"moving_points": [[0.0, 0, 0], [0, 0, 99]]}, "1 of 2 points lie outside of the moving image"),
        ({"moving_points": None}, "fixed_points is given without moving_points"),
        ({"fixed_points": [[0.0, 0], [1, 1]]}, r"fixed_points are an array of shape \(2, 2\), expected \(n, 3\)"),
        ({"fixed_points": [[0.0, 0, np.nan], [1, 1, 1]]}, "fixed_points hold NaN"),
        ({"fixed_points": object()}, "fixed_points are a"),
        ({"point_uncertainty": -1}, "point_uncertainty is -1, expected millimetres"),
        ({"point_uncertainty": [1.0, 2, 3]}, "point_uncertainty has the shape"),
        ({"fixed_points": "absent.csv"}, "fixed_points: absent.csv cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(change, told) -> None:
    known = {"fixed_points": [[0.0, 0, 0], [5, 5, 5]], "moving_points": [[1.0, 0, 0], [6, 5, 5]], **change}
    with pytest.raises(RegistrationError, match=told) as error:
        read_guidance(GRIDS, **known)
    assert "\n" not in str(error.value)


def test_other_names_are_refused(tmp_path) -> None:
    for name, labels in (("fixed", "AB"), ("moving", "AC")):
        rows = [f"{label},0,0,{i}" for i, label in enumerate(labels)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["label,x,y,z", *rows]))
    with pytest.raises(RegistrationError, match=r"other names \(B, C\)"):
        read_landmarks(tmp_path / "fixed.csv", tmp_path / "moving.csv", grids=GRIDS)
    (tmp_path / "moving.csv").write_text("label,x,y,z\nA,0,0,0\nA,0,0,1\n")
    with pytest.warns(RegistrationWarning, match="moving_points have no names, or a name twice"):
        read_landmarks(tmp_path / "fixed.csv", tmp_path / "moving.csv", grids=GRIDS)


def test_the_command_records_every_landmark(pair, tmp_path) -> None:
    for name in ("fixed", "moving"):
        SimpleITK.WriteImage(getattr(pair.made, name).to_simpleitk(), str(tmp_path / f"{name}.nrrd"))
    rows = [",".join(f"{v:.6f}" for v in (*a, *b)) for a, b in zip(pair.points, pair.there, strict=True)]
    table = tmp_path / "points.csv"
    table.write_text("\n".join(["fixed_x,fixed_y,moving_x,moving_y", *rows]))
    made = CliRunner().invoke(
        main,
        [str(tmp_path / "fixed.nrrd"), str(tmp_path / "moving.nrrd"), "--fixed-points", str(table), "--moving-points",
         str(table), "--point-uncertainty", "0.5", "--record", str(tmp_path / "run.json"), "--report",
         str(tmp_path / "page.html"), "-o", str(tmp_path / "field.nrrd"), "-v"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "12 landmarks: " in made.output
    record = json.loads((tmp_path / "run.json").read_text())["landmarks"]
    field = itk_pdd.warp_points(pair.points, str(tmp_path / "field.nrrd"), to="moving")
    np.testing.assert_allclose(
        [each["after_mm"] for each in record], np.linalg.norm(field - pair.there, axis=1), atol=2e-3
    )  # fmt: skip
    assert "Landmarks" in (tmp_path / "page.html").read_text()
