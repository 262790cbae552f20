"""Ways to damage a file: by its bytes, by the fields of its header, by the numbers in its text."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import struct
from collections.abc import Callable

import numpy as np

Files = dict[str, bytes]

EXTREMES = ("-1", "0", "1", "2", "-0.0", "nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "65536", "2147483647",
            "2147483648", "4294967296", "99999999999999999999", "", "abc", "1,5", "0x10", "null", "true", "[]", "{}",
            '"x"', "None", "\x00", "../../etc/passwd", "é")  # fmt: skip
# Offset and struct code of the fields of a NIfTI-1 header.
NIFTI = [(0, "i"), *[(40 + 2 * i, "h") for i in range(8)], (56, "f"), (60, "f"), (64, "f"), (68, "h"), (70, "h"),
         (72, "h"), (74, "h"), *[(76 + 4 * i, "f") for i in range(8)], (108, "f"), (112, "f"), (116, "f"), (123, "B"),
         (252, "h"), (254, "h"), *[(256 + 4 * i, "f") for i in range(18)], (344, "i")]  # fmt: skip
_NUMBERS = {
    "h": (-32768, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 256, 512, 768, 1024, 1007, 1792, 2304, 32767),
    "i": (-(2**31), -1, 0, 347, 540, 2**31 - 1, 0x5C010000),
    "B": (0, 1, 2, 3, 7, 8, 255),
    "f": (0.0, -1.0, 1.0, 0.5, 348.0, 352.0, 351.0, -352.0, 1e30, -1e30, 1e-30, 3e38, 1e-45, float("nan"),
          float("inf"), float("-inf")),
}  # fmt: skip


class Payload:
    """What a file must not be able to do: unpickling this one writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def damaged(files: Files, rng: np.random.Generator, *, trap: str) -> tuple[Files, str]:
    """Damage one of the files, mostly once.

    Parameters
    ----------
    files : dict of str to bytes
        A specimen.
    rng : numpy.random.Generator
        Decides what happens.
    trap : str
        A path that only code hidden in a file would write to.

    Returns
    -------
    dict, str
        The files, and what was done.
    """
    files, told = dict(files), []
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        name = str(rng.choice(sorted(files)))
        ways = [bits, bits, junk, cut, grown, zeroed, removed, repeated, text_number, text_number]
        if name.endswith((".nii", ".nii.gz", ".hdr")):
            ways += [nifti_field] * 10
        if name.endswith(".nii.gz"):
            ways += [bomb, inside, inside]
        if name.endswith(("safetensors", ".json")):
            ways += [lambda content, rng, trap=trap: pickled(trap)]
        if name.endswith((".json", ".csv", ".fcsv", ".txt", ".tfm", ".vtk", ".mha", ".mhd", ".nrrd", ".nhdr")):
            ways += [text_number] * 6 + [line_lost, line_twice]
        way = ways[int(rng.integers(len(ways)))]
        content = files[name]
        if way is nifti_field and name.endswith(".gz"):
            files[name] = _within(content, rng, nifti_field)
        else:
            files[name] = way(content, rng)
        told.append(f"{getattr(way, '__name__', 'way')} of {name}")
    return files, ", ".join(told)


def bits(content: bytes, rng: np.random.Generator) -> bytes:
    """One to eight bits turned over, mostly in the head of the file."""
    out = bytearray(content)
    for _ in range(int(rng.integers(1, 9)) if out else 0):
        end = min(len(out), 512) if rng.random() < 0.7 else len(out)
        out[int(rng.integers(end))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def junk(content: bytes, rng: np.random.Generator) -> bytes:
    """Random bytes over a stretch."""
    start, length = _stretch(content, rng)
    return content[:start] + rng.bytes(length) + content[start + length :]


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    """Zeros over a stretch."""
    start, length = _stretch(content, rng)
    return content[:start] + bytes(length) + content[start + length :]


def removed(content: bytes, rng: np.random.Generator) -> bytes:
    """A stretch taken out."""
    start, length = _stretch(content, rng)
    return content[:start] + content[start + length :]


def repeated(content: bytes, rng: np.random.Generator) -> bytes:
    """A stretch twice."""
    start, length = _stretch(content, rng)
    return content[: start + length] + content[start:]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """The end missing, down to nothing."""
    return content[: int(rng.integers(len(content) + 1) * rng.choice([0, 1, 1, 1, 1]))]


def grown(content: bytes, rng: np.random.Generator) -> bytes:
    """Something more at the end."""
    return content + rng.bytes(int(rng.integers(1, 2000)))


def text_number(content: bytes, rng: np.random.Generator) -> bytes:
    """A number in the text replaced by one that nobody expects, or by none."""
    places = list(re.finditer(rb"(?<![\w.])[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?(?![\w.])", content[:8000]))
    if not places:
        return bits(content, rng)
    place = places[int(rng.integers(len(places)))]
    return content[: place.start()] + str(rng.choice(EXTREMES)).encode() + content[place.end() :]


def line_lost(content: bytes, rng: np.random.Generator) -> bytes:
    """A line taken out."""
    lines = content.split(b"\n")
    del lines[int(rng.integers(len(lines)))]
    return b"\n".join(lines)


def line_twice(content: bytes, rng: np.random.Generator) -> bytes:
    """A line twice."""
    lines = content.split(b"\n")
    place = int(rng.integers(len(lines)))
    return b"\n".join([*lines[: place + 1], *lines[place:]])


def nifti_field(content: bytes, rng: np.random.Generator) -> bytes:
    """A field of a NIfTI header set to an extreme, or to any other value."""
    offset, code = NIFTI[int(rng.integers(len(NIFTI)))]
    width = struct.calcsize(code)
    value = struct.pack("<" + code, rng.choice(_NUMBERS[code]).item()) if rng.random() < 0.8 else rng.bytes(width)
    return content[:offset] + value + content[offset + width :]


def inside(content: bytes, rng: np.random.Generator) -> bytes:
    """The content of a .gz damaged, and well compressed again."""
    ways: list[Callable] = [bits, junk, cut, grown, zeroed, removed, repeated]
    return _within(content, rng, ways[int(rng.integers(len(ways)))])


def bomb(content: bytes, rng: np.random.Generator) -> bytes:
    """A small .gz that unpacks to 100 MB; in half of them the header asks for that much, or for much more."""
    plain = bytearray(_unpacked(content))
    if rng.random() < 0.5 and len(plain) >= 48:
        struct.pack_into("<3h", plain, 42, *[int(n) for n in rng.choice([300, 1000, 30000], 3)])
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as file:
        file.write(plain)
        for _ in range(100):
            file.write(bytes(1 << 20))
    return stream.getvalue()


def pickled(trap: str) -> bytes:
    """A pickle that would write the trap."""
    return pickle.dumps(Payload(trap))


def _within(content: bytes, rng: np.random.Generator, way: Callable) -> bytes:
    return gzip.compress(way(_unpacked(content), rng), 1)


def _unpacked(content: bytes) -> bytes:
    try:
        return gzip.decompress(content)[: 1 << 20]
    except Exception:  # damaged before
        return content


def _stretch(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(len(content) + 1)) if rng.random() < 0.5 else int(rng.integers(min(400, len(content)) + 1))
    return start, min(int(rng.integers(1, 64)), len(content) - start)
