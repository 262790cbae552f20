"""Estimate the memory of a pair from the headers of its files, before anything is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd import models
from itk_pdd.cohort.listing import Item
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.messages import READ_ERRORS, library_messages
from itk_pdd.solver.engine import DenseModel
from itk_pdd.solver.memory import needs
from itk_pdd.solver.problem import Options
from itk_pdd.solver.working import search_grid

__all__ = ["UNKNOWN", "most_memory", "needed_memory"]

UNKNOWN = 2_500_000_000
"""Bytes of a pair whose files do not tell their size: those of two abdominal scans."""

_PROGRAM = 450_000_000  # bytes of the worker itself: Python, SimpleITK, compiled kernels, Dask
_NETWORK = 500_000_000  # and of torch, where a model has a network
_VOXEL = 20  # bytes for a voxel of both images, as they are read and as they are written


def needed_memory(item: Item, options: dict[str, Any]) -> int:
    """Estimate the bytes that a worker holds while it registers a pair.

    ``options`` has ``model``, ``spacing`` and ``smoothness`` as for :func:`itk_pdd.register`.
    """
    fixed, moving = (_grid(str(item.files.get(side))) for side in ("fixed", "moving"))
    model = _model(str(item.model or options.get("model") or "auto"))
    if fixed is None or moving is None or fixed.dimension != moving.dimension or model is None:
        return UNKNOWN
    # The descent of a combined model takes less than the searches of its PDD network.
    model = getattr(model, "pdd", None) or model
    if not isinstance(model, DenseModel):
        return max(UNKNOWN, int(model.needs(fixed, moving, on_host=True).most) + _PROGRAM + _NETWORK)
    grid = search_grid(fixed, moving, None, model.adjusted(Options(spacing=options.get("spacing"))))
    found = needs(grid, fixed, moving, model, masked="moving_mask" in item.files)
    network = _NETWORK if model.network is not None or model.descriptor is not None else 0
    return int(found.most) + _PROGRAM + network + _VOXEL * (fixed.voxels + moving.voxels) // 2


def most_memory(items: Sequence[Item], options: dict[str, Any]) -> int:
    """Estimate the most bytes that one of the pairs takes, from about forty of them."""
    step = max(1, len(items) // 40)
    return max((needed_memory(item, options) for item in items[::step]), default=UNKNOWN)


@lru_cache(maxsize=64)
def _model(name: str) -> Any:
    try:
        return models.load(name)
    except RegistrationError:
        return None


@lru_cache(maxsize=4096)
def _grid(path: str) -> Grid | None:
    """Read the grid of an image from its header alone; None where that does not tell it."""
    if not os.path.isfile(path) or Path(path).suffix.lower() in (".mgz", ".mgh", ".dcm"):
        return None
    import SimpleITK

    try:
        with library_messages():
            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(path)
            reader.ReadImageInformation()
        size = reader.GetSize()
        flat = len(size) == 3 and size[2] == 1
        dimension = 2 if flat else min(len(size), 3)
        direction = np.reshape(reader.GetDirection(), (len(size), len(size)))[:dimension, :dimension]
        return Grid.create(
            size[:dimension], reader.GetSpacing()[:dimension], reader.GetOrigin()[:dimension],
            np.eye(2) if flat else direction,
        )  # fmt: skip
    except (*READ_ERRORS, RegistrationError):
        return None
