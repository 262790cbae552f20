"""Surfaces in VTK's XML files (.vtp): the points are replaced, normals dropped, all else stays as it was."""

from __future__ import annotations

import base64
import lzma
import re
import zlib
from collections.abc import Callable

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.formats.pointfile import PointFile, finite, number_text, placed, stated_space, to_lps

__all__ = ["read_vtp"]

_POINTS = re.compile(rb"<Points\b[^>]*>\s*(<DataArray\b[^>]*?(?:/>|>(.*?)</DataArray>))\s*</Points>", re.DOTALL)
_ATTRIBUTE = re.compile(rb"([\w:]+)\s*=\s*[\"']([^\"']*)[\"']")
_NORMALS = re.compile(rb"<DataArray\b[^>]*\bName=[\"']Normals[\"'][^>]*?(?:/>|>.*?</DataArray>)\s*", re.DOTALL)
_NAMED = re.compile(rb"\s+Normals=[\"']Normals[\"']")
_DECOMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"vtkZLibDataCompressor": zlib.decompress,
    b"vtkLZMADataCompressor": lzma.decompress,
}


def read_vtp(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of a .vtp file: text, base64 or appended, compressed or not; they are written as text.

    The system is ``system``, else what 3D Slicer's "SPACE=" in a comment says, else LPS. In 2-D z is left alone.
    """
    markup, marker, appended = content.partition(b"<AppendedData")
    root = re.search(rb"<VTKFile\b[^>]*>", markup)
    if root is None or b"<PolyData" not in markup:
        raise RegistrationError(f"{name} is no surface in VTK's XML format (PolyData)")
    own, stated = stated_space(content[:1024], system, name)
    found = list(_POINTS.finditer(markup))
    try:
        arrays = [_decoded(match, dict(_ATTRIBUTE.findall(root[0])), appended) for match in found]
    except (ValueError, KeyError, IndexError, zlib.error, lzma.LZMAError) as error:
        raise RegistrationError(f"{name}: its points cannot be read ({error})") from error
    points = np.concatenate([*arrays, np.empty((0, 3))])
    finite(points, name)

    def rewrite(moved: np.ndarray) -> bytes:
        new = placed(points, moved)
        parts, position, start = [], 0, 0
        for match, array in zip(found, arrays, strict=True):
            kind = dict(_ATTRIBUTE.findall(match[1].partition(b">")[0]))[b"type"]
            rows = b"\n".join(
                number_text(point, 9 if kind == b"Float32" else 17) for point in new[start:][: len(array)]
            )
            element = b'<DataArray type="%s" Name="Points" NumberOfComponents="3" format="ascii">\n' % kind
            parts += [markup[position : match.start(1)], element, rows, b"\n</DataArray>"]
            position, start = match.end(1), start + len(array)
        text = b"".join([*parts, markup[position:]])
        return _NAMED.sub(b"", _NORMALS.sub(b"", text)) + marker + appended

    return to_lps(PointFile(points[:, :dimension], rewrite, own, stated))


def _decoded(match: re.Match[bytes], root: dict[bytes, bytes], appended: bytes) -> np.ndarray:
    """Decode the points of one piece."""
    attributes, text = dict(_ATTRIBUTE.findall(match[1].partition(b">")[0])), match[2] or b""
    order = ">" if root.get(b"byte_order") == b"BigEndian" else "<"
    kind = np.dtype(order + {b"Float32": "f4", b"Float64": "f8"}[attributes[b"type"]])
    form = attributes.get(b"format", b"ascii")
    if form == b"ascii":
        return np.array(text.split(), float).reshape(-1, 3)
    header = np.dtype(order + {b"UInt32": "u4", b"UInt64": "u8"}[root.get(b"header_type", b"UInt32")])
    raw = False
    if form == b"appended":
        head, _, body = appended.partition(b">")
        raw = b"raw" in head
        text = body[body.index(b"_") + 1 + int(attributes[b"offset"]) :]
    else:
        text = b"".join(text.split())
    name = root.get(b"compressor")
    data = _uncompressed(text, header, raw) if name is None else _compressed(text, header, raw, _DECOMPRESSORS[name])
    return np.frombuffer(data, kind).reshape(-1, 3).astype(float)


def _uncompressed(text: bytes, header: np.dtype, raw: bool) -> bytes:
    if raw:
        size = int(np.frombuffer(text, header, 1)[0])
        return text[header.itemsize :][:size]
    size = int(np.frombuffer(_base64(text, header.itemsize), header, 1)[0])
    letters = 4 * -(-header.itemsize // 3)
    # Some programs encode the size by itself, which then ends with "=".
    if text[letters - 1 : letters] == b"=":
        return _base64(text[letters:], size)
    return _base64(text, header.itemsize + size)[header.itemsize :]


def _compressed(text: bytes, header: np.dtype, raw: bool, decompress: Callable[[bytes], bytes]) -> bytes:
    take = (lambda data, count: data[:count]) if raw else _base64
    blocks = int(np.frombuffer(take(text, header.itemsize), header, 1)[0])
    length = (3 + blocks) * header.itemsize
    sizes = np.frombuffer(take(text, length), header, 3 + blocks)[3:]
    data = take(text[length if raw else 4 * -(-length // 3) :], int(sizes.sum()))
    ends = np.cumsum(sizes).astype(int)
    return b"".join(decompress(data[end - int(size) : end]) for end, size in zip(ends, sizes, strict=True))


def _base64(text: bytes, count: int) -> bytes:
    """Decode the first ``count`` bytes."""
    return base64.b64decode(text[: 4 * -(-count // 3)])[:count]
