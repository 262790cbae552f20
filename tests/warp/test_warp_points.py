"""Points go where they should, in both directions; points that no one can move are refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, rotation, wave

from itk_pdd import warp_image, warp_points
from itk_pdd.commands.transform import points_file
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.inversion import invert_points
from itk_pdd.io.fields import field_to_itk, write_field
from itk_pdd.io.images import simpleitk_image

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]
MATRIX = np.eye(4)
MATRIX[:3, :3], MATRIX[:3, 3] = rotation(10, 5, -20) @ np.diag([1.1, 0.9, 1.05]), (40.0, -30.0, 11.0)


def inside(grid: Grid, count: int = 50, margin: float = 2.5) -> np.ndarray:
    index = np.random.default_rng(0).uniform(margin, np.asarray(grid.size) - 1 - margin, (count, grid.dimension))
    return grid.to_physical(index)


def bspline() -> SimpleITK.BSplineTransform:
    transform = SimpleITK.BSplineTransformInitializer(blobs(GRID).to_simpleitk(), [4, 4, 4])
    numbers = np.random.default_rng(1).normal(0, 2, len(transform.GetParameters()))
    transform.SetParameters(numbers.tolist())
    return transform


def test_a_bright_spot_and_its_landmark_stay_together() -> None:
    """The direction, seen in an image: where the spot of the moving image appears in the warped one."""
    grid = Grid.create((40, 36, 30), (1.0, 1.2, 1.5), (5.0, -7.0, 9.0), rotation(20, -15, 40))
    landmark = grid.to_physical(np.array([22.0, 17, 14]))
    spot = np.exp(-((grid.points() - landmark) ** 2).sum(axis=-1) / (2 * 2.5**2)).astype(np.float32)
    field = DisplacementField.from_function(lambda p: p + np.array([4.0, -3.0, 2.0]), grid)
    warped = SimpleITK.GetArrayFromImage(warp_image(simpleitk_image(spot, grid), field))
    seen = (grid.points() * warped[..., None]).sum(axis=(0, 1, 2)) / warped.sum()
    np.testing.assert_allclose(warp_points([landmark], field, to="fixed")[0], seen, atol=0.05)
    np.testing.assert_allclose(warp_points([landmark], field, to="fixed")[0], landmark - [4, -3, 2], atol=1e-3)
    np.testing.assert_allclose(warp_points([landmark], field, to="moving")[0], seen + np.array([8, -6, 4]), atol=0.05)


@pytest.mark.parametrize(
    "make",
    [lambda: wave(GRID), lambda: MATRIX, bspline, lambda: [wave(GRID), MATRIX], lambda: [bspline(), MATRIX, wave(FAR)]],
    ids=["field", "matrix", "bspline", "field and matrix", "three"],
)
def test_there_and_back(make) -> None:
    points = inside(GRID)
    moved = warp_points(points, make(), to="moving")
    assert np.linalg.norm(moved - points, axis=-1).max() > 0.5
    back = warp_points(moved, make(), to="fixed")
    np.testing.assert_allclose(back, points, atol=1e-2)
    np.testing.assert_allclose(warp_points(back, make(), to="moving"), moved, atol=1e-3)


# A grid around where the matrix sends the other one.
FAR = Grid.create((40, 40, 40), 3.0, MATRIX[:3, :3] @ GRID.centre + MATRIX[:3, 3] - 58.5)


def test_forward_is_what_itk_says() -> None:
    transform = field_to_itk(wave(GRID))
    points = inside(GRID)
    expected = [list(transform.TransformPoint(point.tolist())) for point in points]
    np.testing.assert_allclose(warp_points(points, transform, to="moving"), expected, atol=1e-4)
    composite = SimpleITK.CompositeTransform([SimpleITK.TranslationTransform(3, (40.0, 0.0, 0.0)), bspline()])
    expected = [composite.TransformPoint(point.tolist()) for point in points]
    np.testing.assert_allclose(warp_points(points, composite, to="moving"), expected, atol=1e-6)


def test_two_dimensions_and_files(tmp_path) -> None:
    points = inside(FLAT)
    write_field(wave(FLAT), tmp_path / "u.nii.gz")
    (tmp_path / "p.csv").write_text("x,y,z\n" + "\n".join(f"{x:.9f},{y:.9f},0" for x, y in points))
    moved = warp_points(tmp_path / "p.csv", tmp_path / "u.nii.gz", to="moving")
    np.testing.assert_allclose(moved, points + wave(FLAT).at(points), atol=1e-4)


def test_points_outside_the_field() -> None:
    points = inside(GRID)
    points[7] = GRID.to_physical(np.array([30.0, 4, 5]))
    for to, where in (("moving", "fixed"), ("fixed", "moving")):
        with pytest.raises(RegistrationError, match=rf"1 of 50 points of the {where} image lie outside .*number 7, at"):
            warp_points(points, wave(GRID), to=to)
    moved = warp_points(points, wave(GRID), to="moving", outside="nearest")
    np.testing.assert_allclose(moved[7] - points[7], wave(GRID).vectors[5, 4, -1], atol=1e-4)
    np.testing.assert_allclose(warp_points(moved, wave(GRID), to="fixed", outside="nearest"), points, atol=1e-2)
    with pytest.raises(RegistrationError, match="outside the field"):
        warp_points(GRID.to_physical(np.array([[40.0, 4, 5]])), bspline(), to="moving")


def test_compression_and_folds() -> None:
    """A field that compresses to a tenth, one that jumps and one that folds are inverted where they reach."""
    line = Grid.create((101, 9), 1.0)
    squeezed = DisplacementField.from_function(lambda p: p - [[0.9, 0]] * (p - [50, 0]), line)
    targets = np.array([[46.0, 4.0], [50.0, 4.0], [54.5, 4.0]])
    found = warp_points(targets, squeezed, to="fixed")
    np.testing.assert_allclose(found[:, 0], 50 + (targets[:, 0] - 50) / 0.1, atol=0.05)
    # A step of 20 mm within a voxel is steep, not torn.
    steep = DisplacementField(np.zeros((9, 101, 2), np.float32), line)
    steep.vectors[:, 51:, 0] = 20
    targets = np.array([[30.0, 4], [60.0, 4], [90.0, 4]])
    np.testing.assert_allclose(steep(warp_points(targets, steep, to="fixed")), targets, atol=1e-3)
    # Mirrored at 50: no point inside is mapped to -20.
    folded = DisplacementField.from_function(lambda p: np.abs(p - [[50, 0]]), line)
    with pytest.raises(RegistrationError, match="1 of 1 points of the moving image lie outside"):
        warp_points([[-20.0, 4]], folded, to="fixed")


def test_newton_helps_where_the_plain_iteration_does_not() -> None:
    def stretch(points):
        return points + 2.5 * np.sin(points)  # derivative up to 3.5: the fixed point repels

    targets = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    found, residuals = invert_points(stretch, targets, tolerance=1e-6, step=0.3)
    assert residuals.max() <= 1e-6
    np.testing.assert_allclose(stretch(found), targets, atol=1e-6)


def test_wrong_use() -> None:
    points = inside(GRID)
    cases = [
        (lambda: warp_points(points, wave(GRID), to="back"), "to is 'back', expected 'fixed'"),
        (lambda: warp_points(points, wave(FLAT), to="fixed"), r"shape \(50, 3\), expected \(n, 2\)"),
        (lambda: warp_points(points[0], wave(GRID), to="fixed"), r"shape \(3,\)"),
        (lambda: warp_points(points * np.nan, wave(GRID), to="fixed"), "NaN or infinite"),
        (lambda: warp_points(points, wave(GRID), to="fixed", outside="zero"), "outside is 'zero'"),
        (lambda: warp_points("points.xyz", wave(GRID), to="fixed"), "is no file of points, expected one of .csv"),
        (lambda: warp_points("points.csv", wave(GRID), to="fixed"), "cannot be read"),
    ]
    for make, message in cases:
        with pytest.raises(RegistrationError, match=message):
            make()
    with pytest.raises(TypeError):
        warp_points(points, wave(GRID))


def test_points_outside_are_left_out_on_request(tmp_path) -> None:
    grid = Grid.create((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    shift = np.full((20, 20, 20, 3), 2.0, np.float32)
    write_field(DisplacementField(shift, grid), tmp_path / "field.nii.gz")
    (tmp_path / "in.csv").write_text("name,x,y,z\na,5,5,5\nb,500,5,5\nc,7,8,9\n")
    told = points_file(
        tmp_path / "in.csv", tmp_path / "out.csv", [tmp_path / "field.nii.gz"], to="moving", outside="skip"
    )
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["name", "a", "c"] and "1 outside the field are left out" in told
    assert [float(value) for value in rows[2].split(",")[1:]] == pytest.approx([9, 10, 11])
    with pytest.raises(RegistrationError, match="outside='skip'"):
        points_file(tmp_path / "in.csv", tmp_path / "no.csv", [tmp_path / "field.nii.gz"], to="moving")
