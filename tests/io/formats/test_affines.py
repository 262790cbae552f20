"""Affines of FSL, greedy, FreeSurfer and AFNI, in and out, checked with nitransforms and by hand."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from conftest import rotation
from itk_pdd.cli.transform import main

from itk_pdd import warp_points
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import read_field
from itk_pdd.io.transforms import as_mapping

FLIP = np.diag([-1.0, -1, 1, 1])
FIXED = Grid.create((20, 22, 24), (2.0, 2.5, 3.0), (-13.0, 40.0, 7.5), rotation(20, -15, 40))
MIRRORED = np.asarray(FIXED.direction) @ np.diag([-1.0, 1, 1])
IMAGES = {"fixed": FIXED, "moving": Grid.create((18, 16, 15), (1.0, 1.5, 2.0), (5.0, -7.0, 9.0), MIRRORED)}
MATRIX = np.eye(4)  # from fixed to moving points, LPS
MATRIX[:3, :3], MATRIX[:3, 3] = rotation(10, 5, -20) @ np.diag([1.1, 0.9, 1.05]), (4.0, -3.0, 11.0)
POINTS = np.random.default_rng(0).normal(0, 30, (20, 3))
EXPECTED = POINTS @ MATRIX[:3, :3].T + MATRIX[:3, 3]


@pytest.fixture
def folder(tmp_path):
    for name, grid in IMAGES.items():
        image = nibabel.Nifti1Image(np.zeros(grid.size, np.float32), FLIP @ grid.affine)
        nibabel.save(image, tmp_path / f"{name}.nii")
    affine = SimpleITK.AffineTransform(MATRIX[:3, :3].ravel().tolist(), MATRIX[:3, 3].tolist())
    SimpleITK.WriteTransform(affine, str(tmp_path / "a.tfm"))
    return tmp_path


def written(folder, form: str, name: str) -> str:
    arguments = ["compose", "-t", folder / "a.tfm", "--format", form, "-o", folder / name]
    arguments += ["-r", folder / "fixed.nii", "--moving", folder / "moving.nii"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return str(folder / name)


FORMS = {"ras": "r.mat", "fsl": "f.mat", "lta": "l.lta", "afni": "m.aff12.1D", "xfm": "m.xfm"}


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(folder, form: str) -> None:
    path = written(folder, form, FORMS[form])
    given = {"ras": f"ras:{path}", "fsl": f"fsl:{path},{folder / 'fixed.nii'},{folder / 'moving.nii'}"}.get(form, path)
    np.testing.assert_allclose(warp_points(POINTS, given, to="moving"), EXPECTED, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_inverse_in_every_format(folder, form: str) -> None:
    path = str(folder / FORMS[form])
    images = [str(folder / f"{name}.nii") for name in ("moving", "fixed")]  # the inverse starts at moving points
    arguments = ["-t", str(folder / "a.tfm"), "--format", form, "-r", images[0], "--fixed", images[1], "-o", path]
    result = CliRunner().invoke(main, ["inverse", *arguments])
    assert result.exit_code == 0, result.output
    given = {"ras": f"ras:{path}", "fsl": f"fsl:{path},{','.join(images)}"}.get(form, path)
    np.testing.assert_allclose(warp_points(EXPECTED, given, to="moving"), POINTS, atol=1e-9)


@pytest.mark.parametrize(("form", "kind"), [("fsl", "fsl"), ("lta", "fs")])
def test_nitransforms_reads_the_same(folder, form: str, kind: str) -> None:
    """Its matrices map reference to moving points in RAS."""
    linear = pytest.importorskip("nitransforms.linear")
    path = written(folder, form, FORMS[form])
    loaded = linear.load(path, fmt=kind, reference=folder / "fixed.nii", moving=folder / "moving.nii")
    found = np.squeeze(loaded.matrix)
    expected = FLIP @ MATRIX @ FLIP
    # Of FreeSurfer's it says the direction of the file, from moving to fixed.
    candidates = (found, np.linalg.inv(found)) if kind == "fs" else (found,)
    assert min(np.abs(candidate - expected).max() for candidate in candidates) < 1e-4


def test_matrix_of_flirt_by_hand(folder) -> None:
    """FSL's points are voxels times spacing, x counted from the other side where the voxel axes are right-handed."""
    path = written(folder, "fsl", "f.mat")
    flirt = np.loadtxt(path)
    for index in ([3.0, 4, 5], [10, 2, 7]):
        point = np.array(FIXED.to_physical(np.array(index)))
        there = IMAGES["moving"].to_index((np.append(point, 1) @ MATRIX.T)[:3])

        def fsl(voxel, grid):
            voxel = np.array(voxel, dtype=float)
            if np.linalg.det((FLIP @ grid.affine)[:3, :3]) > 0:
                voxel[0] = grid.size[0] - 1 - voxel[0]
            return voxel * grid.spacing

        moved = flirt @ np.append(fsl(there, IMAGES["moving"]), 1)
        np.testing.assert_allclose(moved[:3], fsl(index, FIXED), atol=1e-6)


def test_afni_by_hand(folder) -> None:
    """Twelve numbers, row by row, from base (fixed) to source (moving) points; AFNI's axes are those of LPS."""
    np.testing.assert_allclose(np.loadtxt(written(folder, "afni", "m.aff12.1D")).reshape(3, 4), MATRIX[:3])


def test_minc_by_hand(folder) -> None:
    """Three rows from source (moving) to target (fixed) points, RAS, as mincresample takes them."""
    text = (folder / written(folder, "xfm", "m.xfm")).read_text()
    assert text.startswith("MNI Transform File\n") and text.endswith(";\n")
    rows = np.array(text.split("Linear_Transform =")[1].rstrip("\n;").split(), dtype=float).reshape(3, 4)
    np.testing.assert_allclose(EXPECTED @ FLIP[:3, :3] @ rows[:, :3].T + rows[:, 3], POINTS @ FLIP[:3, :3], atol=1e-9)


def test_shift_of_minc_as_it_writes_it(tmp_path) -> None:
    rows = " 1 0 0 3\n 0 1 0 0\n 0 0 1 0"
    text = f"MNI Transform File\n% a comment\n\nTransform_Type = Linear;\nLinear_Transform =\n{rows};\n"
    (tmp_path / "r.xfm").write_text(text)
    np.testing.assert_allclose(warp_points([[1.0, 2, 3]], tmp_path / "r.xfm", to="moving"), [[4, 2, 3]], atol=1e-12)


def test_lta_between_voxels(folder) -> None:
    path = written(folder, "lta", "l.lta")
    text = (folder / "l.lta").read_text()
    ras = {name: FLIP @ grid.affine for name, grid in IMAGES.items()}
    voxels = np.linalg.inv(ras["fixed"]) @ FLIP @ np.linalg.inv(MATRIX) @ FLIP @ ras["moving"]
    rows = "\n".join(" ".join(f"{value:.17g}" for value in row) for row in voxels)
    head, tail = text.split("1 4 4\n")
    tail = "\n".join(tail.splitlines()[4:])
    (folder / "v.lta").write_text(head.replace("type      = 1", "type      = 0") + f"1 4 4\n{rows}\n{tail}\n")
    np.testing.assert_allclose(as_mapping(folder / "v.lta").matrix, as_mapping(path).matrix, atol=1e-5)


BAD = {
    "bare.mat": ("1 0 0 3\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "bare.mat", "does not say whose: give it as ras:"),
    "short.mat": ("1 0 0 3\n", "ras:short.mat", "holds 4 numbers, expected 16"),
    "words.1D": ("one two\n", "words.1D", "other than the numbers"),
    "flat.mat": ("0 0 0 0\n" * 3 + "0 0 0 1\n", "ras:flat.mat", "singular"),
    "none.lta": ("type = 1\n", "none.lta", "no linear transform of FreeSurfer"),
    "grid.xfm": ("MNI Transform File\nTransform_Type = Grid_Transform;\n", "grid.xfm", "no linear transform of MINC"),
    "a.npy": ("anything", "a.npy", "array of numpy"),
    "fsl.mat": ("1 0 0 3\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", "fsl:fsl.mat", "give the fixed and the moving image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_matrices(tmp_path, monkeypatch, case: str) -> None:
    text, given, message = BAD[case]
    (tmp_path / case).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistrationError, match=message):
        as_mapping(given)


def test_field_in_voxels(folder) -> None:
    path = written(folder, "voxels", "v.nii.gz")
    stored = np.asarray(nibabel.load(path).dataobj)[3, 4, 5].ravel()
    point = FIXED.to_physical(np.array([3.0, 4, 5]))
    moved = (MATRIX @ np.append(point, 1))[:3]
    np.testing.assert_allclose(stored, FIXED.to_index(moved) - [3, 4, 5], atol=1e-4)
    np.testing.assert_allclose(read_field(path).vectors[5, 4, 3], moved - point, atol=1e-4)
