"""Surfaces of many formats: independent readers find the points moved, and all else as it was."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import meshio
import nibabel
import numpy as np
import pytest
from conftest import rotation

from itk_pdd.commands.transform import points_file
from itk_pdd.errors import RegistrationError
from itk_pdd.io.points import read_points

POINTS = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10.5]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
MATRIX = np.eye(4)
MATRIX[:3, :3], MATRIX[:3, 3] = rotation(20, -15, 40) @ np.diag([1.1, 0.9, 1.2]), (3.0, -4.0, 5.0)
MIRROR = np.array([-1.0, -1.0, 1.0])


def forward(points: np.ndarray) -> np.ndarray:
    return points @ MATRIX[:3, :3].T + MATRIX[:3, 3]


def moved(path: Path, content: bytes, **options: object) -> Path:
    """The file with its points taken through the matrix, as another file."""
    path.write_bytes(content)
    file = read_points(path, **options)
    target = path.with_name("moved" + path.suffix)
    target.write_bytes(file.rewrite(forward(file.points)))
    return target


def ply(coding: str, kind: str = "double") -> bytes:
    """Vertices with normals, a colour and a number; faces."""
    order = ">" if "big" in coding else "<"
    head = (
        f"ply\nformat {coding} 1.0\ncomment made by hand\nelement vertex 4\nproperty {kind} x\nproperty {kind} y\n"
        f"property {kind} z\nproperty float nx\nproperty float ny\nproperty float nz\nproperty uchar red\n"
        "property float thickness\nelement face 4\nproperty list uchar int vertex_indices\nend_header\n"
    )
    if coding == "ascii":
        rows = [f"{x} {y} {z} 0 0 1 {i} {i / 2}" for i, (x, y, z) in enumerate(POINTS)]
        rows += [f"3 {a} {b} {c}" for a, b, c in FACES]
        return (head + "\n".join(rows) + "\n").encode()
    letter = "d" if kind == "double" else "f"
    rows = [struct.pack(f"{order}3{letter}3fBf", *p, 0, 0, 1, i, i / 2) for i, p in enumerate(POINTS)]
    rows += [struct.pack(f"{order}B3i", 3, *face) for face in FACES]
    return head.encode() + b"".join(rows)


@pytest.mark.parametrize("coding", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_ply(tmp_path: Path, coding: str, kind: str) -> None:
    target = moved(tmp_path / "s.ply", ply(coding, kind))
    found = meshio.read(target)
    np.testing.assert_allclose(found.points, forward(POINTS), atol=1e-5 if kind == "float" else 1e-12)
    np.testing.assert_array_equal(found.cells[0].data, FACES)
    np.testing.assert_array_equal(found.point_data["red"], range(4))
    np.testing.assert_array_equal(found.point_data["thickness"], np.arange(4) / 2)
    assert "nx" not in found.point_data, "normals of before are not kept"
    assert target.read_bytes().startswith(f"ply\nformat {coding} 1.0\ncomment made by hand\n".encode())


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_stl_and_its_normals(tmp_path: Path, binary: bool) -> None:
    meshio.Mesh(POINTS, [("triangle", FACES)]).write(tmp_path / "s.stl", binary=binary)
    target = moved(tmp_path / "s.stl", (tmp_path / "s.stl").read_bytes())
    found = meshio.read(target)
    corners = found.points[found.cells[0].data]
    np.testing.assert_allclose(corners, forward(POINTS)[FACES], atol=1e-5)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    if binary:  # meshio does not read these
        written = [struct.unpack_from("<3f", target.read_bytes(), 84 + 50 * i) for i in range(len(FACES))]
    else:
        written = found.cell_data["facet_normals"][0]
    np.testing.assert_allclose(written, normals, atol=1e-5)
    outward = corners.mean(axis=1) - forward(POINTS).mean(axis=0)
    assert ((normals * outward).sum(axis=1) > 0).all()


def test_obj(tmp_path: Path) -> None:
    lines = ["# SPACE=RAS", "mtllib m.mtl", *(f"v {x} {y} {z} 1 0 0" for x, y, z in POINTS), "vt 0 0", "vn 0 0 1",
             "g liver", "usemtl red", *(f"f {a + 1}/1/1 {b + 1}//1 {c + 1}" for a, b, c in FACES), ""]  # fmt: skip
    target = moved(tmp_path / "s.obj", "\n".join(lines).encode())
    found = target.read_text().splitlines()
    points = np.array([line.split()[1:4] for line in found if line.startswith("v ")], float)
    np.testing.assert_allclose(points, forward(POINTS * MIRROR) * MIRROR, atol=1e-12)
    assert all(line.endswith(" 1 0 0") for line in found if line.startswith("v "))
    assert [line for line in found if line[:2] not in ("v ", "f ")] == [
        "# SPACE=RAS", "mtllib m.mtl", "vt 0 0", "g liver", "usemtl red",
    ]  # fmt: skip
    assert [line for line in found if line[0] == "f"] == [f"f {a + 1}/1 {b + 1} {c + 1}" for a, b, c in FACES]
    with pytest.raises(RegistrationError, match="says that its points are RAS"):
        read_points(tmp_path / "s.obj", system="LPS")


def vtp(form: str, kind: str, compress: bool) -> bytes:
    """A surface whose arrays are in one of VTK's forms."""
    number = {"Float32": "<f4", "Float64": "<f8"}[kind]
    appended = b""

    def encoded(data: bytes) -> bytes:
        if compress:
            half = len(data) // 2
            blocks = [zlib.compress(data[:half]), zlib.compress(data[half:])]
            head = struct.pack("<5I", 2, half, len(data) - half, *map(len, blocks))
            body = b"".join(blocks)
            return head + body if form == "raw" else base64.b64encode(head) + base64.b64encode(body)
        head = struct.pack("<I", len(data))
        return head + data if form == "raw" else base64.b64encode(head + data)

    def array(values: np.ndarray, dtype: str, told: str) -> bytes:
        nonlocal appended
        if form == "ascii":
            return f'<DataArray {told} format="ascii">{" ".join(map(str, values.ravel()))}</DataArray>'.encode()
        data = encoded(values.astype(dtype).tobytes())
        if form == "binary":
            return f'<DataArray {told} format="binary">\n'.encode() + data + b"\n</DataArray>"
        element = f'<DataArray {told} format="appended" offset="{len(appended)}"/>'.encode()
        appended += data
        return element

    body = b"".join([
        b'<PointData Normals="Normals" Scalars="t">',
        array(np.arange(4.0), "<f8", 'type="Float64" Name="t"'),
        array(np.ones((4, 3)), "<f4", 'type="Float32" Name="Normals" NumberOfComponents="3"'), b"</PointData><Points>",
        array(POINTS, number, f'type="{kind}" Name="Points" NumberOfComponents="3"'), b"</Points><Polys>",
        array(FACES, "<i8", 'type="Int64" Name="connectivity"'),
        array(np.arange(3, 13, 3), "<i8", 'type="Int64" Name="offsets"'), b"</Polys>",
    ])  # fmt: skip
    zipped = ' compressor="vtkZLibDataCompressor"' if compress else ""
    head = f'<VTKFile type="PolyData" version="0.1" byte_order="LittleEndian"{zipped}>\n<PolyData>'
    tail = b""
    if appended:
        coding = "raw" if form == "raw" else "base64"
        tail = f'<AppendedData encoding="{coding}">\n_'.encode() + appended + b"\n</AppendedData>\n"
    piece = b'<Piece NumberOfPoints="4" NumberOfPolys="4">' + body + b"</Piece></PolyData>\n"
    return head.encode() + piece + tail + b"</VTKFile>\n"


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("form", ["ascii", "binary", "base64", "raw"])
@pytest.mark.parametrize("kind", ["Float32", "Float64"])
def test_vtp_in_all_forms(tmp_path: Path, form: str, kind: str, compress: bool) -> None:
    before = vtp(form, kind, compress)
    target = moved(tmp_path / "s.vtp", before)
    after = target.read_bytes()
    text = after.split(b"<Points>")[1].split(b"</Points>")[0].split(b">")[1].split(b"<")[0]
    np.testing.assert_allclose(np.array(text.split(), float).reshape(-1, 3), forward(POINTS), atol=1e-5)
    np.testing.assert_allclose(read_points(target).points, forward(POINTS), atol=1e-5)
    assert b"Normals" not in after
    assert after.split(b"<Polys>")[1] == before.split(b"<Polys>")[1], "cells and appended data stay byte for byte"
    assert b'Scalars="t"' in after


def gifti(centre: float = 0.0, space: str = "NIFTI_XFORM_SCANNER_ANAT") -> bytes:
    from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage, GiftiMetaData

    codes = {"NIFTI_XFORM_UNKNOWN": 0, "NIFTI_XFORM_SCANNER_ANAT": 1}
    points = GiftiDataArray(
        (POINTS * MIRROR).astype(np.float32), intent="NIFTI_INTENT_POINTSET",
        coordsys=GiftiCoordSystem(codes[space], codes[space]), meta=GiftiMetaData({"VolGeomC_R": str(centre)}),
    )  # fmt: skip
    faces = GiftiDataArray(FACES.astype(np.int32), intent="NIFTI_INTENT_TRIANGLE")
    shape = GiftiDataArray(np.arange(4, dtype=np.float32), intent="NIFTI_INTENT_SHAPE")
    return GiftiImage(darrays=[points, faces, shape], meta=GiftiMetaData({"who": "me"})).to_bytes()


def test_gifti_is_ras(tmp_path: Path) -> None:
    found = nibabel.load(moved(tmp_path / "s.surf.gii", gifti()))
    points, faces, shape = (array.data for array in found.darrays)
    np.testing.assert_allclose(points, forward(POINTS) * MIRROR, atol=1e-5)
    np.testing.assert_array_equal(faces, FACES)
    np.testing.assert_array_equal(shape, range(4))
    assert found.meta["who"] == "me"
    (tmp_path / "t.surf.gii").write_bytes(gifti(12.5, "NIFTI_XFORM_UNKNOWN"))
    with pytest.raises(RegistrationError, match=r"FreeSurfer's coordinates, .*--to-scanner"):
        read_points(tmp_path / "t.surf.gii")


def test_freesurfer_by_the_geometry_of_its_volume(tmp_path: Path) -> None:
    known = {
        "head": np.array([2, 0, 20]), "valid": "1  # volume info valid", "filename": "T1.mgz",
        "volume": np.array([256, 256, 256]), "voxelsize": np.array([1.0, 1.0, 1.0]),
        "xras": np.array([-1.0, 0, 0]), "yras": np.array([0.0, 0, -1]), "zras": np.array([0.0, 1, 0]),
        "cras": np.array([5.0, -6.0, 7.0]),
    }  # fmt: skip
    path, out = tmp_path / "lh.white", tmp_path / "lh.moved"
    nibabel.freesurfer.write_geometry(str(path), POINTS, FACES, volume_info=known)
    # In a volume stored as FreeSurfer does, scanner coordinates differ by the centre alone.
    np.testing.assert_allclose(read_points(path).points, (POINTS + known["cras"]) * MIRROR, atol=1e-5)
    import SimpleITK

    shift = SimpleITK.TranslationTransform(3, (1.0, 2.0, 3.0))
    SimpleITK.WriteTransform(shift, str(tmp_path / "t.tfm"))
    told = points_file(path, out, [tmp_path / "t.tfm"], to="moving")
    assert "4 points of the fixed image moved to the moving image" in told
    points, faces, again = nibabel.freesurfer.read_geometry(str(out), read_metadata=True)
    np.testing.assert_allclose(points, POINTS + np.array([-1, -2, 3]), atol=1e-5)
    np.testing.assert_array_equal(faces, FACES)
    np.testing.assert_allclose(again["cras"], known["cras"])
    nibabel.freesurfer.write_geometry(str(path), POINTS, FACES)
    with pytest.raises(RegistrationError, match="does not say which volume"):
        read_points(path)


def test_surfaces_go_both_ways(tmp_path: Path) -> None:
    import SimpleITK

    turn = SimpleITK.AffineTransform(3)
    turn.SetMatrix(MATRIX[:3, :3].ravel().tolist())
    turn.SetTranslation(MATRIX[:3, 3].tolist())
    SimpleITK.WriteTransform(turn, str(tmp_path / "t.tfm"))
    (tmp_path / "s.ply").write_bytes(ply("binary_little_endian"))
    points_file(tmp_path / "s.ply", tmp_path / "m.ply", [tmp_path / "t.tfm"], to="moving")
    np.testing.assert_allclose(meshio.read(tmp_path / "m.ply").points, forward(POINTS), atol=1e-9)
    points_file(tmp_path / "m.ply", tmp_path / "f.ply", [tmp_path / "t.tfm"], to="fixed")
    np.testing.assert_allclose(meshio.read(tmp_path / "f.ply").points, POINTS, atol=1e-9)


DAMAGED = {
    "stl": ("s.stl", b"solid x\nfacet normal 0 0 1\nvertex 1 2\n", "corners, expected three|holds no points|no three"),
    "stl cut": ("s.stl", bytes(80) + struct.pack("<I", 9) + bytes(100), "is no STL file, or was cut short"),
    "obj": ("s.obj", b"f 1 2 3\n", "holds no points"),
    "obj word": ("s.obj", b"v 1 2 three\n", "no three numbers"),
    "ply": ("s.ply", b"ply\nformat ascii 1.0\n", "is no PLY file"),
    "ply empty head": ("s.ply", b"ply\nend_header\n", "does not begin with vertices"),
    "ply cut": ("s.ply", ply("binary_little_endian")[:420], "was cut short"),
    "vtp": ("s.vtp", b"<VTKFile><PolyData/></VTKFile>", "holds no points"),
    "vtp text": ("s.vtp", b"hello", "no surface in VTK's XML"),
    "vtp damaged": ("s.vtp", vtp("binary", "Float32", True).replace(b"\nA", b"\n#"), "cannot be read"),
    "gii": ("s.gii", b"<GIFTI", "cannot be read as GIFTI"),
    "freesurfer": ("lh.white", b"\xff\xff\xfe\n\n", "cannot be read as FreeSurfer|does not say"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_surfaces_are_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, message = DAMAGED[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RegistrationError, match=message) as caught:
        read_points(tmp_path / name)
    assert "\n" not in str(caught.value)
