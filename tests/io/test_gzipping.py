"""What is compressed in parts is one gzip stream, and what differs is seen."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK

from itk_pdd.io import gzipping
from itk_pdd.io.files import write_image
from itk_pdd.io.gzipping import compress_file, holds


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 12345])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_reader_gets_it_back(tmp_path, size, threads, monkeypatch) -> None:
    monkeypatch.setattr(gzipping, "_BLOCK", 1000)
    rng = np.random.default_rng(size)
    plain, packed = tmp_path / "plain", tmp_path / "packed.gz"
    plain.write_bytes(rng.integers(0, 4, size, dtype=np.uint8).tobytes())
    compress_file(plain, packed, threads=threads)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    # One member: nothing is left behind the first trailer.
    machine = gzipping.zlib.decompressobj(31)
    assert machine.decompress(packed.read_bytes()) == plain.read_bytes()
    assert machine.eof and not machine.unused_data
    assert holds(packed, plain)


def test_differences_are_seen(tmp_path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed.gz"
    plain.write_bytes(b"some numbers" * 100)
    compress_file(plain, packed, threads=2)
    whole = packed.read_bytes()
    for broken in (whole[:-4], whole[:-20], whole[:30] + b"x" + whole[31:], b""):
        packed.write_bytes(broken)
        assert not holds(packed, plain)
    packed.write_bytes(whole)
    for other in (b"some numbers" * 99, b"some numbers" * 101, b"same numbers" * 100):
        plain.write_bytes(other)
        assert not holds(packed, plain)


@pytest.mark.parametrize("vector", [False, True])
def test_images_of_floats(tmp_path, vector) -> None:
    array = np.random.default_rng(0).normal(size=(5, 6, 7, 3)[: 4 if vector else 3]).astype(np.float32)
    image = SimpleITK.GetImageFromArray(array, isVector=vector)
    image.SetSpacing((1.5, 2, 3))
    image.SetOrigin((4, -5, 6))
    write_image(image, tmp_path / "image.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["image.nii.gz"]
    again = SimpleITK.ReadImage(str(tmp_path / "image.nii.gz"))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(again), array)
    assert again.GetSpacing() == image.GetSpacing() and again.GetOrigin() == image.GetOrigin()
    assert again.GetNumberOfComponentsPerPixel() == (3 if vector else 1)
    if vector:
        assert again.GetMetaData("intent_code") == "1007"
