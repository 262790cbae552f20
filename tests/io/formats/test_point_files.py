"""Files of points keep everything but the coordinates, in their own coordinate system."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.io.points import read_points

POINTS = np.array([[1.5, -2.0, 3.25], [10.0, 20.0, -30.0], [0.1, 0.2, 0.3]])
MIRROR = np.array([-1.0, -1.0, 1.0])
SHIFT = np.array([1.0, 2.0, 4.0])


def rows(points: np.ndarray) -> list[str]:
    return [",".join(f"{value:.6f}" for value in point) for point in points]


def again(path: Path, content: bytes, **options: object) -> np.ndarray:
    path.write_bytes(content)
    return read_points(path, **options).points


def test_csv_keeps_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("label;z;x;y\n" + "\n".join(f'"a;{i}";{z};{x};{y}' for i, (x, y, z) in enumerate(POINTS)) + "\n")
    file = read_points(path)
    np.testing.assert_array_equal(file.points, POINTS)
    assert (file.system, file.stated) == ("LPS", False)
    content = file.rewrite(POINTS + SHIFT)
    assert content.decode().splitlines()[:2] == ["label;z;x;y", '"a;0";7.250000;2.500000;0.000000']
    np.testing.assert_allclose(again(path, content), POINTS + SHIFT)
    ras = read_points(path, system="RAS")
    np.testing.assert_allclose(ras.points, (POINTS + SHIFT) * MIRROR)
    assert ras.rewrite(ras.points) == content


def test_csv_without_a_head_and_in_two_dimensions(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("1,2,7\n3,4,7\n")
    file = read_points(path, dimension=2)
    np.testing.assert_array_equal(file.points, [[1, 2], [3, 4]])
    assert file.rewrite(file.points + 1).decode().splitlines() == ["2.000000,3.000000,7", "4.000000,5.000000,7"]


@pytest.mark.parametrize(("told", "sign"), [("LPS", 1), ("RAS", -1), ("1", 1), ("0", -1)])
def test_fcsv_in_the_system_it_names(tmp_path: Path, told: str, sign: int) -> None:
    head = (
        f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {told}\n# columns = id,x,y,z,ow,ox,oy,oz,label\n"
    )
    body = [f'm{i},{row},0,0,0,1,"F, {i}"' for i, row in enumerate(rows(POINTS))]
    path = tmp_path / "p.fcsv"
    path.write_text(head + "\n".join(body) + "\n")
    file = read_points(path)
    np.testing.assert_allclose(file.points, POINTS if sign > 0 else POINTS * MIRROR)
    assert file.stated
    assert file.rewrite(file.points).decode() == path.read_text(), "nothing but the coordinates changes"
    np.testing.assert_allclose(again(path, file.rewrite(file.points + SHIFT)), file.points + SHIFT)
    with pytest.raises(RegistrationError, match="says that its points are"):
        read_points(path, system="RAS" if sign > 0 else "LPS")


def test_markups_of_both_systems(tmp_path: Path) -> None:
    document = {
        "@schema": "markups-schema-v1.0.3.json",
        "markups": [
            {"type": "Fiducial", "coordinateSystem": system, "display": {"color": [1, 0, 0]},
             "controlPoints": [{"id": str(i), "label": f"F-{i}", "position": p} for i, p in enumerate(POINTS.tolist())]}
            for system in ("LPS", "RAS")
        ],
    }  # fmt: skip
    path = tmp_path / "p.mrk.json"
    path.write_text(json.dumps(document))
    file = read_points(path)
    np.testing.assert_allclose(file.points, np.concatenate([POINTS, POINTS * MIRROR]))
    assert json.loads(file.rewrite(file.points)) == document
    written = json.loads(file.rewrite(file.points + SHIFT))
    np.testing.assert_allclose(written["markups"][1]["controlPoints"][0]["position"], POINTS[0] + SHIFT * MIRROR)


XYZ = np.array([[1.5, -2.0, 3.25], [10.5, 20.0, -30.0], [0.1, 0.25, 0.3]])


@pytest.mark.parametrize(
    ("head", "line", "factor"),
    [
        ("X (mm),Y (mm),Z (mm)", "{x},{y},{z}", 1.0),
        ("name,pos_x,pos_y,pos_z", "a,{x},{y},{z}", 1.0),
        ("x [um],y [um],z [um]", "{x},{y},{z}", 1e-3),
        ("# of a program\nx_um;y_um;z_um", "{x};{y};{z}", 1e-3),
        (",x,y,z", "7,{x},{y},{z}", 1.0),
        ("label,l,p,s,defined", "a,{x},{y},{z},1", 1.0),
        (None, "F-1,{x},{y},{z}", 1.0),
        (None, "F-1,{x},{y},{z},7", 1.0),
        (None, "{x},{y},{z},7", 1.0),
    ],
)
def test_csv_columns_of_many_programs(tmp_path: Path, head: str | None, line: str, factor: float) -> None:
    path = tmp_path / "p.csv"
    path.write_text("\n".join([*([head] if head else []), *(line.format(x=x, y=y, z=z) for x, y, z in XYZ)]) + "\n")
    file = read_points(path)
    np.testing.assert_allclose(file.points, XYZ * factor)
    np.testing.assert_allclose(again(path, file.rewrite(file.points + SHIFT)), XYZ * factor + SHIFT)
    assert file.rewrite(file.points).decode().startswith(head or ""), "lines above the points stay"


def test_csv_index_column_without_a_head(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    for start in (0, 1):
        path.write_text("\n".join(f"{i},{x},{y},{z}" for i, (x, y, z) in enumerate(XYZ, start)))
        with pytest.warns(RegistrationWarning, match="first column counts the lines"):
            file = read_points(path)
        np.testing.assert_allclose(file.points, XYZ)
        assert [line.split(",")[0] for line in file.rewrite(XYZ).decode().splitlines()] == [
            str(i) for i in range(start, start + 3)
        ]
    # x, y, z, time or index, x, y, z = 0? Nobody can tell.
    path.write_text("1,5,6,0\n2,7,8,0\n")
    with pytest.raises(RegistrationError, match="its first column may be an index: name the columns"):
        read_points(path)


def test_tables_of_slicer(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("label,r,a,s,defined,selected\nF-1,1,2,3,1,1\nF-2,0,0,0,0,1\n")
    file = read_points(path)
    np.testing.assert_allclose(file.points, [[-1, -2, 3]])
    assert (file.system, file.stated) == ("RAS", True)
    assert file.rewrite(file.points + SHIFT).decode().splitlines()[1:] == [
        "F-1,0.000000,0.000000,7.000000,1,1",
        "F-2,0,0,0,0,1",
    ]


def test_digits_of_micrometres_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"x,y,z\r\n0.000123456,1e-7,2\r\n")
    assert read_points(path).rewrite(read_points(path).points) == b"x,y,z\r\n0.000123456,0.0000001,2.000000\r\n"


@pytest.mark.parametrize(
    "head",
    [
        "# Markups fiducial file version = 4.3\n# CoordinateSystem = 0\n"
        "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n",
        "# Markups fiducial file version = 4.13\n#  coordinateSystem=RAS \n# columns=ID,X,Y,Z,label\n",
        "# Fiducial List file F.fcsv\n# version = 2\n# CoordinateSystem = RAS\n# columns = label,x,y,z,sel,vis\n",
    ],
    ids=["4.3", "4.13", "3"],
)
def test_versions_of_fcsv(tmp_path: Path, head: str) -> None:
    path = tmp_path / "p.fcsv"
    path.write_text(head + "m1,1.000000,2.000000,3.000000,0,1\n")
    file = read_points(path)
    np.testing.assert_allclose(file.points, [[-1, -2, 3]])
    assert file.rewrite(file.points).decode() == path.read_text()


def mesh(binary: bool, kind: str, title: bytes = b"a triangle") -> bytes:
    number = {"float": ">f4", "double": ">f8"}[kind]
    body = POINTS.astype(number).tobytes() if binary else b" ".join(b"%.9g" % v for v in POINTS.ravel())
    cells = np.array([3, 0, 1, 2], ">i4").tobytes() if binary else b"3 0 1 2"
    values = np.array([5, 6, 7], ">f4").tobytes() if binary else b"5 6 7"
    return b"\n".join([
        b"# vtk DataFile Version 3.0", title, b"BINARY" if binary else b"ASCII", b"DATASET POLYDATA",
        b"POINTS 3 " + kind.encode(), body, b"POLYGONS 1 4", cells, b"POINT_DATA 3", b"SCALARS thickness float 1",
        b"LOOKUP_TABLE default", values, b"",
    ])  # fmt: skip


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_vtk_meshes_are_read_by_itk_too(tmp_path: Path, binary: bool, kind: str) -> None:
    import itk

    path = tmp_path / "m.vtk"
    path.write_bytes(mesh(binary, kind))
    file = read_points(path)
    np.testing.assert_allclose(file.points, POINTS, rtol=1e-6)
    content = file.rewrite(file.points + SHIFT)
    before, after = mesh(binary, kind).split(b"POLYGONS"), content.split(b"POLYGONS")
    assert before[1] == after[1], "cells and values stay byte for byte"
    assert before[0].split(b"POINTS")[0] == after[0].split(b"POINTS")[0]
    path.write_bytes(content)
    theirs = itk.meshread(str(path))
    found = [list(theirs.GetPoint(i)) for i in range(theirs.GetNumberOfPoints())]
    np.testing.assert_allclose(found, POINTS + SHIFT, rtol=1e-6)
    assert theirs.GetNumberOfCells() == 1


def test_vtk_of_slicer_says_its_system(tmp_path: Path) -> None:
    path = tmp_path / "m.vtk"
    path.write_bytes(mesh(True, "float", b"3D Slicer output. SPACE=RAS"))
    np.testing.assert_allclose(read_points(path).points, POINTS * MIRROR, rtol=1e-6)
    with pytest.raises(RegistrationError, match="says that its points are RAS"):
        read_points(path, system="LPS")


def test_normals_are_not_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "m.vtk"
    path.write_bytes(mesh(False, "float") + b"NORMALS n float\n0 0 1 0 0 1 0 0 1\n")
    with pytest.warns(RegistrationWarning, match="normals, which stay as they were"):
        read_points(path)


BAD = {
    "no columns": ("p.csv", b"a,b,c\n1,2,3\n", "has the columns a, b, c, expected x, y, z"),
    "a word": ("p.csv", b"x,y,z\n1,2,3\n1,2,three\n", "line 3 is '1,2,three', expected 3 coordinates"),
    "short line": ("p.csv", b"x,y,z\n1,2\n", "line 2 is '1,2', expected 3 coordinates"),
    "NaN": ("p.csv", b"x,y,z\n1,2,nan\n", "point 0 .* is not finite"),
    "head only": ("p.csv", b"x,y,z\n", "holds no points"),
    "empty": ("p.csv", b"", "is empty"),
    "no text": ("p.csv", b"\xff\xfe\x00x", "is no text"),
    "no system": ("p.fcsv", b"# columns = id,x,y,z\nm,1,2,3\n", "names the coordinate system ''"),
    "no json": ("p.json", b"{", "cannot be read as 3D Slicer's markups"),
    "no markups": ("p.json", b'{"a": 1}', "cannot be read as 3D Slicer's markups"),
    "no vtk": ("m.vtk", b"hello", "is no legacy VTK file"),
    "cut short": ("m.vtk", mesh(True, "double")[:110], r"was cut short, it lacks \d+ bytes"),
    "too few": ("m.vtk", mesh(False, "float").replace(b"POINTS 3", b"POINTS 5"), "does not hold the 15 numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path: Path, case: str) -> None:
    name, content, message = BAD[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RegistrationError, match=message) as caught:
        read_points(tmp_path / name)
    assert "\n" not in str(caught.value)
