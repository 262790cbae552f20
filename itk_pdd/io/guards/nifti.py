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
from typing import Any

import numpy as np

__all__ = ["Flaws", "Head", "Intent", "examine_nifti", "missing_bytes", "read_head", "read_intent"]

_FLOATS = {16: "f4", 64: "f8"}
_BLOCK = 1 << 22
_LENGTHS = (348, 540)  # bytes of the header of version 1 and of version 2
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
class Head:
    """The header of a NIfTI file.

    Parameters
    ----------
    content : bytes
        What the file begins with, 540 bytes or all there are.
    order : {"<", ">"}
        Order of the bytes of a number, as :mod:`struct` writes it.
    version : int
        1 or 2.
    """

    content: bytes
    order: str
    version: int

    def numbers(self, code: str, offset: int) -> tuple[Any, ...]:
        """The numbers of the types ``code`` (see :mod:`struct`) from a byte on."""
        return struct.unpack_from(self.order + code, self.content, offset)


@dataclass(frozen=True)
class _Voxels:
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


def read_head(path: str | os.PathLike[str]) -> Head | None:
    """The header of a file, compressed if its name ends in ".gz"; None if it is none of NIfTI's or cannot be read."""
    path = Path(path)
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
            content = file.read(max(_LENGTHS))
    except (OSError, *_BROKEN):
        return None
    # A header begins with its length, which tells the order of the bytes and the version.
    for order in "<>":
        for version, length in enumerate(_LENGTHS, start=1):
            if len(content) >= length and struct.unpack_from(order + "i", content)[0] == length:
                return Head(content, order, version)
    return None


def read_intent(path: str | os.PathLike[str]) -> Intent:
    """The intent of a NIfTI file of either version; an empty one if the header cannot be read."""
    head = read_head(path)
    if head is None:
        return Intent()
    if head.version == 1:
        (parameter,), (code,), name = head.numbers("f", 56), head.numbers("h", 68), head.content[328:344]
    else:
        (parameter,), (code,), name = head.numbers("d", 80), head.numbers("i", 504), head.content[508:524]
    return Intent(code, name.split(b"\0")[0].decode("latin-1"), parameter)


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
    header = _voxels(read_head(path))
    if header is None:
        return Flaws()  # the reader will say what is wrong
    return _walk(path, compressed, header) if header.floats else Flaws(missing=_missing(path, compressed, header))


def missing_bytes(path: str | os.PathLike[str]) -> int:
    """How many bytes a NIfTI file lacks, whatever its voxels are; 0 for what is no single-file NIfTI at all."""
    path = Path(path)
    header = _voxels(read_head(path))
    return 0 if header is None else _missing(path, path.name.lower().endswith(".gz"), header)


def _missing(path: Path, compressed: bool, header: _Voxels) -> int:
    size = path.stat().st_size if not compressed else _stored_size(path)
    # A compressed file of several pieces, or one cut short, does not end with its size: decompress it to see.
    if size == header.size or not compressed:
        return max(0, header.size - size)
    return _walk(path, compressed, header).missing


def _walk(path: Path, compressed: bool, header: _Voxels) -> Flaws:
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


def _voxels(head: Head | None) -> _Voxels | None:
    """Where and what the voxels are, of a file that holds them beside its header."""
    if head is None:
        return None
    if head.version == 1:
        magic, dimensions = head.content[344:347], head.numbers("8h", 40)
        kind, offset = head.numbers("2h", 70), head.numbers("f", 108)[0]
    else:
        magic, dimensions = head.content[4:7], head.numbers("8q", 16)
        kind, offset = head.numbers("2h", 12), head.numbers("q", 168)[0]
    if magic != b"n+%d" % head.version:
        return None
    shape = tuple(max(1, n) for n in dimensions[1 : 1 + dimensions[0]])
    floats = _FLOATS.get(kind[0])
    return _Voxels(int(offset), shape, kind[1], floats and head.order + floats)


def _stored_size(path: Path) -> int:
    """What the end of a compressed file says about its size, modulo 2**32."""
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return struct.unpack("<I", file.read(4))[0]
