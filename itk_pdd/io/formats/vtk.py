"""Meshes and point sets in VTK's legacy files, text or binary: the points are replaced, all else stays as it was."""

from __future__ import annotations

import itertools
import re

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.io.formats.pointfile import PointFile, finite, number_text, placed, stated_space, to_lps

__all__ = ["read_vtk"]

_POINTS = re.compile(rb"^[ \t]*POINTS[ \t]+(\d+)[ \t]+(\w+)[ \t]*\r?\n", re.MULTILINE | re.IGNORECASE)
_TYPES = {b"float": ">f4", b"double": ">f8"}


def read_vtk(content: bytes, dimension: int, system: str | None, name: str) -> PointFile:
    """Read the points of a legacy VTK file (POLYDATA, UNSTRUCTURED_GRID, STRUCTURED_GRID).

    The system is ``system``, else what 3D Slicer's "SPACE=" in the title says, else LPS. In 2-D z is left alone.
    """
    lines = content[:2048].split(b"\n", 3)
    if len(lines) < 4 or not lines[0].startswith(b"# vtk DataFile") or b"POINTS" not in content:
        raise RegistrationError(f"{name} is no legacy VTK file with points: save it as one (.vtk), text or binary")
    own, stated = stated_space(lines[1], system, name)
    coding, match = lines[2].strip().upper(), _POINTS.search(content)
    if match is None or coding not in (b"ASCII", b"BINARY") or match[2].lower() not in _TYPES:
        raise RegistrationError(f"{name}: the section POINTS cannot be read, expected float or double numbers")
    if int(match[1]) > len(content):
        raise RegistrationError(f"{name}: POINTS does not hold the {3 * int(match[1])} numbers it announces")
    count, number = int(match[1]), np.dtype(_TYPES[match[2].lower()])
    if coding == b"BINARY":
        end = match.end() + 3 * count * number.itemsize
        if end > len(content):
            raise RegistrationError(f"{name} was cut short, it lacks {end - len(content)} bytes of points")
        positions = np.frombuffer(content[match.end() : end], number).reshape(-1, 3).astype(float)
    else:
        tokens = list(itertools.islice(re.finditer(rb"\S+", content[match.end() :]), 3 * count))
        try:
            positions = np.array([float(token[0]) for token in tokens]).reshape(count, 3)
        except ValueError as error:
            raise RegistrationError(f"{name}: POINTS does not hold the {3 * count} numbers it announces") from error
        end = match.end() + (tokens[-1].end() if tokens else 0)
    finite(positions, name)
    if b"\nNORMALS " in content:
        warn(f"{name} holds normals, which stay as they were: compute them again")

    def rewrite(moved: np.ndarray) -> bytes:
        new = placed(positions, moved)
        if coding == b"BINARY":
            body = new.astype(number).tobytes()
        else:
            digits = 9 if number.itemsize == 4 else 17
            body = b"\n".join(number_text(row, digits) for row in new)
        return content[: match.end()] + body + content[end:]

    return to_lps(PointFile(positions[:, :dimension], rewrite, own, stated))
