"""What ITK's NIfTI reader does not tell: files cut short, voxels that are not numbers, and the name of the intent.

The reader leaves the missing part of a short file as the memory was, and sets NaN and infinite voxels to 0.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Flaws", "Intent", "examine_nifti", "read_intent"]

_FLOATS = {16: "f4", 64: "f8"}
_BLOCK = 1 << 22
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Flaws:
    """What is wrong with a file.

    Parameters
    ----------
    missing : int
        Bytes it lacks.
    not_finite : int
        Numbers that are NaN or infinite.
    first : tuple of int
        Index (x, y, z, ...) of the first of them.
    """

    missing: int = 0
    not_finite: int = 0
    first: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Header:
    offset: int
    shape: tuple[int, ...]
    bits: int
    floats: str | None

    @property
    def size(self) -> int:
        """Bytes of header and voxels together."""
        return self.offset + int(np.prod(self.shape)) * self.bits // 8


@dataclass(frozen=True)
class Intent:
    """What the header says the numbers of a file are.

    Parameters
    ----------
    code : int
        1007 for vectors.
    name : str
        Free text; "NREG_TRANS" in NiftyReg's transforms.
    parameter : float
        The first of the three parameters.
    """

    code: int = 0
    name: str = ""
    parameter: float = 0.0


def read_intent(path: str | os.PathLike[str]) -> Intent:
    """The intent of a NIfTI file of either version; an empty one if the header cannot be read."""
    path = Path(path)
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
            header = file.read(540)
    except (OSError, *_BROKEN):
        return Intent()
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(order + "i", header)[0] == 348:
            (parameter,), (code,) = (
                struct.unpack_from(order + "f", header, 56),
                struct.unpack_from(order + "h", header, 68),
            )
            name = header[328:344]
        elif len(header) >= 540 and struct.unpack_from(order + "i", header)[0] == 540:
            (parameter,), (code,) = (
                struct.unpack_from(order + "d", header, 80),
                struct.unpack_from(order + "i", header, 504),
            )
            name = header[508:524]
        else:
            continue
        return Intent(code, name.split(b"\0")[0].decode("latin-1"), parameter)
    return Intent()


def examine_nifti(path: str | os.PathLike[str]) -> Flaws:
    """Look for flaws in a NIfTI file; none are found in what is no single-file NIfTI at all.

    Parameters
    ----------
    path : path-like
        A ``.nii`` or ``.nii.gz`` file.

    References
    ----------
    The NIfTI-1 and NIfTI-2 data formats, https://nifti.nimh.nih.gov
    """
    path = Path(path)
    compressed = path.name.lower().endswith(".gz")
    try:
        with (gzip.open if compressed else open)(path, "rb") as file:
            header = _read_header(file.read(540))
    except _BROKEN:
        return Flaws()  # the reader will say what is wrong
    if header is None:
        return Flaws()
    if not header.floats:
        size = path.stat().st_size if not compressed else _stored_size(path)
        # A compressed file of several pieces, or one cut short, does not end with its size: decompress it to see.
        if size == header.size or not compressed:
            return Flaws(missing=max(0, header.size - size))
    return _walk(path, compressed, header)


def _walk(path: Path, compressed: bool, header: _Header) -> Flaws:
    size = count = 0
    first: tuple[int, ...] = ()
    for block in _blocks(path, compressed, header.offset):
        if header.floats:
            # Blocks hold whole numbers except at the end of a file cut short; what follows the voxels is no voxel.
            number = np.dtype(header.floats)
            usable = min(len(block), header.size - header.offset - size) // number.itemsize
            bad = ~np.isfinite(np.frombuffer(block, number, max(0, usable)))
            if bad.any():
                if not count:
                    position = size // number.itemsize + int(np.argmax(bad))
                    first = tuple(int(i) for i in np.unravel_index(position, header.shape, order="F"))
                count += int(bad.sum())
        size += len(block)
        if size >= header.size - header.offset:
            break  # what follows is no voxel, however much it is
    return Flaws(max(0, header.size - header.offset - size), count, first)


def _blocks(path: Path, compressed: bool, offset: int) -> Iterator[bytes]:
    """The file after its header in blocks of the same length, as far as it can be read."""
    with (gzip.open if compressed else open)(path, "rb") as file:
        try:
            file.read(offset)
            while block := file.read(_BLOCK):
                yield block
        except _BROKEN:
            return


def _read_header(header: bytes) -> _Header | None:
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(order + "i", header)[0] == 348:
            if header[344:347] != b"n+1":
                return None
            dimensions = struct.unpack_from(order + "8h", header, 40)
            kind = struct.unpack_from(order + "2h", header, 70)
            offset = struct.unpack_from(order + "f", header, 108)[0]
        elif len(header) >= 540 and struct.unpack_from(order + "i", header)[0] == 540:
            if header[4:7] != b"n+2":
                return None
            kind = struct.unpack_from(order + "2h", header, 12)
            dimensions = struct.unpack_from(order + "8q", header, 16)
            offset = struct.unpack_from(order + "q", header, 168)[0]
        else:
            continue
        shape = tuple(max(1, n) for n in dimensions[1 : 1 + dimensions[0]])
        floats = _FLOATS.get(kind[0])
        return _Header(int(offset), shape, kind[1], floats and order + floats)
    return None


def _stored_size(path: Path) -> int:
    """What the end of a compressed file says about its size, modulo 2**32."""
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return struct.unpack("<I", file.read(4))[0]
