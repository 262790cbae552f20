"""A sform and a qform that say different things are told, or refused where ITK puts the image elsewhere than others."""

from __future__ import annotations

import warnings

import nibabel
import numpy as np
import pytest
from conftest import rotation

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.io.files import read_image
from itk_pdd.io.guards.nifti import read_head
from itk_pdd.io.guards.placement import qform_of, sform_of
from itk_pdd.io.images import grid_of

VOXELS = np.random.default_rng(0).normal(100, 20, (20, 22, 24)).astype(np.float32)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def form(*, x: float = 0.0, shear: float = 0.0, angle: float = 0.0, spacing: float = 2.0) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = rotation(angle, 0, angle) * spacing
    result[1, 2] += shear
    result[0, 3] = x
    return result


def write(path, sform: np.ndarray, qform: np.ndarray, codes: tuple[int, int], kind=nibabel.Nifti1Image) -> None:
    image = kind(VOXELS, None)
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1], strip_shears=True)
    nibabel.save(image, path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (1, 2), (4, 1), (3, 3), (1, 0), (0, 1), (0, 3)], ids=str)
def test_an_image_lies_where_nibabel_puts_it_or_is_refused(tmp_path, codes: tuple[int, int], name: str) -> None:
    """Whatever the forms and codes: nothing lies elsewhere in silence."""
    kind = nibabel.Nifti1Pair if name == "a.hdr" else nibabel.Nifti1Image
    corners = np.array([[0, 0, 0], [19, 21, 23], [19, 0, 23]])
    for sform, qform, apart in (
        (form(), form(x=10.0), True),
        (form(), form(x=1e-3), False),
        (form(angle=10), form(angle=10), False),
        (form(angle=10), form(), True),
        (form(shear=0.53), form(), True),
        (form(spacing=3.0), form(), True),
    ):
        write(tmp_path / name, sform, qform, codes, kind)
        differ = apart and min(codes) > 0
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                image = read_image(tmp_path / name)
            except RegistrationError as error:
                assert apart and codes[0] > 0
                assert "sform" in str(error)
                continue
        stated = nibabel.load(tmp_path / name).affine
        expected = (corners @ stated[:3, :3].T + stated[:3, 3]) @ LPS[:3, :3]
        assert np.abs(grid_of(image, "image").to_physical(corners) - expected).max() < 0.01
        assert [w.category for w in told] == ([RegistrationWarning] if differ else [])
        if differ:
            assert "sform and a qform" in str(told[0].message)


def test_the_distance_of_the_corners_is_told(tmp_path) -> None:
    write(tmp_path / "a.nii", form(), form(x=10.0), (2, 1))
    with pytest.raises(RegistrationError, match=r"^moving: .*5 voxels \(10 mm\) apart.*fslorient"):
        read_image(tmp_path / "a.nii", name="moving")
    write(tmp_path / "a.nii", form(), form(x=0.6), (1, 1))
    with pytest.warns(RegistrationWarning, match=r"0.3 voxels \(0.6 mm\) apart"):
        read_image(tmp_path / "a.nii")


def test_a_sheared_sform_alone_is_refused_with_advice(tmp_path) -> None:
    write(tmp_path / "a.nii", form(shear=0.53), form(), (1, 0))
    with pytest.raises(RegistrationError, match=r"sheared sform \(two axes are 15 degrees .* resample it"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("unit, factor", [("mm", 1.0), ("micron", 1e-3), ("meter", 1e3)])
def test_forms_are_those_of_nibabel(tmp_path, unit: str, factor: float) -> None:
    image = nibabel.Nifti1Image(VOXELS, None)
    left_handed = form(angle=25, x=7) @ np.diag([1, 1, -1, 1.0])
    image.set_sform(form(angle=-40, x=3), 1)
    image.set_qform(left_handed, 1)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    head, again = read_head(tmp_path / "a.nii"), nibabel.load(tmp_path / "a.nii")
    scale = np.diag([factor, factor, factor, 1.0])
    np.testing.assert_allclose(sform_of(head), LPS @ scale @ again.get_sform(), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(qform_of(head), LPS @ scale @ again.get_qform(), rtol=1e-5, atol=1e-5 * factor)


@pytest.mark.parametrize("kind, words", [("NIfTI", "neither sform nor qform"), ("Analyze", "says nothing")])
def test_an_image_without_a_place_is_told(tmp_path, kind: str, words: str) -> None:
    if kind == "NIfTI":
        write(tmp_path / "a.hdr", form(), form(), (0, 0), nibabel.Nifti1Pair)
    else:
        nibabel.save(nibabel.AnalyzeImage(VOXELS, np.diag([-2.0, 2, 2, 1])), tmp_path / "a.hdr")
    with pytest.warns(RegistrationWarning, match=f"{words}.*first voxel at the origin"):
        image = read_image(tmp_path / "a.hdr")
    np.testing.assert_array_equal(image.GetOrigin(), 0.0)
