"""Count the transforms in a file: ITK's readers give the first one and drop the others, unless it is a composite."""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

__all__ = ["loose_transforms"]

_TEXT = re.compile(rb"^[ \t]*Transform:[ \t]*(\w+)", re.MULTILINE)
_GROUP = b"TransformType"  # name of a data set that each transform has in HDF5
_MATLAB = struct.Struct("5i")  # type, rows, columns, imaginary part, length of the name
_BYTES = (8, 4, 4, 2, 2, 1)  # of a number, by the type of a matrix of MATLAB


def loose_transforms(path: Path, kind: str) -> int:
    """Count the transforms of a file that holds several and no composite around them; 0 for other files.

    ``kind`` is its extension: .h5, .hdf5, .mat, or else text.
    """
    if path.stat().st_size == 0:
        return 0
    if kind in (".h5", ".hdf5"):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"CompositeTransform_") >= 0:
                return 0
            count, place = 0, content.find(_GROUP)
            while place >= 0:
                count, place = count + 1, content.find(_GROUP, place + 1)
        return count if count > 1 else 0
    names = _matlab_names(path) if kind == ".mat" else [found.decode() for found in _TEXT.findall(path.read_bytes())]
    return len(names) if len(names) > 1 and not names[0].startswith("CompositeTransform") else 0


def _matlab_names(path: Path) -> list[str]:
    """List the names of the matrices that hold parameters in a MATLAB file of version 4, as ITK writes them."""
    content, place, names = path.read_bytes(), 0, []
    while place + _MATLAB.size <= len(content):
        kind, rows, columns, _, length = _MATLAB.unpack_from(content, place)
        digit = kind // 10 % 10
        if not (0 <= kind < 5000 and digit < len(_BYTES) and 0 <= length < 256 and min(rows, columns) >= 0):
            break  # the reader will say what is wrong
        name = content[place + _MATLAB.size : place + _MATLAB.size + length].split(b"\0")[0].decode("latin-1")
        if name.casefold() != "fixed":
            names.append(name)
        place += _MATLAB.size + length + rows * columns * _BYTES[digit]
    return names
