"""NiftyReg's files: RAS vectors under the intent NREG_TRANS, never taken for ITK's."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from conftest import wave

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import niftyreg_writer, read_field, write_field
from itk_pdd.io.guards.nifti import read_intent


@pytest.mark.parametrize("name", ["n.nii", "n.nii.gz"])
def test_written_as_niftyreg_wants_it(grid: Grid, tmp_path: Path, name: str) -> None:
    field = wave(grid)
    niftyreg_writer(field)(tmp_path / name)
    intent = read_intent(tmp_path / name)
    assert (intent.code, intent.name, intent.parameter) == (1007, "NREG_TRANS", 1.0), "a displacement field"
    raw = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / name)))
    np.testing.assert_array_equal(raw[..., :2], -field.vectors[..., :2])
    np.testing.assert_array_equal(raw[..., 2:], field.vectors[..., 2:])
    back = read_field(tmp_path / name)
    np.testing.assert_array_equal(back.vectors, field.vectors)
    assert back.grid.same_space(grid)


def test_positions_become_displacements(tmp_path: Path) -> None:
    grid = Grid.create((9, 8, 7), (1.0, 2.0, 3.0), (5.0, -4.0, 3.0))
    positions = (grid.points() + wave(grid).vectors).astype(np.float32)
    niftyreg_writer(DisplacementField(positions, grid))(tmp_path / "n.nii")
    change(tmp_path / "n.nii", 0.0)
    np.testing.assert_allclose(read_field(tmp_path / "n.nii").vectors, wave(grid).vectors, atol=1e-5)


@pytest.mark.parametrize(("kind", "message"), [(2.0, "a cubic B-spline grid"), (4.0, "a velocity field"), (9.0, "9")])
def test_what_is_no_field_is_refused(tmp_path: Path, kind: float, message: str) -> None:
    niftyreg_writer(wave(Grid.create((9, 8, 7))))(tmp_path / "n.nii")
    change(tmp_path / "n.nii", kind)
    with pytest.raises(RegistrationError, match=rf"field is .*{message} of NiftyReg, .*reg_transform -def"):
        read_field(tmp_path / "n.nii")


def change(path: Path, kind: float) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 56, kind)
    path.write_bytes(content)


def test_intent_of_other_files(tmp_path: Path) -> None:
    write_field(wave(Grid.create((9, 8, 7))), tmp_path / "u.nii.gz")
    assert (read_intent(tmp_path / "u.nii.gz").code, read_intent(tmp_path / "u.nii.gz").name) == (1007, "")
    (tmp_path / "x.nii").write_bytes(b"abc")
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(b"abc")[:-4])
    assert read_intent(tmp_path / "x.nii").code == read_intent(tmp_path / "x.nii.gz").code == 0
