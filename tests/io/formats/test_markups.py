"""3D Slicer's markups: all that depends on the points moves with them, and what is not defined stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import rotation

from itk_pdd import warp_points
from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.io.points import read_points

MIRROR = np.diag([-1.0, -1.0, 1.0])
POINTS = np.array([[1.5, -2.0, 3.25], [10.0, 20.0, -30.0], [0.1, 0.2, 0.3]])
TURN = rotation(20, -15, 40)


def affine(matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = matrix, shift
    return result


def written(path: Path, *markups: dict) -> Path:
    path.write_text(json.dumps({"@schema": "markups-schema-v1.0.3.json", "markups": list(markups)}))
    return path


def moved(path: Path, matrix: np.ndarray) -> list[dict]:
    file = read_points(path)
    return json.loads(file.rewrite(warp_points(file.points, matrix, to="moving")))["markups"]


def box(system: str, centre: np.ndarray, axes: np.ndarray, size: list[float], kind: str = "ROI") -> dict:
    """A region or plane given in LPS, as Slicer writes it in either system."""
    flip = MIRROR if system == "RAS" else np.eye(3)
    frame = affine(flip @ axes, flip @ centre)
    return {
        "type": kind, "coordinateSystem": system, "center": (flip @ centre).tolist(), "size": size,
        "normal": (flip @ axes[:, 2]).tolist(), "orientation": (flip @ axes).ravel().tolist(),
        "baseToNode": frame.ravel().tolist(), "objectToBase": np.eye(4).ravel().tolist(),
        "planeBounds": [-size[0] / 2, size[0] / 2, -size[1] / 2, size[1] / 2],
        "controlPoints": [{"id": "1", "position": (flip @ centre).tolist(), "positionStatus": "defined",
                           "orientation": (flip @ axes).ravel().tolist()}],
    }  # fmt: skip


def corners(markup: dict) -> np.ndarray:
    """The corners of a region or plane in LPS: from the origin, the axes and the size alone."""
    flip = MIRROR if markup["coordinateSystem"] == "RAS" else np.eye(3)
    axes, signs = np.reshape(markup["orientation"], (3, 3)), np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3)
    return (np.asarray(markup["center"]) + signs * np.asarray(markup["size"]) / 2 @ axes.T) @ flip


@pytest.mark.parametrize("system", ["LPS", "RAS"])
@pytest.mark.parametrize(("kind", "size"), [("ROI", [20.0, 10.0, 4.0]), ("Plane", [20.0, 10.0, 0.0])])
def test_a_region_and_a_plane_move_as_a_whole(tmp_path: Path, system: str, kind: str, size: list[float]) -> None:
    axes = rotation(-30, 10, 5)
    path = written(tmp_path / "r.mrk.json", box(system, POINTS[1], axes, size, kind))
    # Turned, and stretched along the axes of the box: the result is a box again.
    matrix = affine(TURN @ axes @ np.diag([1.5, 0.5, 2.0]) @ axes.T, np.array([3.0, -4.0, 5.0]))
    with pytest.warns(RegistrationWarning, match="1 plane or region"):
        (found,) = moved(path, matrix)
    before = json.loads(path.read_text())["markups"][0]
    expected = corners(before) @ matrix[:3, :3].T + matrix[:3, 3]
    np.testing.assert_allclose(corners(found), expected, atol=1e-9)
    flip = MIRROR if system == "RAS" else np.eye(3)
    np.testing.assert_allclose(found["controlPoints"][0]["position"], found["center"], atol=1e-9)
    frame = np.reshape(found["baseToNode"], (4, 4))
    np.testing.assert_allclose(frame[:3, :3], flip @ TURN @ axes, atol=1e-9)
    np.testing.assert_allclose(frame[:3, 3], found["center"], atol=1e-9)
    np.testing.assert_allclose(found["normal"], flip @ TURN @ axes[:, 2], atol=1e-9)
    np.testing.assert_allclose(found["planeBounds"], [-15, 15, -2.5, 2.5], atol=1e-9)
    np.testing.assert_allclose(np.reshape(found["controlPoints"][0]["orientation"], (3, 3)), flip @ TURN @ axes)
    assert found["objectToBase"] == before["objectToBase"]


def test_the_normal_of_a_sheared_plane_stays_normal_to_it(tmp_path: Path) -> None:
    path = written(tmp_path / "p.mrk.json", box("LPS", POINTS[0], np.eye(3), [10, 10, 0], "Plane"))
    shear = affine(np.array([[1.0, 0.0, 0.7], [0.2, 1.0, 0.0], [0.4, 0.1, 1.0]]), np.zeros(3))
    with pytest.warns(RegistrationWarning):
        (found,) = moved(path, shear)
    normal = np.linalg.inv(shear[:3, :3]).T @ [0, 0, 1]
    np.testing.assert_allclose(found["normal"], normal / np.linalg.norm(normal), atol=1e-9)


def test_only_points_of_the_file_are_given_to_the_caller(tmp_path: Path) -> None:
    path = written(tmp_path / "r.mrk.json", box("LPS", POINTS[1], np.eye(3), [2, 2, 2]))
    with pytest.warns(RegistrationWarning):
        found = warp_points(path, affine(np.eye(3), np.ones(3)), to="moving")
    np.testing.assert_allclose(found, POINTS[1:2] + 1)


@pytest.mark.parametrize("position", [[0.0, 0.0, 0.0], "", None, "gone"], ids=["zero", "text", "null", "missing"])
@pytest.mark.parametrize("status", ["undefined", "preview"])
def test_points_that_are_not_defined_stay(tmp_path: Path, position: object, status: str) -> None:
    undefined = {"id": "2", "positionStatus": status} | ({} if position == "gone" else {"position": position})
    points = [{"id": "1", "position": POINTS[0].tolist(), "positionStatus": "defined"}, undefined]
    path = written(tmp_path / "p.mrk.json", {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points})
    (found,) = moved(path, affine(np.eye(3), np.ones(3)))
    np.testing.assert_allclose(found["controlPoints"][0]["position"], POINTS[0] + 1)
    assert found["controlPoints"][1] == undefined


@pytest.mark.parametrize("unit", ["um", ["um", "UCUM", "micrometer"]])
def test_units_and_digits_of_micrometres(tmp_path: Path, unit: object) -> None:
    points = [{"id": "1", "position": [1500.125, -2.5, 0.0625]}]
    markup = {"type": "Curve", "coordinateSystem": "RAS", "coordinateUnits": unit, "controlPoints": points}
    file = read_points(written(tmp_path / "p.mrk.json", markup))
    np.testing.assert_allclose(file.points, [[-1.500125, 0.0025, 0.0000625]])
    (found,) = json.loads(file.rewrite(file.points + 1e-6))["markups"]
    np.testing.assert_allclose(found["controlPoints"][0]["position"], [1500.124, -2.501, 0.0635], atol=1e-9)
    fine = {"type": "Fiducial", "controlPoints": [{"id": "1", "position": [0.001234567, 0.0, 0.0]}]}
    file = read_points(written(tmp_path / "q.mrk.json", fine))
    (found,) = json.loads(file.rewrite(file.points))["markups"]
    assert found["controlPoints"][0]["position"][0] == 0.001234567, "a thousandth of a voxel of a micrometre"


def test_values_of_measurements_are_dropped(tmp_path: Path) -> None:
    markup = {
        "type": "Line", "coordinateSystem": "LPS",
        "controlPoints": [{"id": str(i), "position": p} for i, p in enumerate(POINTS[:2].tolist())],
        "measurements": [{"name": "length", "enabled": True, "value": 40.1, "units": "mm"}, {"name": "mine"}],
    }  # fmt: skip
    path = written(tmp_path / "l.mrk.json", markup)
    with pytest.warns(RegistrationWarning, match="measurements"):
        (found,) = moved(path, affine(2 * np.eye(3), np.zeros(3)))
    assert found["measurements"] == [{"name": "length", "enabled": True, "units": "mm"}, {"name": "mine"}]


def test_what_cannot_be_moved_is_refused(tmp_path: Path) -> None:
    point = {"id": "1", "position": [1.0, 2.0, 3.0]}
    for markup, message in (
        ({"coordinateUnits": "s", "controlPoints": [point]}, "names the unit 's', expected a unit of length"),
        ({"coordinateSystem": "IJK", "controlPoints": [point]}, "names the coordinate system 'IJK'"),
        ({"controlPoints": [point | {"positionStatus": "undefined"}]}, "holds no points"),
        ({"controlPoints": [point | {"position": ""}]}, "cannot be read as 3D Slicer's markups"),
        (box("LPS", POINTS[0], np.eye(3), [1, 1, 1]) | {"orientation": [1, 0, 0]}, "cannot be read"),
    ):
        with pytest.raises(RegistrationError, match=message):
            read_points(written(tmp_path / "x.mrk.json", markup))
    path = written(tmp_path / "r.mrk.json", box("LPS", POINTS[0], np.eye(3), [1, 1, 1]))
    with pytest.raises(RegistrationError, match="no 2-D transform can move"):
        read_points(path, dimension=2)
