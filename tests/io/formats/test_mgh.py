"""FreeSurfer's images, in and out, as nibabel reads them."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs

from itk_pdd.errors import RegistrationError
from itk_pdd.io.files import read_image, write_image
from itk_pdd.io.outputs import OutputError
from itk_pdd.io.volume import Volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
THREE_D = [name for name, grid in GEOMETRIES.items() if grid.dimension == 3]


@pytest.mark.parametrize("ending", [".mgz", ".mgh", ".MGZ"])
@pytest.mark.parametrize("name", THREE_D)
def test_what_is_written_is_read_by_nibabel_and_again(tmp_path, name: str, ending: str) -> None:
    volume = blobs(GEOMETRIES[name])
    path = tmp_path / f"a{ending.lower()}"
    write_image(volume.to_simpleitk(), path)
    found = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(found.dataobj).T, volume.array)
    np.testing.assert_allclose(LPS @ found.affine, volume.grid.affine, atol=2e-5)
    path = path.rename(tmp_path / f"b{ending}")
    again = Volume.from_image(path)
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.grid.same_space(volume.grid)


@pytest.mark.parametrize(
    "dtype, held",
    [("uint8", "u1"), ("int8", "i2"), ("uint16", "i4"), ("int32", "i4"), ("float32", "f4"), ("int64", "i4")],
)
def test_pixel_types_become_the_smallest_that_hold_them(tmp_path, dtype: str, held: str) -> None:
    array = np.random.default_rng(0).integers(-100 if dtype[0] == "i" else 0, 100, (4, 5, 6)).astype(dtype)
    if dtype == "uint16":
        array[0, 0, 0] = 65535
    if dtype in ("int32", "int64"):
        array[0, 0, 0] = -2_000_000_000
    if dtype == "int8":
        array[0, 0, 0] = -100
    if dtype == "float32":
        array += np.float32(0.5)
    write_image(SimpleITK.GetImageFromArray(array), tmp_path / "a.mgz")
    assert nibabel.load(tmp_path / "a.mgz").get_data_dtype().str[1:] == held
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read_image(tmp_path / "a.mgz")), array)


def test_what_the_format_cannot_hold_is_refused(tmp_path) -> None:
    array = np.random.default_rng(0).normal(0, 1, (4, 5, 6))
    with pytest.raises(OutputError, match="float64: choose"):
        write_image(SimpleITK.GetImageFromArray(array), tmp_path / "a.mgz")
    with pytest.raises(OutputError, match="holds 3-D images, this one has 2 dimensions"):
        write_image(SimpleITK.GetImageFromArray(array[0].astype(np.float32)), tmp_path / "a.mgz")


def test_frames_are_channels(tmp_path) -> None:
    array = np.random.default_rng(0).normal(0, 1, (6, 5, 4, 3)).astype(np.float32)
    nibabel.save(nibabel.MGHImage(array, np.diag([2.0, 1.5, 1, 1])), tmp_path / "a.mgz")
    channels = Volume.channels_from_image(tmp_path / "a.mgz")
    assert len(channels) == 3
    np.testing.assert_array_equal(channels[2].array, array[..., 2].T)
    vectors = SimpleITK.GetImageFromArray(array, isVector=True)
    write_image(vectors, tmp_path / "v.mgz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "v.mgz").dataobj), array.transpose(2, 1, 0, 3))


def test_damaged_files_end_in_one_sentence(tmp_path, capfd) -> None:
    write_image(blobs(GEOMETRIES["oblique"]).to_simpleitk(), tmp_path / "whole.mgh")
    whole = (tmp_path / "whole.mgh").read_bytes()
    generator = np.random.default_rng(0)
    damaged = [whole[:-2000], whole[:200], b"x" * 300, whole[:4] + b"\x7f\xff\xff\xff" + whole[8:]]
    damaged.append(whole[:42] + bytes(36) + whole[78:])  # no directions
    for _ in range(60):
        content = bytearray(whole)
        content[generator.integers(0, 90)] = generator.integers(0, 256)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        for name, packed in (("a.mgh", content), ("a.mgz", gzip.compress(content))):
            (tmp_path / name).write_bytes(packed)
            try:
                Volume.from_image(tmp_path / name, name="moving")
            except RegistrationError as error:
                refused += 1
                assert str(error).startswith("moving")
                assert "\n" not in str(error)
    assert refused >= 10
    assert capfd.readouterr().err == ""
