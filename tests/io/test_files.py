"""Images and DICOM folders are read, or refused with one sentence."""

from __future__ import annotations

import gzip
import os
import struct
import tempfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from conftest import GEOMETRIES, blobs, wave

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_to_image
from itk_pdd.io.files import read_image, read_transform
from itk_pdd.io.guards.nifti import Flaws, examine_nifti, missing_bytes
from itk_pdd.io.volume import Volume


def write_series(folder, *, count: int, uid: str, skip: int | None = None) -> Volume:
    """A DICOM series of int16 slices 2.5 mm apart."""
    volume = blobs(Grid.create((20, 16, count), (1.5, 1.5, 2.5), (-10.0, 5.0, 30.0)), dtype=np.int16)
    image = volume.to_simpleitk()
    folder.mkdir(exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(count):
        if k == skip:
            continue
        piece = image[:, :, k]
        position = image.TransformIndexToPhysicalPoint((0, 0, k))
        for key, value in {
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.{uid}",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.9",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.{uid}.{k + 1}",
            "0020|0032": "\\".join(f"{p:.6f}" for p in position),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(k + 1),
            "0008|0060": "CT",
        }.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{uid}-{count - k}.dcm"))
        writer.Execute(piece)
    return volume


def test_folder_of_dicom_slices(tmp_path, caplog) -> None:
    write_series(tmp_path, count=3, uid="5")
    expected = write_series(tmp_path, count=8, uid="4")
    (tmp_path / "notes.txt").write_text("no slice")
    volume = Volume.from_image(tmp_path)
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.grid.same_space(expected.grid)
    assert "holds 2 DICOM series; reading the largest" in caplog.text
    assert "8 slices" in caplog.text


def test_missing_slice_is_told(tmp_path) -> None:
    write_series(tmp_path, count=8, uid="4", skip=3)
    with pytest.warns(RegistrationWarning, match=r"not evenly spaced .a slice may be missing"):
        read_image(tmp_path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd", "a.nrrd", "a.gipl", "a.vtk", "a.tif", "a.png"])
def test_formats(tmp_path, name: str) -> None:
    grid = Grid.create((20, 16)) if name.endswith("png") else Grid.create((20, 16, 9))
    volume = blobs(grid, dtype=np.uint8)
    SimpleITK.WriteImage(volume.to_simpleitk(), str(tmp_path / name))
    np.testing.assert_array_equal(Volume.from_image(tmp_path / name).array, volume.array)


def test_unreadable_files(tmp_path, capfd) -> None:
    whole = tmp_path / "whole.nii"
    SimpleITK.WriteImage(blobs(GEOMETRIES["oblique"]).to_simpleitk(), str(whole))
    (tmp_path / "text.nii").write_text("this is no image")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "cut.nii").write_bytes(whole.read_bytes()[:-1])
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(whole.read_bytes())[:-20])
    (tmp_path / "head.nii.gz").write_bytes(gzip.compress(whole.read_bytes())[:100])
    (tmp_path / "nothing").mkdir()
    for name, message in (
        ("missing.nii", "there is no file"),
        ("text.nii", "cannot be read as an image"),
        ("empty.nii.gz", "is empty .0 bytes."),
        ("cut.nii", "was cut short, it lacks 1 bytes"),
        ("cut.nii.gz", "was cut short"),
        ("head.nii.gz", "cannot be read as an image"),
        ("nothing", "holds no DICOM slices"),
    ):
        with pytest.raises(RegistrationError, match=message) as caught:
            read_image(tmp_path / name, name="moving")
        assert str(caught.value).startswith("moving: ")
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "0x" not in str(caught.value)
    assert capfd.readouterr().err == "", "what C libraries print stays out of sight"


@pytest.mark.parametrize("kind", ["int16", "vector", "two pieces", "2-D", "trailing"])
def test_whole_nifti_files_are_not_taken_for_cut_ones(tmp_path, kind: str) -> None:
    path = tmp_path / "image.nii"
    grid = GEOMETRIES["oblique 2-D" if kind == "2-D" else "oblique"]
    image = field_to_image(wave(grid)) if kind == "vector" else blobs(grid, dtype=np.int16).to_simpleitk()
    SimpleITK.WriteImage(image, str(path))
    whole = path.read_bytes() + (b"more" if kind == "trailing" else b"")
    assert examine_nifti(path) == Flaws()
    pieces = [whole[:1000], whole[1000:], b""] if kind == "two pieces" else [whole]
    (tmp_path / "image.nii.gz").write_bytes(b"".join(gzip.compress(piece) for piece in pieces))
    for file in (path, tmp_path / "image.nii.gz"):
        assert (examine_nifti(file), missing_bytes(file)) == (Flaws(), 0)
    path.write_bytes(whole[:-10] if kind != "trailing" else whole[:-14])
    (tmp_path / "image.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, tmp_path / "image.nii.gz"):
        assert (examine_nifti(file), missing_bytes(file)) == (Flaws(missing=10), 10)


def test_what_follows_the_voxels_is_not_unpacked(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("itk_pdd.io.guards.nifti._BLOCK", 1000)
    SimpleITK.WriteImage(blobs(GEOMETRIES["oblique"]).to_simpleitk(), str(tmp_path / "image.nii"))
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress((tmp_path / "image.nii").read_bytes() + bytes(10_000_000)))
    read, count = gzip.GzipFile.read, []
    monkeypatch.setattr(gzip.GzipFile, "read", lambda file, size: count.append(size) or read(file, size))
    assert examine_nifti(path) == Flaws()
    assert sum(count) < 20_000


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_voxels_that_are_no_numbers_are_found_in_nifti(tmp_path, name: str, dtype: str, monkeypatch) -> None:
    """ITK reads them as 0."""
    monkeypatch.setattr("itk_pdd.io.guards.nifti._BLOCK", 1000)
    volume = blobs(GEOMETRIES["oblique"], dtype=dtype)
    volume.array[5, 4, 3], volume.array[9, 1, 0] = np.inf, np.nan
    SimpleITK.WriteImage(volume.to_simpleitk(), str(tmp_path / name))
    assert np.isfinite(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / name)))).all()
    with pytest.raises(RegistrationError, match=r"fixed has 2 NaN or infinite voxels, the first at index \(3, 4, 5\)"):
        read_image(tmp_path / name, name="fixed")


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_2_of_either_byte_order(tmp_path, order: str) -> None:
    header = bytearray(544)
    struct.pack_into(order + "i8s2h8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 16, 32, 3, 5, 4, 3, 1, 1, 1, 1)
    struct.pack_into(order + "q", header, 168, 544)
    voxels = np.arange(60, dtype=order + "f4")
    voxels[27] = np.nan
    path = tmp_path / "two.nii"
    path.write_bytes(bytes(header) + voxels.tobytes())
    assert examine_nifti(path) == Flaws(not_finite=1, first=(2, 1, 1))
    path.write_bytes(bytes(header) + voxels.tobytes()[:-6])
    assert examine_nifti(path) == Flaws(missing=6, not_finite=1, first=(2, 1, 1))


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="macOS and Windows have other rights")
def test_forbidden_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret.nii"
        path.write_bytes(b"x")
        path.chmod(0)
        superuser = os.geteuid() == 0  # may read everything: be another user for a moment
        if superuser:
            os.setresuid(65534, 65534, 0)
        try:
            with pytest.raises(RegistrationError, match=r"permission denied"):
                read_image(path)
        finally:
            if superuser:
                os.setresuid(0, 0, 0)


def test_unreadable_transforms(tmp_path, capfd) -> None:
    (tmp_path / "bad.h5").write_bytes(b"no transform")
    (tmp_path / "bad.tfm").write_text("no transform\n")
    for name, message in (
        ("missing.h5", "there is no file"),
        ("bad.h5", "cannot be read as an ITK transform"),
        ("bad.tfm", "cannot be read as an ITK transform"),
    ):
        with pytest.raises(RegistrationError, match=message):
            read_transform(tmp_path / name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["NIfTI", "NRRD"])
def test_tensors_are_refused_in_plain_words(tmp_path, kind: str) -> None:
    """SimpleITK says "Unknown PixelType: float(11)"."""
    tensors = np.ones((8, 9, 10, 1, 6), np.float32)
    if kind == "NIfTI":
        path = tmp_path / "dti.nii.gz"
        image = nibabel.Nifti1Image(tensors, np.diag([2, 2, 2, 1.0]))
        image.header.set_intent(1005, (3,))
        nibabel.save(image, path)
    else:
        path = tmp_path / "dti.nrrd"
        head = (
            "NRRD0005\ntype: float\ndimension: 4\nspace: left-posterior-superior\nsizes: 6 8 9 10\nendian: little\n"
            "kinds: 3D-symmetric-matrix domain domain domain\nencoding: raw\nspace origin: (0,0,0)\n"
            "space directions: none (1,0,0) (0,1,0) (0,0,1)\n\n"
        )
        path.write_bytes(head.encode() + tensors.tobytes())
    with pytest.raises(RegistrationError, match=r"^image: .*dti.* holds tensors.*fractional anisotropy"):
        read_image(path)


def test_kinds_that_no_library_reads_are_named(tmp_path) -> None:
    nibabel.save(nibabel.Nifti2Image(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / "two.nii")
    with pytest.raises(RegistrationError, match="is NIfTI-2, which ITK does not read: convert"):
        read_image(tmp_path / "two.nii")

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + np.arange(8, dtype=">u2").tobytes() for _ in range(3))
    (tmp_path / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 4, 3, 16, 4, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip
    with pytest.raises(RegistrationError, match="16-bit grey pixels with an alpha channel: save it without"):
        read_image(tmp_path / "deep.png")
