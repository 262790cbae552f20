"""A generated matrix of files: pixel type, orientation, unit, scaling, compression and format, against other readers.

NIfTI and FreeSurfer's files are read by nibabel too. The others are written here by hand after their specifications,
so that what they hold is known.
"""

from __future__ import annotations

import gzip
import itertools
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from conftest import rotation
from PIL import Image

from itk_pdd.errors import RegistrationWarning
from itk_pdd.io.files import read_image
from itk_pdd.io.images import array_of, grid_of

SIZE = (6, 5, 4)  # x, y, z
SPACING = np.array([0.75, 1.25, 3.0])
ORIGIN = np.array([-61.5, 40.25, 7.125])
DIRECTIONS = {
    "plain": np.eye(3),
    "oblique": rotation(20, -15, 40),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "permuted": np.array([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]]),
}
TYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Voxels z, y, x and the matrix from indices to LPS millimetres.
Truth = tuple[np.ndarray, np.ndarray]


def voxels(dtype: str) -> np.ndarray:
    """Values that fill the range of the type, axes z, y, x."""
    kind = np.dtype(dtype)
    generator = np.random.default_rng(len(dtype))
    if kind.kind == "f":
        return generator.normal(0, 1000, SIZE[::-1]).astype(kind)
    limits = np.iinfo(kind)
    array = generator.integers(limits.min, limits.max, SIZE[::-1], dtype=kind, endpoint=True)
    array.flat[:2] = limits.min, limits.max
    return array


def affine(direction: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = direction * SPACING, ORIGIN
    return matrix


def check(path: Path, array: np.ndarray, matrix: np.ndarray) -> None:
    """Compare what we read with the truth: same voxels, same points to 1e-4 of a voxel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RegistrationWarning)
        image = read_image(path)
    found, grid = array_of(image, "image"), grid_of(image, "image")
    assert grid.shape == array.shape, path.name
    np.testing.assert_allclose(found, array, rtol=1e-6 if found.dtype != array.dtype else 0, err_msg=path.name)
    index = np.array(list(itertools.product(*[(0, n - 1) for n in grid.size])))
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    assert np.abs(grid.to_index(points) - index).max() < 1e-4, path.name


def by_nibabel(path: Path, factor: float = 1.0) -> Truth:
    """What nibabel reads, whose affine knows no units."""
    image = nibabel.load(path)
    matrix = image.affine.copy()
    matrix[:3] *= factor
    return np.asarray(image.dataobj).T, LPS @ matrix


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".hdr", ".img"])
@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_nifti(tmp_path, orientation: str, ending: str) -> None:
    for number, dtype in enumerate(TYPES):
        for unit, factor in (("mm", 1.0), ("micron", 1e-3), ("meter", 1e3)):
            # Alternately with both forms, the sform alone and the qform alone.
            kind = nibabel.Nifti1Pair if ending in (".hdr", ".img") else nibabel.Nifti1Image
            image = kind(voxels(dtype).T, LPS @ affine(DIRECTIONS[orientation]))
            codes = [(1, 1), (2, 0), (0, 1)][number % 3]
            image.set_sform(image.affine if codes[0] else None, codes[0])
            image.set_qform(LPS @ affine(DIRECTIONS[orientation]) if codes[1] else None, codes[1])
            image.header.set_xyzt_units(unit)
            path = tmp_path / f"{dtype}-{unit}{ending}"
            nibabel.save(image, path)
            check(path, *by_nibabel(path, factor))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_nifti_with_scaled_voxels(tmp_path, ending: str, dtype: str) -> None:
    for slope, intercept in ((2.5, -3.0), (1.0, -1024.0), (0.0, 7.0), (1e-3, 0.0)):
        path = tmp_path / f"{slope}{ending}"
        kind = nibabel.Nifti1Pair if ending == ".img" else nibabel.Nifti1Image
        nibabel.save(kind(voxels(dtype).T, LPS @ affine(np.eye(3)), dtype=dtype), path)
        header = path.with_suffix(".hdr") if ending == ".img" else path
        content = header.read_bytes()
        content = bytearray(gzip.decompress(content) if ending == ".nii.gz" else content)
        struct.pack_into("<2f", content, 112, slope, intercept)
        header.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
        check(path, *by_nibabel(path))


@pytest.mark.parametrize("order", ["<", ">"])
def test_analyze(tmp_path, order: str) -> None:
    """Analyze says nothing about directions; ITK takes index 0 for the origin."""
    for dtype in ("uint8", "int16", "int32", "float32", "float64"):
        header = nibabel.AnalyzeHeader(endianness=order)
        header.set_data_dtype(dtype)
        nibabel.save(nibabel.AnalyzeImage(voxels(dtype).T, np.diag([*SPACING, 1.0]), header), tmp_path / f"{dtype}.hdr")
        with pytest.warns(RegistrationWarning, match="Analyze"):
            image = read_image(tmp_path / f"{dtype}.img")
        np.testing.assert_array_equal(array_of(image, "image"), voxels(dtype))
        np.testing.assert_allclose(image.GetSpacing(), SPACING)


@pytest.mark.parametrize("ending", [".mgh", ".mgz"])
@pytest.mark.parametrize("orientation", DIRECTIONS)
def test_freesurfer(tmp_path, orientation: str, ending: str) -> None:
    for dtype in ("uint8", "int16", "int32", "float32"):
        path = tmp_path / f"{dtype}{ending}"
        nibabel.save(nibabel.MGHImage(voxels(dtype).T, LPS @ affine(DIRECTIONS[orientation])), path)
        check(path, *by_nibabel(path))


def nrrd(path: Path, array: np.ndarray, direction: np.ndarray, encoding: str, space: str) -> None:
    """Write an NRRD file, its voxels beside it for .nhdr."""
    kinds = {"f4": "float", "f8": "double"}
    kind = kinds.get(array.dtype.str[1:], array.dtype.name)
    sign = {"left-posterior-superior": [1, 1, 1], "right-anterior-superior": [-1, -1, 1], "RAS": [-1, -1, 1]}[space]
    vectors = (direction * SPACING).T * sign
    lines = [
        "NRRD0004", f"type: {kind}", "dimension: 3", f"space: {space}", "sizes: " + " ".join(map(str, SIZE)),
        "space directions: " + " ".join(f"({','.join(map(repr, map(float, v)))})" for v in vectors),
        "kinds: domain domain domain", "endian: little", f"encoding: {encoding}",
        f"space origin: ({','.join(map(repr, map(float, ORIGIN * sign)))})",
    ]  # fmt: skip
    content = array.astype(array.dtype.newbyteorder("<")).tobytes()
    content = gzip.compress(content) if encoding == "gzip" else content
    if path.suffix == ".nhdr":
        beside = path.with_suffix(".raw.gz" if encoding == "gzip" else ".raw")
        beside.write_bytes(content)
        path.write_text("\n".join([*lines, f"data file: {beside.name}"]) + "\n")
    else:
        path.write_bytes("\n".join([*lines, "", ""]).encode() + content)


def meta(path: Path, array: np.ndarray, direction: np.ndarray, big: bool) -> None:
    """Write a MetaImage, its voxels beside it for .mhd."""
    names = {"i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT", "f4": "FLOAT",
             "f8": "DOUBLE"}  # fmt: skip
    local = path.suffix == ".mha"
    lines = [
        "ObjectType = Image", "NDims = 3", "BinaryData = True", f"BinaryDataByteOrderMSB = {big}",
        "CompressedData = False", "TransformMatrix = " + " ".join(map(repr, direction.T.ravel().tolist())),
        "Offset = " + " ".join(map(repr, ORIGIN.tolist())), "CenterOfRotation = 0 0 0", "AnatomicalOrientation = LPS",
        "ElementSpacing = " + " ".join(map(repr, SPACING.tolist())), "DimSize = " + " ".join(map(str, SIZE)),
        f"ElementType = MET_{names[array.dtype.str[1:]]}",
        f"ElementDataFile = {'LOCAL' if local else path.with_suffix('.raw').name}",
    ]  # fmt: skip
    content = array.astype(array.dtype.newbyteorder(">" if big else "<")).tobytes()
    if local:
        path.write_bytes("\n".join([*lines, ""]).encode() + content)
    else:
        path.with_suffix(".raw").write_bytes(content)
        path.write_text("\n".join([*lines, ""]))


def by_hand() -> Iterator[tuple[str, Callable[[Path, np.ndarray, np.ndarray], None]]]:
    """The formats written by hand and what writes them."""
    for ending, encoding, space in itertools.product(
        (".nrrd", ".nhdr"), ("raw", "gzip"), ("left-posterior-superior", "right-anterior-superior", "RAS")
    ):
        yield (
            f"{encoding}-{space}{ending}",
            lambda path, array, direction, e=encoding, s=space: nrrd(path, array, direction, e, s),
        )
    for ending, big in itertools.product((".mha", ".mhd"), (False, True)):
        yield (
            f"{'big' if big else 'little'}{ending}",
            lambda path, array, direction, b=big: meta(path, array, direction, b),
        )


@pytest.mark.parametrize("orientation", DIRECTIONS)
@pytest.mark.parametrize("name, write", [pytest.param(*case, id=case[0]) for case in by_hand()])
def test_formats_in_text_and_bytes(tmp_path, name: str, write: Callable, orientation: str) -> None:
    for dtype in TYPES:
        path = tmp_path / f"{dtype}-{name}"
        write(path, voxels(dtype), DIRECTIONS[orientation])
        check(path, voxels(dtype), affine(DIRECTIONS[orientation]))


def test_vtk(tmp_path) -> None:
    """VTK's structured points are big-endian and have no directions."""
    names = {"u1": "unsigned_char", "i2": "short", "u2": "unsigned_short", "i4": "int", "f4": "float", "f8": "double"}
    for dtype in ("uint8", "int16", "uint16", "int32", "float32", "float64"):
        array = voxels(dtype)
        head = (
            "# vtk DataFile Version 3.0\nimage\nBINARY\nDATASET STRUCTURED_POINTS\n"
            f"DIMENSIONS {' '.join(map(str, SIZE))}\nSPACING {' '.join(map(str, SPACING))}\n"
            f"ORIGIN {' '.join(map(str, ORIGIN))}\nPOINT_DATA {array.size}\n"
            f"SCALARS scalars {names[array.dtype.str[1:]]} 1\nLOOKUP_TABLE default\n"
        )
        path = tmp_path / f"{dtype}.vtk"
        path.write_bytes(head.encode() + array.astype(array.dtype.newbyteorder(">")).tobytes())
        check(path, array, affine(np.eye(3)))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("unit, factor", [("mm", 1.0), ("micron", 1e-3), ("um", 1e-3), ("\\u00B5m", 1e-3)])
def test_tiff_of_imagej(tmp_path, dtype: str, unit: str, factor: float, compression: str | None) -> None:
    array, spacing = voxels(dtype), np.array([0.4, 0.5, 2.0])
    tags = {
        270: f"ImageJ=1.53t\nimages=4\nslices=4\nunit={unit}\nspacing=2.0\nloop=false\n", 282: 2.5, 283: 2.0, 296: 1
    }  # fmt: skip
    pages = [Image.fromarray(page) for page in array]
    path = tmp_path / "stack.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo=tags, compression=compression)
    with Image.open(path) as again:
        np.testing.assert_array_equal(np.asarray(again), array[0], "Pillow reads what it wrote")
    check(path, array, np.diag([*(factor * spacing), 1.0]))
