"""pdd-transform from argument to exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner, Result
from conftest import GEOMETRIES, blobs, wave
from itk_pdd.cli.transform import main

from itk_pdd import warp_image, warp_points
from itk_pdd.io.fields import read_field, write_field
from itk_pdd.io.guards.nifti import read_intent

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def case(tmp_path: Path) -> SimpleNamespace:
    """Files of images, labels, points and transforms, and an empty folder for outputs."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    image = blobs(GRID, dtype=np.int16).to_simpleitk()
    SimpleITK.WriteImage(image, str(folder / "m.nii.gz"))
    SimpleITK.WriteImage(image > 60, str(folder / "l.nii.gz"))
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0)), str(folder / "a.mat"))
    write_field(wave(GRID), folder / "u.nii.gz")
    write_field(wave(FLAT), folder / "flat.nii.gz")
    x, y, z = GRID.centre
    (folder / "p.csv").write_text(f"x,y,z,name\n{x},{y},{z},centre\n")
    return SimpleNamespace(folder=folder, out=out, image=image)


def test_image(case) -> None:
    for way in ("linear", "bspline", "sinc", "nearest"):
        result = run("image", case.folder / "m.nii.gz", "-t", case.folder / "u.nii.gz", "-t", case.folder / "a.mat",
                     "-o", case.out / "w.mha", "--interpolation", way, "--default", -7)  # fmt: skip
        assert (result.exit_code, result.output) == (0, "")
        found = SimpleITK.ReadImage(str(case.out / "w.mha"))
        expected = warp_image(case.image, [wave(GRID), SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0))],
                              reference=GRID, interpolation=way, default=-7)  # fmt: skip
        assert found.GetPixelID() == SimpleITK.sitkInt16
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), SimpleITK.GetArrayFromImage(expected))


def test_labels(case) -> None:
    for way in ("nearest", "partial-volume"):
        result = run("labels", case.folder / "l.nii.gz", "-t", case.folder / "u.nii.gz", "-o", case.out / "l.nrrd",
                     "--interpolation", way)  # fmt: skip
        assert result.exit_code == 0, result.output
        found = SimpleITK.ReadImage(str(case.out / "l.nrrd"))
        assert found.GetPixelID() == SimpleITK.sitkUInt8
        assert set(np.unique(SimpleITK.GetArrayFromImage(found))) == {0, 1}


def test_points_in_both_directions(case) -> None:
    forward = run("points", case.folder / "p.csv", "-t", case.folder / "u.nii.gz", "--to", "moving", "-o",
                  case.out / "m.csv")  # fmt: skip
    assert forward.exit_code == 0, forward.output
    assert "1 point of the fixed image moved to the moving image" in forward.output
    assert "LPS mm (assumed)" in forward.output
    moved = np.array((case.out / "m.csv").read_text().splitlines()[1].split(",")[:3], float)
    np.testing.assert_allclose(moved, GRID.centre + wave(GRID).at(GRID.centre), atol=1e-4)
    back = run("points", case.out / "m.csv", "-t", case.folder / "u.nii.gz", "--to", "fixed", "-o", case.out / "f.csv")
    assert "of the moving image moved to the fixed image" in back.output
    row = (case.out / "f.csv").read_text().splitlines()[1].split(",")
    assert row[3] == "centre"
    np.testing.assert_allclose(np.array(row[:3], float), GRID.centre, atol=1e-3)
    assert run("points", case.out / "m.csv", "-t", case.folder / "u.nii.gz", "-o", case.out / "x.csv").exit_code == 2


def test_jacobian(case) -> None:
    result = run("jacobian", "-t", case.folder / "u.nii.gz", "-o", case.out / "j.nii.gz")
    assert result.exit_code == 0, result.output
    assert "folded (not positive) in 0 % of the voxels" in result.output
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case.out / "j.nii.gz")))
    np.testing.assert_allclose(found, wave(GRID).jacobian_determinant(), atol=1e-6)


def test_compose_in_every_format(case) -> None:
    transforms = ["-t", case.folder / "u.nii.gz", "-t", case.folder / "a.mat"]
    expected = wave(GRID).vectors + np.array([1.0, 2.0, 3.0])
    for form, name in (("field", "f.nii.gz"), ("field", "f.h5"), ("niftyreg", "n.nii.gz"), ("elastix", "T.txt")):
        result = run("compose", *transforms, "--format", form, "-o", case.out / name)
        assert result.exit_code == 0, result.output
    assert {p.name for p in case.out.iterdir()} == {"f.nii.gz", "f.h5", "n.nii.gz", "T.txt", "T.field.nii.gz"}
    for name in ("f.nii.gz", "f.h5", "n.nii.gz", "T.field.nii.gz"):
        np.testing.assert_allclose(read_field(case.out / name).vectors, expected, atol=1e-4)
    assert read_intent(case.out / "n.nii.gz").name == "NREG_TRANS"
    assert str(case.out) not in (case.out / "T.txt").read_text(), "the folder can be moved"
    moved = case.out.rename(case.folder / "moved")
    case.out.mkdir()
    result = run("compose", "-t", moved / "T.txt", "-o", case.out / "again.nii.gz", "-r", case.folder / "m.nii.gz")
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(read_field(case.out / "again.nii.gz").vectors, expected, atol=1e-4)
    result = run("compose", *transforms, "--format", "composite", "-o", case.out / "c.h5")
    assert result.exit_code == 0, result.output
    both = SimpleITK.ReadTransform(str(case.out / "c.h5"))
    np.testing.assert_allclose(both.TransformPoint(GRID.origin), np.asarray(GRID.origin) + expected[0, 0, 0], atol=1e-4)


def test_inverse(case) -> None:
    result = run("inverse", "-t", case.folder / "u.nii.gz", "-r", case.folder / "m.nii.gz", "-o", case.out / "v.nii.gz")
    assert result.exit_code == 0, result.output
    assert "exact to 0.05 voxel at 100 % of its voxels" in result.output
    result = run("inverse", "-t", case.folder / "a.mat", "-o", case.out / "b.tfm")
    assert "its inverse exact" in result.output
    moved = SimpleITK.ReadTransform(str(case.out / "b.tfm")).TransformPoint((1.0, 2.0, 3.0))
    np.testing.assert_allclose(moved, 0, atol=1e-12)


def test_inverse_in_other_forms(case) -> None:
    inverse = ("inverse", "-t", case.folder / "u.nii.gz", "-r", case.folder / "m.nii.gz")
    voxel = GRID.to_physical(np.array([[size // 2 for size in GRID.size]]))
    for form, name in (("field", "v.mha"), ("composite", "v.h5"), ("niftyreg", "n.nii.gz"), ("voxels", "x.nii.gz")):
        result = run(*inverse, "--format", form, "-o", case.out / name)
        assert result.exit_code == 0, result.output
        found = warp_points(voxel, case.out / name, to="moving")
        back = warp_points(found, case.folder / "u.nii.gz", to="moving")
        np.testing.assert_allclose(back, voxel, atol=0.05 * min(GRID.spacing))
    result = run(*inverse, "--format", "lta", "-o", case.out / "v.lta")
    assert result.exit_code == 1 and "transform is not linear" in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["image", "m.nii.gz", "-t", "flat.nii.gz"], 1, "transform is 2-D but image is 3-D"),
        (["image", "m.nii.gz", "-t", "gone.h5"], 1, "there is no file"),
        (["image", "m.nii.gz", "-t", "a.mat"], 1, "there is no reference"),
        (["image", "m.nii.gz", "-t", "u.nii.gz", "-t", "flat.nii.gz"], 1, r"transform\[1\] is 2-D"),
        (["image", "m.nii.gz", "-t", "[u.nii.gz,1]"], 1, "there is no file|cannot be inverted"),
        (["labels", "u.nii.gz", "-t", "u.nii.gz"], 1, "labels has 3 components"),
        (["jacobian", "-t", "m.nii.gz"], 1, "1 components per voxel"),
        (["inverse", "-t", "u.nii.gz"], 1, "give the moving image"),
        (["compose", "-t", "u.nii.gz", "--format", "elastix"], 3, "extension '.nii' .*expected one of .txt"),
    ],
)
def test_bad_input_gives_one_sentence_and_no_file(case, arguments, code: int, message: str) -> None:
    arguments = [case.folder / a if a.endswith((".gz", ".h5", ".mat")) else a for a in arguments]
    result = run(*arguments, "-o", case.out / "x.nii")
    assert result.exit_code == code, result.output
    import re

    assert re.search(message, result.output), result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert not list(case.out.iterdir())


def test_points_outside_and_fractions_write_nothing(case) -> None:
    (case.folder / "far.csv").write_text("x,y,z\n900,0,0\n")
    result = run("points", case.folder / "far.csv", "-t", case.folder / "u.nii.gz", "--to", "fixed", "-o",
                 case.out / "x.csv")  # fmt: skip
    assert (result.exit_code, "1 of 1 points of the moving image lie outside" in result.output) == (1, True)
    half = SimpleITK.Cast(case.image, SimpleITK.sitkFloat32) + 0.5
    SimpleITK.WriteImage(half, str(case.folder / "half.mha"))
    result = run("labels", case.folder / "half.mha", "-t", case.folder / "u.nii.gz", "-o", case.out / "x.mha")
    assert (result.exit_code, "labels is no label image" in result.output) == (1, True)
    assert not list(case.out.iterdir())


def test_help_needs_neither_itk_nor_simpleitk() -> None:
    for command in ([], ["image"], ["labels"], ["points"], ["jacobian"], ["compose"], ["inverse"]):
        assert run(*command, "--help").exit_code == 0
    code = (
        "import sys; from itk_pdd.cli.transform import main\n"
        "try: main(['points', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'itk', 'SimpleITK', 'torch', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
