"""Compress a file to gzip in several threads, in one member, as every reader of gzip takes it."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["compress_file", "holds"]

_BLOCK = 1 << 22
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no name, no time: the same bytes whenever it is made
_LAST = b"\x03\x00"  # an empty block that ends the stream


def compress_file(source: Path, target: Path, *, threads: int) -> None:
    """Compress a file of floating-point numbers, as many blocks at a time as there are threads.

    Their bits repeat in no longer pattern than a byte's run: looking for others takes three times as long and saves
    nothing.
    """
    checksum = size = 0
    with open(target, "wb") as out, ThreadPoolExecutor(threads) as pool:
        out.write(_HEADER)
        waiting = []
        for block in _blocks(source):
            checksum, size = zlib.crc32(block, checksum), size + len(block)
            waiting.append(pool.submit(_deflated, block))
            if len(waiting) > 2 * threads:
                out.write(waiting.pop(0).result())
        for part in waiting:
            out.write(part.result())
        out.write(_LAST + struct.pack("<II", checksum, size % (1 << 32)))


def holds(compressed: Path, source: Path) -> bool:
    """Return True if a gzip file holds the content of another file."""
    try:
        with gzip.open(compressed, "rb") as file:
            return all(file.read(len(block)) == block for block in _blocks(source)) and not file.read(1)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _deflated(block: bytes) -> bytes:
    """A part of a deflate stream that ends at a whole byte and refers to nothing before it."""
    machine = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return machine.compress(block) + machine.flush(zlib.Z_FULL_FLUSH)
