"""Series (4-D): every volume is warped as it would be alone, and the axis of time is kept."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, wave

from itk_pdd import warp_image
from itk_pdd.commands.transform import image_file
from itk_pdd.io.fields import write_field
from itk_pdd.io.images import simpleitk_image

GRID = GEOMETRIES["oblique"]


def series(dtype: type, count: int = 3) -> SimpleITK.Image:
    volumes = [simpleitk_image(blobs(GRID, seed=i, dtype=dtype).array, GRID) for i in range(count)]
    return SimpleITK.JoinSeries(volumes, 4.0, 2.5)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_every_volume_is_warped_and_time_is_kept(dtype: type) -> None:
    given = series(dtype)
    warped = warp_image(given, wave(GRID))
    assert (warped.GetSize(), warped.GetPixelID()) == (given.GetSize(), given.GetPixelID())
    assert (warped.GetSpacing()[3], warped.GetOrigin()[3]) == (2.5, 4.0)
    for i, volume in enumerate(SimpleITK.GetArrayFromImage(warped)):
        alone = warp_image(simpleitk_image(blobs(GRID, seed=i, dtype=dtype).array, GRID), wave(GRID))
        np.testing.assert_array_equal(volume, SimpleITK.GetArrayFromImage(alone))
    # The grid of a series is that of its volumes.
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(warp_image(given, np.eye(4), reference=given)), SimpleITK.GetArrayFromImage(given)
    )


def test_series_of_itk_in_kind() -> None:
    import itk

    given = itk.image_from_array(SimpleITK.GetArrayFromImage(series(np.float32)))
    given.SetSpacing((*GRID.spacing, 2.5))
    given.SetOrigin((*GRID.origin, 4.0))
    direction = np.eye(4)
    direction[:3, :3] = GRID.direction
    given.SetDirection(itk.matrix_from_array(direction))
    warped = warp_image(given, wave(GRID))
    assert type(warped) is type(given)
    expected = SimpleITK.GetArrayFromImage(warp_image(series(np.float32), wave(GRID)))
    np.testing.assert_array_equal(itk.array_view_from_image(warped), expected)
    np.testing.assert_allclose([*warped.GetSpacing(), *warped.GetOrigin()], [*given.GetSpacing(), *given.GetOrigin()])


@pytest.mark.parametrize("name", ["w.nii.gz", "w.nii"])
def test_series_in_files_as_nibabel_reads_them(tmp_path: Path, name: str) -> None:
    SimpleITK.WriteImage(series(np.int16), str(tmp_path / "s.nii.gz"))
    write_field(wave(GRID), tmp_path / "u.nii.gz")
    image_file(tmp_path / "s.nii.gz", tmp_path / name, [tmp_path / "u.nii.gz"])
    found = nibabel.load(tmp_path / name)
    assert found.shape == (*GRID.size, 3)
    assert found.get_data_dtype() == np.int16
    assert found.header.get_zooms()[3] == pytest.approx(2.5)
    assert found.header.get_xyzt_units() == ("mm", "sec")
    assert float(found.header["toffset"]) == pytest.approx(4.0)
    expected = SimpleITK.GetArrayFromImage(warp_image(series(np.int16), wave(GRID)))
    np.testing.assert_array_equal(np.asarray(found.dataobj).T, expected)
