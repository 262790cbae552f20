"""Surfaces in STL, OBJ and PLY: the points are replaced, normals computed again or dropped, all else stays."""

from __future__ import annotations

import re

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.formats.pointfile import PointFile, finite, number_text, placed, stated_space, to_lps

__all__ = ["read_obj", "read_ply", "read_stl"]

_FACETS = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_NUMBER = rb"\s+(\S+)\s+(\S+)\s+(\S+)"
_VERTEX, _NORMAL = re.compile(rb"\bvertex" + _NUMBER), re.compile(rb"\bfacet\s+normal" + _NUMBER)
_CORNER = re.compile(rb"(-?\d+(?:/-?\d+)?)(?:/{1,2})-?\d+(?=\s|$)")
_SCALARS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_AXES = ("x", "y", "z")


def read_stl(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of an STL file, text or binary; normals are computed again.

    The parameters are those of :func:`itk_pdd.io.formats.vtk.read_vtk`; 3D Slicer's "SPACE=" stands in the header.
    """
    own, stated = stated_space(content[:256], system, name)
    count = int.from_bytes(content[80:84], "little")
    binary = len(content) >= 84 and len(content) >= 84 + 50 * count and not _VERTEX.search(content[:4096])
    if binary:
        facets = np.frombuffer(content, _FACETS, count, 84).copy()
        corners = facets["corners"].reshape(-1, 3).astype(float)
    elif content.lstrip().startswith(b"solid"):
        corners = _numbers([match.groups() for match in _VERTEX.finditer(content)], name)
        if len(corners) % 3 or len(corners) != 3 * len(_NORMAL.findall(content)):
            raise RegistrationError(f"{name} has {len(corners)} corners, expected three for each facet")
    else:
        raise RegistrationError(f"{name} is no STL file, or was cut short")
    finite(corners, name)
    # Corners that facets share stay together.
    points, which = np.unique(corners, axis=0, return_inverse=True)

    def rewrite(moved: np.ndarray) -> bytes:
        new = placed(points, moved)[which.ravel()].reshape(-1, 3, 3)
        normals = np.cross(new[:, 1] - new[:, 0], new[:, 2] - new[:, 0])
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        normals /= np.where(lengths > 0, lengths, 1)
        if binary:
            facets["corners"], facets["normal"] = new, normals
            return content[:84] + facets.tobytes() + content[84 + 50 * count :]
        rows, turned = iter(new.reshape(-1, 3)), iter(normals)
        text = _VERTEX.sub(lambda match: b"vertex " + number_text(next(rows), 17), content)
        return _NORMAL.sub(lambda match: b"facet normal " + number_text(next(turned), 9), text)

    return to_lps(PointFile(points[:, :dimension], rewrite, own, stated))


def read_obj(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of a Wavefront OBJ file; its normals are dropped. See :func:`read_stl`."""
    own, stated = stated_space(content[:4096], system, name)
    lines = content.split(b"\n")
    places = [number for number, line in enumerate(lines) if line.startswith((b"v ", b"v\t"))]
    points = _numbers([lines[number].split()[1:4] for number in places], name)
    finite(points, name)

    def rewrite(moved: np.ndarray) -> bytes:
        new = list(lines)
        for number, point in zip(places, placed(points, moved), strict=True):
            rest = lines[number].split()[4:]  # a weight or a colour
            new[number] = b" ".join([b"v", number_text(point, 17), *rest])
        kept = (line for line in new if not line.startswith((b"vn ", b"vn\t")))
        return b"\n".join(_CORNER.sub(rb"\1", line) if line.startswith(b"f") else line for line in kept)

    return to_lps(PointFile(points[:, :dimension], rewrite, own, stated))


def read_ply(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of a PLY file, text or binary; normals of points are dropped. See :func:`read_stl`."""
    end = re.search(rb"\bend_header\r?\n", content)
    if not content.startswith(b"ply") or end is None:
        raise RegistrationError(f"{name} is no PLY file, or was cut short")
    own, stated = stated_space(content[: end.end()], system, name)
    lines = content[: end.end()].split(b"\n")
    words = [line.decode("latin-1").split() for line in lines]
    coding = next((line[1] for line in words if line[:1] == ["format"]), "")
    first = next((number for number, line in enumerate(words) if line[:1] == ["element"]), 0)
    last = next(i for i in range(first + 1, len(words)) if words[i][:1] in (["element"], ["end_header"]))
    properties = {words[i][-1]: i for i in range(first, last) if words[i][:1] == ["property"]}
    kinds = [words[number][1] for number in properties.values()]
    if words[first][1:2] != ["vertex"] or not set(_AXES) <= set(properties) or not set(kinds) <= set(_SCALARS):
        raise RegistrationError(f"{name} does not begin with vertices that have x, y and z: save it so")
    order = ">" if coding == "binary_big_endian" else "<"
    kind = np.dtype([(key, order + _SCALARS[each]) for key, each in zip(properties, kinds, strict=True)])
    count, text = int(words[first][2]), coding == "ascii"
    if text:
        body = content[end.end() :].split(b"\n")
        rows = [line.split() for line in body[:count]]
        if len(rows) < count or any(len(row) < len(kinds) for row in rows):
            raise RegistrationError(f"{name} was cut short, it lacks some of its {count} vertices")
        columns = [list(properties).index(axis) for axis in _AXES]
        points = _numbers([[row[column] for column in columns] for row in rows], name)
    else:
        if len(content) < end.end() + count * kind.itemsize:
            raise RegistrationError(f"{name} was cut short, it lacks some of its {count} vertices")
        vertices = np.frombuffer(content, kind, count, end.end()).copy()
        points = np.stack([vertices[axis] for axis in _AXES], axis=-1).astype(float)
    finite(points, name)
    kept = [key for key in properties if key not in ("nx", "ny", "nz")]
    dropped = {number for key, number in properties.items() if key not in kept}
    head = b"\n".join(line for number, line in enumerate(lines) if number not in dropped)

    def rewrite(moved: np.ndarray) -> bytes:
        new = placed(points, moved)
        if text:
            for row, point in zip(rows, new, strict=True):
                for column, value in zip(columns, number_text(point, 17).split(), strict=True):
                    row[column] = value
            keys = list(properties)
            table = [b" ".join(row[keys.index(key)] for key in kept) for row in rows]
            return head + b"\n".join(table + body[count:])
        packed = np.empty(count, np.dtype([(key, kind[key]) for key in kept]))
        for key in kept:
            packed[key] = new[:, _AXES.index(key)] if key in _AXES else vertices[key]
        return head + packed.tobytes() + content[end.end() + count * kind.itemsize :]

    return to_lps(PointFile(points[:, :dimension], rewrite, own, stated))


def _numbers(rows: list, name: str) -> np.ndarray:
    try:
        return np.array([[float(cell) for cell in row] for row in rows]).reshape(-1, 3)
    except ValueError as error:
        raise RegistrationError(f"{name} holds points that are no three numbers ({error})") from error
