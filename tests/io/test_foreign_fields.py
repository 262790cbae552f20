"""Fields of other programs and of unusual shapes are read as they are meant, or refused with a clear sentence."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import rotation

from itk_pdd import warp_points
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import read_field, write_field

AFFINE = np.array([[-3, 0, 0, 45.0], [0, 3, 0, -48], [0, 0, 3, -42], [0, 0, 0, 1]])


def save(array: np.ndarray, path, code: int, name: str = "") -> None:
    image = nibabel.Nifti1Image(array.astype(np.float32), AFFINE)
    image.header["intent_code"], image.header["intent_name"] = code, name
    image.set_qform(AFFINE, 2)
    image.set_sform(AFFINE, 2)
    nibabel.save(image, path)


def test_positions_of_spm(tmp_path) -> None:
    index = np.stack(np.meshgrid(*map(np.arange, (30, 32, 28)), indexing="ij"), -1)
    positions = nibabel.affines.apply_affine(AFFINE, index) + np.array([3.0, -4, 2])  # RAS
    save(positions[:, :, :, None], tmp_path / "y_spm.nii", 1007, "Mapping")
    found = warp_points([[3.0, 4, 2], [-10, 5, 8]], tmp_path / "y_spm.nii", to="moving")
    np.testing.assert_allclose(found, [[0, 8, 4], [-13, 9, 10]], atol=1e-4)


@pytest.mark.parametrize("code", [0, 1007, 2006, 2009])
def test_vectors_along_the_fourth_axis_are_refused(tmp_path, code: int) -> None:
    save(np.zeros((20, 22, 24, 3)), tmp_path / "u.nii.gz", code)
    with pytest.raises(RegistrationError, match=r"along its fourth axis.* expected .*\(x, y, z, 1, 3\)") as caught:
        read_field(tmp_path / "u.nii.gz")
    assert ("FSL" in str(caught.value)) == (code > 2000)


@pytest.mark.parametrize("name", ["u.nii.gz", "u.nii", "u.mha", "u.nrrd"])
def test_field_on_a_single_slice(tmp_path, name: str) -> None:
    grid = Grid.create((9, 8, 1), (2.0, 3.0, 4.0), (5.0, -7.0, 9.0), rotation(20, -15, 40))
    vectors = np.random.default_rng(0).normal(0, 3, (*grid.shape, 3)).astype(np.float32)
    write_field(DisplacementField(vectors, grid), tmp_path / name)
    found = read_field(tmp_path / name)
    assert found.grid.same_space(grid)
    np.testing.assert_array_equal(found.vectors, vectors)


def two(folder, name: str) -> str:
    import itk

    parts = [itk.TranslationTransform[itk.D, 3].New(), itk.AffineTransform[itk.D, 3].New()]
    parts[0].SetOffset((1.0, 0, 0))
    itk.transformwrite(parts, str(folder / name))
    return str(folder / name)


@pytest.mark.parametrize("name", ["two.tfm", "two.txt", "two.mat", "two.h5"])
def test_files_of_several_transforms(tmp_path, name: str) -> None:
    with pytest.raises(RegistrationError, match="holds 2 transforms that are no composite"):
        warp_points(np.zeros((1, 3)), two(tmp_path, name), to="moving")


@pytest.mark.parametrize("name", ["both.tfm", "both.h5", "both.hdf5"])
def test_composites_and_single_transforms_are_read(tmp_path, name: str) -> None:
    shift, turn = SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0)), SimpleITK.Euler3DTransform()
    turn.SetRotation(0.1, 0.2, 0.3)
    both = SimpleITK.CompositeTransform([shift, turn])
    for transform in (both, turn):
        SimpleITK.WriteTransform(transform, str(tmp_path / name))
        expected = transform.TransformPoint((4.0, 5.0, 6.0))
        np.testing.assert_allclose(warp_points([[4.0, 5, 6]], tmp_path / name, to="moving")[0], expected, atol=1e-12)


OLD = {
    "MatrixOffsetTransformBase_double_3_3": ("1 0.1 0 0 1 0 0 0 1 1 2 3", "5 6 7", [1.5, 3.0, 4.0]),
    "Rigid2DTransform_double_2_2": (
        "0.1 1 2", "5 6",
        [6 - 4 * np.cos(0.1) + 5 * np.sin(0.1), 8 - 4 * np.sin(0.1) - 5 * np.cos(0.1)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OLD)
def test_affines_of_old_programs(tmp_path, kind: str) -> None:
    """SimpleITK has no class for these and shows them as composites of themselves."""
    parameters, fixed, expected = OLD[kind]
    lines = ["#Insight Transform File V1.0", "# Transform 0", f"Transform: {kind}", f"Parameters: {parameters}",
             f"FixedParameters: {fixed}", ""]  # fmt: skip
    (tmp_path / "old.txt").write_text("\n".join(lines))
    ones = np.ones((1, len(expected)))
    np.testing.assert_allclose(warp_points(ones, tmp_path / "old.txt", to="moving")[0], expected, atol=1e-9)
    np.testing.assert_allclose(warp_points([expected], tmp_path / "old.txt", to="fixed"), ones, atol=1e-9)
