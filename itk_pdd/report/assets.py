"""Arrays inside a page: compressed and written as text, which a script of the page unpacks."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Assets"]


@dataclass
class Assets:
    """The arrays of one page, collected as it is built."""

    texts: list[str] = field(default_factory=list)

    def add(self, array: np.ndarray) -> dict[str, Any]:
        """Add an array of uint8 or uint16 (little-endian in the page) and return its description for the script."""
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return {"id": self._add(little.tobytes()), "type": array.dtype.name, "shape": list(array.shape)}

    def add_field(self, nodes: np.ndarray) -> dict[str, Any]:
        """Add displacements (z, y, x, dim) in millimetres, as 16-bit whole numbers.

        Each component stores the differences along x (modulo 65536), all low bytes first, then the high bytes:
        neighbours differ little, and the text is half as long.
        """
        unit = max(float(np.abs(nodes).max()) / 32000, 1e-3)
        whole = np.rint(np.moveaxis(nodes, -1, 0) / unit).astype(np.int16)
        steps = np.diff(whole, axis=-1, prepend=np.int16(0)).astype(np.int16).view(np.uint16).ravel()
        content = (steps & 255).astype(np.uint8).tobytes() + (steps >> 8).astype(np.uint8).tobytes()
        return {"id": self._add(content), "type": "field", "shape": list(whole.shape), "unit": unit}

    def _add(self, content: bytes) -> int:
        # mtime=0: the time of writing would make every page different.
        self.texts.append(base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii"))
        return len(self.texts) - 1
