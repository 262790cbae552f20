"""Headers with impossible numbers, each of which once crashed or stalled ITK, or asked for all memory there is."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import specimens
from conftest import blobs

from itk_pdd.errors import RegistrationError
from itk_pdd.io.files import read_image, read_transform
from itk_pdd.io.volume import Volume


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    return specimens.build(tmp_path_factory.mktemp("specimens"))


def put(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_all_specimens_are_read(made, tmp_path) -> None:
    """What is refused below is refused for its damage."""
    for kind, files in made.items():
        group, _, name = kind.partition(" ")
        folder = tmp_path / kind.replace(" ", "-")
        folder.mkdir()
        put(files, folder)
        if name == "two.nii":
            continue  # NIfTI-2, which ITK does not know yet; its header is looked at before
        if group == "image":
            assert Volume.channels_from_image(folder / name)[0].array.size in (13 * 12 * 10, 20 * 16)
        elif group == "transform" and name not in ("elastix.txt", "bspline.txt", "field.nii.gz", "field.mha"):
            assert read_transform(folder / name).GetDimension() == 3
    assert Volume.from_image(tmp_path / "dicom").grid.size == (13, 12, 6)


@pytest.mark.parametrize(
    "name, old, new, words",
    [
        ("x.mhd", "NDims = 3", "NDims = -1", "NDims is '-1', expected a whole number from 1 to 10"),
        ("x.mha", "NDims = 3", "NDims = -1e308", "NDims is '-1e308'"),
        ("packed.mha", r"TransformMatrix = \S+", "TransformMatrix = -1e308", "transformmatrix holds -1e+308"),
        ("x.mha", r"TransformMatrix = \S+", "TransformMatrix = nan", "transformmatrix holds nan"),
        ("x.mha", r"TransformMatrix = \S+", "TransformMatrix =", "transformmatrix does not hold 9 numbers"),
        ("x.mha", "DimSize = 13", "DimSize = 99999999999999999999", "dimsize is '99999999999999999999'"),
        ("x.mha", "DimSize = 13", "DimSize = 1300", "was cut short, it lacks"),
        ("x.mha", r"ElementSpacing = \S+", "ElementSpacing = inf", "elementspacing holds inf"),
        ("x.nrrd", r"sizes: \d+", "sizes: -13", "sizes is '-13'"),
        ("x.nhdr", "dimension: 3", "dimension: 99", "dimension is '99'"),
        ("x.nrrd", r"space directions: \([^,]+", "space directions: (1e308", "space directions holds 1e+308"),
        ("x.vtk", r"SPACING \S+", "SPACING nan", "spacing holds nan"),
    ],
)
def test_text_headers(made, tmp_path, name: str, old: str, new: str, words: str) -> None:
    put(made[f"image {name}"], tmp_path)
    content = (tmp_path / name).read_bytes()
    changed, count = re.subn(old.encode(), new.encode(), content, count=1)
    assert count == 1
    (tmp_path / name).write_bytes(changed)
    with pytest.raises(RegistrationError, match=f"^moving: .*{re.escape(words)}"):
        read_image(tmp_path / name, name="moving")


@pytest.mark.parametrize(
    "name, code, offset, value",
    [
        ("x.nii", "h", 40, -3),
        ("x.nii", "h", 42, -13),
        ("x.nii", "f", 80, np.nan),
        ("x.nii", "f", 108, np.inf),
        ("x.nii", "f", 280, 1e30),
        ("two.nii", "q", 16, 3000),
        ("two.nii", "q", 24, 1 << 62),
        ("two.nii", "d", 112, np.inf),
        ("two.nii", "q", 168, 1 << 60),
    ],
)
def test_nifti_headers(made, tmp_path, name: str, code: str, offset: int, value: float) -> None:
    content = bytearray(made[f"image {name}"][name])
    struct.pack_into("<" + code, content, offset, value)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RegistrationError, match="has a damaged header"):
        read_image(tmp_path / name, name="fixed")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.hdr"])
def test_headers_that_do_not_begin_with_their_length(made, tmp_path, name: str) -> None:
    """ITK reads them, and never came back from an infinite direction."""
    put(made[f"image {name}"], tmp_path)
    packed = name.endswith(".gz")
    content = (tmp_path / name).read_bytes()
    content = bytearray(gzip.decompress(content) if packed else content)
    struct.pack_into("<i", content, 0, 347)
    for at, value, words in ((None, 0.0, ""), (280, -np.inf, "srow holds -inf")):
        if at is not None:
            struct.pack_into("<f", content, at, value)
        (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
        if not words:
            assert Volume.from_image(tmp_path / name).grid.size == specimens.GRID.size
            continue
        with pytest.raises(RegistrationError, match=f"has a damaged header: {words}"):
            read_image(tmp_path / name)


def test_spacings_beyond_any_microscope(tmp_path) -> None:
    """With 1.4e-45 mm along one axis the working grid was larger than any memory."""
    image = blobs(specimens.GRID).to_simpleitk()
    image.SetSpacing((1.4e-45, 2.0, 2.5))
    with pytest.raises(RegistrationError, match=r"fixed has the spacing .* expected 1e-06 mm or more"):
        Volume.from_image(image)


def test_legitimate_oddities_pass(tmp_path) -> None:
    """An NRRD with a list axis and a frame, a 4-D NIfTI of one volume and a 2-D MetaImage are read."""
    head = (
        b"NRRD0005\ntype: uchar\ndimension: 4\nspace: left-posterior-superior\nsizes: 3 4 5 6\n"
        b"space directions: none (1,0,0) (0,1,0) (0,0,1)\nkinds: vector domain domain domain\nencoding: raw\n"
        b"space origin: (0,0,0)\nmeasurement frame: (1,0,0) (0,1,0) (0,0,1)\n\n"
    )
    (tmp_path / "v.nrrd").write_bytes(head + bytes(3 * 4 * 5 * 6))
    assert read_image(tmp_path / "v.nrrd").GetSize() == (4, 5, 6)
    volume = blobs(specimens.GRID).to_simpleitk()
    SimpleITK.WriteImage(SimpleITK.JoinSeries([volume]), str(tmp_path / "one.nii.gz"))
    read_image(tmp_path / "one.nii.gz")
    SimpleITK.WriteImage(volume[:, :, 2], str(tmp_path / "flat.mha"))
    assert read_image(tmp_path / "flat.mha").GetDimension() == 2


def test_transforms_in_text(made, tmp_path) -> None:
    spline = made["transform bspline.tfm"]["bspline.tfm"]
    head, fixed = spline.split(b"FixedParameters:")
    for name, content, words in (
        ("grid.tfm", head + b"FixedParameters: -1" + fixed[2:], "a grid of '-1' points"),
        ("more.tfm", head + b"FixedParameters: 9" + fixed[2:], "375 parameters for 9 x 5 x 5 points"),
        ("nan.tfm", re.sub(rb"Parameters: \S+", b"Parameters: nan", spline, count=1), "cannot be read|not finite"),
        ("bytes.tfm", made["transform affine.tfm"]["affine.tfm"].replace(b"Affine", b"Aff\xefne"), "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RegistrationError, match=words):
            read_transform(tmp_path / name)


def test_a_dicom_slice_with_an_impossible_number_of_samples(made, tmp_path) -> None:
    """GDCM raises while it only looks for series."""
    put(made["dicom"], tmp_path)
    content = (tmp_path / "1.dcm").read_bytes()
    place = content.index(struct.pack("<HH", 0x0028, 0x0002)) + 8
    (tmp_path / "1.dcm").write_bytes(content[:place] + struct.pack("<H", 9) + content[place + 2 :])
    with pytest.raises(RegistrationError, match=r"^moving: .* cannot be read"):
        read_image(tmp_path, name="moving")


@pytest.mark.slow
def test_hdf5_that_goes_round_in_circles(made, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("itk_pdd.io.guards.trial._SECONDS", 0.0)
    put(made["transform affine.h5"], tmp_path)
    with pytest.raises(RegistrationError, match="could not be read within 0 s"):
        read_transform(tmp_path / "affine.h5")
    monkeypatch.undo()
    monkeypatch.setattr("itk_pdd.io.guards.trial._CODE", "import os; os.abort()")
    with pytest.raises(RegistrationError, match="crashed a process on trial"):
        read_transform(tmp_path / "affine.h5")


@pytest.mark.parametrize(
    "value", ["s%d.raw 1 9 0", "s%s.raw 1 9 1", "s%d%n.raw 1 9 1", "s%03d.raw 1 9 x", "%*\xcc 1 9 0", "s%d.raw 1 9 -1"]
)
@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
def test_numbered_files_of_slices_that_the_libraries_would_crash_on(tmp_path, value: str, ending: str) -> None:
    """A step of 0 is divided by; the pattern is a format of C."""
    head = {
        "mhd": "ObjectType = Image\nNDims = 3\nDimSize = 4 4 9\nElementType = MET_FLOAT\nElementDataFile = ",
        "nhdr": "NRRD0004\ntype: float\ndimension: 3\nsizes: 4 4 9\nencoding: raw\nendian: little\ndata file: ",
    }[ending]
    path = tmp_path / f"x.{ending}"
    path.write_bytes(f"{head}{value}\n".encode("latin-1"))
    with pytest.raises(RegistrationError, match="expected a file name, or a name with one %d"):
        read_image(path, name="fixed")


def test_slices_in_numbered_files_are_read(tmp_path) -> None:
    planes = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("<f4")
    for number, plane in enumerate(planes, start=1):
        (tmp_path / f"s{number:03d}.raw").write_bytes(plane.tobytes())
    (tmp_path / "x.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nDimSize = 5 4 3\n"
        "ElementType = MET_FLOAT\nElementDataFile = s%03d.raw 1 3 1\n"
    )
    found = read_image(tmp_path / "x.mhd", name="fixed")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(found), planes)
