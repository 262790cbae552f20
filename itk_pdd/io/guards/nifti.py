"""Headers of NIfTI and Analyze files, and flaws that ITK's reader does not tell: files cut short, NaN, infinity.

The reader leaves the missing part of a short file as the memory was, and sets NaN and infinite voxels to 0.

The header is read here and not with nibabel, which is used for other formats. Every run reads a NIfTI header, and
importing nibabel takes longer than importing SimpleITK. A damaged header has to be seen as it stands, too: nibabel
corrects the number of bits and the place of the voxels in silence.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "ENDINGS",
    "Flaws",
    "Head",
    "Intent",
    "examine_nifti",
    "header_file",
    "missing_bytes",
    "nifti_ending",
    "read_head",
    "read_intent",
    "voxel_file",
]

ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
"""File names of NIfTI and Analyze images: in one file, or a header and its voxels."""

_FLOATS = {16: "f4", 64: "f8"}
_BLOCK = 1 << 22  # bytes read at a time
_LENGTHS = (348, 540)  # bytes of the header of version 1 and of version 2
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile)
# For each version and field: types of its numbers (as struct writes them) and offset in bytes.
_FIELDS: dict[int, dict[str, tuple[str, int]]] = {
    1: {"dim": ("8h", 40), "intent_p1": ("f", 56), "intent_code": ("h", 68), "datatype": ("h", 70), "bitpix": ("h", 72),
        "pixdim": ("8f", 76), "vox_offset": ("f", 108), "scl_slope": ("f", 112), "scl_inter": ("f", 116),
        "xyzt_units": ("B", 123), "qform_code": ("h", 252), "sform_code": ("h", 254), "quaternion": ("6f", 256),
        "srow": ("12f", 280), "intent_name": ("16s", 328), "magic": ("3s", 344)},
    2: {"magic": ("3s", 4), "datatype": ("h", 12), "bitpix": ("h", 14), "dim": ("8q", 16), "intent_p1": ("d", 80),
        "pixdim": ("8d", 104), "vox_offset": ("q", 168), "scl_slope": ("d", 176), "scl_inter": ("d", 184),
        "qform_code": ("i", 344), "sform_code": ("i", 348), "quaternion": ("6d", 352), "srow": ("12d", 400),
        "xyzt_units": ("i", 500), "intent_code": ("i", 504), "intent_name": ("16s", 508)},
}  # fmt: skip


@dataclass(frozen=True)
class Flaws:
    """Hold the faults of a file."""

    missing: int = 0  # bytes it lacks
    not_finite: int = 0  # numbers that are NaN or infinite
    first: tuple[int, ...] = ()  # index (x, y, z, ...) of the first of them


@dataclass(frozen=True)
class Head:
    """The header of a NIfTI or Analyze file."""

    content: bytes  # what the file begins with, 540 bytes or all there are
    order: str  # "<", ">": order of the bytes of a number, as :mod:`struct` writes it
    version: int  # 1 or 2; 1 for Analyze

    def numbers(self, field: str) -> tuple[Any, ...]:
        """Give the numbers of a field, by its name in the standard."""
        return struct.unpack_from(self.order + _FIELDS[self.version][field][0], self.content, self.offset(field))

    def number(self, field: str) -> Any:
        """Give the first number of a field."""
        return self.numbers(field)[0]

    def offset(self, field: str) -> int:
        """Give the place of a field in bytes."""
        return _FIELDS[self.version][field][1]

    @property
    def has_idle_intercept(self) -> bool:
        """Return True for an intercept without a slope: the standard scales nothing then, ITK adds the intercept."""
        slope, intercept = (
            x if math.isfinite(x) else 0.0 for x in (self.number("scl_slope"), self.number("scl_inter"))
        )
        return self.is_nifti and slope == 0 and intercept != 0

    @property
    def is_nifti(self) -> bool:
        """Return True for NIfTI; Analyze has the same fields up to the place of the voxels."""
        return self.number("magic") in (b"n+%d" % self.version, b"ni%d" % self.version)


@dataclass(frozen=True)
class Intent:
    """Hold the intent of a file: the meaning of its numbers, after the header."""

    code: int = 0  # 1007 for vectors
    name: str = ""  # free text; "NREG_TRANS" in NiftyReg's transforms
    parameter: float = 0.0  # the first of the three parameters


@dataclass(frozen=True)
class _Voxels:
    """Hold the place and the type of the voxels."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    bits: int
    floats: str | None

    @property
    def compressed(self) -> bool:
        return self.path.name.lower().endswith(".gz")

    @property
    def size(self) -> int:
        """Bytes up to the last voxel."""
        return self.offset + int(np.prod(self.shape)) * self.bits // 8


def header_file(path: str | os.PathLike[str]) -> Path:
    """Give the file that holds the header: the file itself, or the one beside the voxels of a pair."""
    return _partner(Path(path), ".img", ".hdr")


def voxel_file(path: str | os.PathLike[str]) -> Path:
    """Give the file that holds the voxels: the file itself, or the one beside the header of a pair."""
    return _partner(Path(path), ".hdr", ".img")


def _partner(path: Path, given: str, wanted: str) -> Path:
    ending = nifti_ending(path).lower()
    if not ending.startswith(given):
        return path
    stem = path.name[: -len(ending)]
    wanted = wanted.upper() if path.name.endswith(ending.upper()) else wanted
    packed = ".GZ" if wanted.isupper() else ".gz"
    # A compressed header may have plain voxels, and the other way round.
    order = (packed, "") if ending.endswith(".gz") else ("", packed)
    candidates = [path.with_name(stem + wanted + end) for end in order]
    return next((candidate for candidate in candidates if candidate.exists()), candidates[0])


def nifti_ending(path: str | os.PathLike[str]) -> str:
    """Give the ending of a file of NIfTI or Analyze as it is written, ".nii.gz" in one piece; "" for other files."""
    name = Path(path).name
    ending = next((e for e in sorted(ENDINGS, key=len, reverse=True) if name.lower().endswith(e)), "")
    return name[len(name) - len(ending) :]


def read_head(path: str | os.PathLike[str]) -> Head | None:
    """Read the header of a file, compressed if its name ends in ".gz"; None if it is none or cannot be read."""
    path = header_file(path)
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
    # ITK does not look at the length of a header with this mark: the number of dimensions tells it the order.
    if content[344:347] in (b"n+1", b"ni1"):
        return next((head for head in (Head(content, o, 1) for o in "<>") if 1 <= head.number("dim") <= 7), None)
    return None


def read_intent(path: str | os.PathLike[str]) -> Intent:
    """Read the intent of a NIfTI file of either version; an empty one if the header cannot be read."""
    head = read_head(path)
    if head is None or not head.is_nifti:
        return Intent()
    name = head.number("intent_name").split(b"\0")[0].decode("latin-1")
    return Intent(head.number("intent_code"), name, head.number("intent_p1"))


def examine_nifti(path: str | os.PathLike[str]) -> Flaws:
    """Look for flaws in a NIfTI or Analyze image, also a pair of ``.hdr`` and ``.img``; none are found in other files.

    References
    ----------
    The NIfTI-1 and NIfTI-2 data formats, https://nifti.nimh.nih.gov
    """
    voxels = _voxels(path)
    if voxels is None:
        return Flaws()  # the reader will say what is wrong
    return _walk(voxels) if voxels.floats else Flaws(missing=_missing(voxels))


def missing_bytes(path: str | os.PathLike[str]) -> int:
    """Count the bytes that a file lacks, whatever its voxels are; 0 for what is no NIfTI or Analyze at all."""
    voxels = _voxels(path)
    return 0 if voxels is None else _missing(voxels)


def _missing(voxels: _Voxels) -> int:
    size = _stored_size(voxels.path) if voxels.compressed else voxels.path.stat().st_size
    # A compressed file of several pieces, or one cut short, does not end with its size: decompress it to see.
    if size == voxels.size or not voxels.compressed:
        return max(0, voxels.size - size)
    return _walk(voxels).missing


def _walk(voxels: _Voxels) -> Flaws:
    size = count = 0
    first: tuple[int, ...] = ()
    for block in _blocks(voxels):
        if voxels.floats:
            # Blocks hold whole numbers except at the end of a file cut short; what follows the voxels is no voxel.
            number = np.dtype(voxels.floats)
            usable = min(len(block), voxels.size - voxels.offset - size) // number.itemsize
            bad = ~np.isfinite(np.frombuffer(block, number, max(0, usable)))
            if bad.any():
                if not count:
                    position = size // number.itemsize + int(np.argmax(bad))
                    first = tuple(int(i) for i in np.unravel_index(position, voxels.shape, order="F"))
                count += int(bad.sum())
        size += len(block)
        if size >= voxels.size - voxels.offset:
            break  # what follows is no voxel, however much it is
    return Flaws(max(0, voxels.size - voxels.offset - size), count, first)


def _blocks(voxels: _Voxels) -> Iterator[bytes]:
    """The file from its first voxel on in blocks of the same length, as far as it can be read."""
    with (gzip.open if voxels.compressed else open)(voxels.path, "rb") as file:
        try:
            file.read(voxels.offset)
            while block := file.read(_BLOCK):
                yield block
        except _BROKEN:
            return


def _voxels(path: str | os.PathLike[str]) -> _Voxels | None:
    head, holder = read_head(path), voxel_file(path)
    # A single file that says that its voxels are in another one has none that could be found.
    if head is None or not holder.exists() or (holder == header_file(path)) != (head.number("magic")[:2] == b"n+"):
        return None
    dimensions = head.numbers("dim")
    shape = tuple(max(1, n) for n in dimensions[1 : 1 + dimensions[0]])
    floats = _FLOATS.get(head.number("datatype"))
    # The reader looks for no voxels within the header of a single file.
    offset = max(int(head.number("vox_offset")), _LENGTHS[head.version - 1] if holder == header_file(path) else 0)
    return _Voxels(holder, offset, shape, head.number("bitpix"), floats and head.order + floats)


def _stored_size(path: Path) -> int:
    """Return the uncompressed size that the end of a gzip file states, modulo 2**32."""
    if path.stat().st_size < 4:
        return 0
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return struct.unpack("<I", file.read(4))[0]
