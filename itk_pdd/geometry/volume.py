"""An image as the package computes with it: an array and its grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid

__all__ = ["Volume"]


@dataclass(frozen=True)
class Volume:
    """Voxel values and the grid they lie on."""

    array: np.ndarray  # axes (z,) y, x, contiguous, of any real type (bool for masks, integers for labels)
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise RegistrationError(
                f"the array has shape {self.array.shape} (axes z, y, x) but its grid has shape {self.grid.shape}"
            )
