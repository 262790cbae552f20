"""The halfway transform applied twice is the whole; means lie where they should."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from conftest import rotation, wave
from itk_pdd.cli.transform import main

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping, FieldMapping
from itk_pdd.io.fields import read_field, write_field
from itk_pdd.warp.averages import halfway_mapping, mean_mapping

GRID = Grid.create((30, 28, 26), (2.0, 2.5, 3.0), (-13.0, 40.0, 7.5), rotation(20, -15, 40))


def affine(degrees: float, scale: float = 1.0, shift=(4.0, -3.0, 11.0)) -> AffineMapping:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * rotation(0, 0, degrees), shift
    return AffineMapping(matrix)


def test_half_of_an_affine_is_exact() -> None:
    half, error = halfway_mapping(affine(70, 1.3), None)
    assert error is None
    np.testing.assert_allclose(half.matrix @ half.matrix, affine(70, 1.3).matrix, atol=1e-12)
    np.testing.assert_allclose(half.matrix[:3, :3], np.sqrt(1.3) * rotation(0, 0, 35), atol=1e-9)
    for bad in (np.diag([-1.0, 1, 1, 1]), affine(180).matrix):
        with pytest.raises(RegistrationError, match="no real square root"):
            halfway_mapping(AffineMapping(bad), None)


def test_half_of_a_field() -> None:
    whole = wave(GRID, amplitude=4.0)
    half, error = halfway_mapping(FieldMapping(whole), None)
    points = GRID.to_physical(np.random.default_rng(0).uniform(6, 18, (200, 3)))
    twice = half(half(points))
    assert np.linalg.norm(twice - points - whole.at(points), axis=-1).max() < 0.1 * min(GRID.spacing)  # between voxels
    assert error.largest < 0.01 * min(GRID.spacing)
    # Half the displacement alone is not the half.
    assert np.linalg.norm(half.displacement.vectors - whole.vectors / 2, axis=-1).max() > 0.1


@pytest.mark.filterwarnings("ignore::itk_pdd.errors.RegistrationWarning")
def test_half_of_a_fold_says_so() -> None:
    with pytest.warns(RegistrationWarning, match="not exact"):
        halfway_mapping(FieldMapping(wave(GRID, amplitude=90.0)), None)


def test_means() -> None:
    found = mean_mapping([affine(10, shift=(0, 0, 0)), affine(50, shift=(0, 0, 0))], None)
    np.testing.assert_allclose(found.matrix[:3, :3], rotation(0, 0, 30), atol=1e-9)
    found = mean_mapping([affine(0, 2.0, (0, 0, 0)), affine(0, 0.5, (0, 0, 0))], None)
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=1e-9)
    field, shift = wave(GRID), affine(0)
    found = mean_mapping([FieldMapping(field), shift], None)
    np.testing.assert_allclose(found.displacement.vectors, (field.vectors + np.array([4, -3, 11])) / 2, atol=1e-4)
    with pytest.raises(RegistrationError, match="2-D but the reference is 3-D"):
        mean_mapping([FieldMapping(field), AffineMapping(np.eye(3))], None)


def test_commands(tmp_path) -> None:
    write_field(wave(GRID), tmp_path / "u.nii.gz")
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (4.0, -3.0, 11.0)), str(tmp_path / "t.tfm"))

    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.output

    told = run("halfway", "-t", tmp_path / "t.tfm", "-o", tmp_path / "h.tfm")
    assert "its half exact" in told
    half = SimpleITK.ReadTransform(str(tmp_path / "h.tfm")).TransformPoint((0.0, 0.0, 0.0))
    np.testing.assert_allclose(half, (2, -1.5, 5.5), atol=1e-9)
    assert "applied twice" in run("halfway", "-t", tmp_path / "u.nii.gz", "-o", tmp_path / "h.nii.gz")
    run("mean", "-t", tmp_path / "u.nii.gz", "-t", tmp_path / "t.tfm", "-o", tmp_path / "m.nii.gz")
    expected = (wave(GRID).vectors + np.array([4, -3, 11])) / 2
    np.testing.assert_allclose(read_field(tmp_path / "m.nii.gz").vectors, expected, atol=1e-4)
