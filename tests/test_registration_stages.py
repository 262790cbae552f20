"""An alignment alone: linear transforms, without the deformable part."""

from __future__ import annotations

import itk
import numpy as np
import pytest
import SimpleITK
from conftest import blobs

import itk_pdd
from itk_pdd.commands.register import register_files
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.io.volume import Volume
from itk_pdd.registration import prealignment

GRID = Grid.create((24, 22, 20), (2.0, 2.0, 3.0), (5.0, -7.0, 11.0))
AWAY = Grid.create(GRID.size, GRID.spacing, (35.0, 13.0, 1.0))
SHIFT = np.array([30.0, 20.0, -10.0])


@pytest.fixture
def images(tmp_path):
    """Files of an image and of the same one elsewhere."""
    fixed = blobs(GRID)
    for name, grid in (("fixed", GRID), ("moving", AWAY)):
        SimpleITK.WriteImage(Volume(fixed.array, grid).to_simpleitk(), tmp_path / f"{name}.nii.gz")
    return tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz"


@pytest.mark.usefixtures("engine")
def test_the_answer_is_a_linear_transform_of_the_library_of_the_images(images, engine) -> None:
    for read, kind in ((itk.imread, itk.AffineTransform), (SimpleITK.ReadImage, SimpleITK.AffineTransform)):
        pair = [read(str(path)) for path in images]
        found = itk_pdd.register(*pair, stages="affine", initialise="center")
        assert isinstance(found, kind if kind is SimpleITK.AffineTransform else itk.AffineTransform[itk.D, 3])
        assert np.asarray(found.TransformPoint((1.0, 2.0, 3.0))) == pytest.approx(np.add(SHIFT, [1, 2, 3]), abs=1e-4)
    assert not engine.calls, "nothing is registered deformably"


def test_the_affine_search_is_the_default(images, monkeypatch) -> None:
    matrix = np.eye(4)
    matrix[:3, :3] += np.arange(9).reshape(3, 3) / 100
    matrix[:3, 3] = SHIFT
    monkeypatch.setattr(prealignment, "align_affine", lambda *_, **__: AffineMapping(matrix))
    found = itk_pdd.register(*images, stages="affine")
    assert np.asarray(found.TransformPoint((1.0, 2.0, 3.0))) == pytest.approx((matrix @ [1, 2, 3, 1])[:3])


def test_files_hold_the_linear_transform_and_its_displacements(images, tmp_path) -> None:
    names = {
        "output": "u.nii.gz",
        "transform": "t.tfm",
        "composite": "c.h5",
        "inverse": "v.nii.gz",
        "warped": "w.nii.gz",
    }
    register_files(
        *images, stages="affine", initialise="center", **{key: tmp_path / name for key, name in names.items()}
    )
    for name in ("t.tfm", "c.h5"):
        found = SimpleITK.ReadTransform(str(tmp_path / name))
        assert found.IsLinear()
        assert np.asarray(found.TransformPoint((1.0, 2.0, 3.0))) == pytest.approx(np.add(SHIFT, [1, 2, 3]), abs=1e-4)
    vectors = {n: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / f"{n}.nii.gz")) for n in "uv"}
    assert vectors["u"].reshape(-1, 3) == pytest.approx(np.tile(SHIFT, (GRID.voxels, 1)), abs=1e-4)
    assert vectors["v"].reshape(-1, 3) == pytest.approx(np.tile(-SHIFT, (GRID.voxels, 1)), abs=1e-4)
    warped = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "w.nii.gz"))
    assert warped == pytest.approx(blobs(GRID).array, abs=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "rigid"}, "stages is 'rigid', expected 'all' or 'affine'"),
        ({"stages": "affine", "initial_transform": np.eye(4)}, "initial_transform is given with stages='affine'"),
        ({"stages": "affine", "return_uncertainty": True}, "return_uncertainty is given with stages='affine'"),
    ],
)
def test_what_makes_no_sense_is_refused(images, options, message) -> None:
    with pytest.raises(RegistrationError, match=message):
        itk_pdd.register(*images, **options)
