"""Checks of images before they are used: their geometry, and whether they can be registered."""

from __future__ import annotations

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.volume import Volume

__all__ = ["check_geometry", "check_registrable", "check_whole_numbers", "first_index"]

_LARGEST_SKEW = 5e-3  # of direction cosines: headers round them, a shear beyond this is no rounding
_SMALLEST_SPACING_MM = 1e-6  # no microscope resolves less
_LARGEST_RATIO = 1e4  # of two spacings: no axis is sampled so much more densely than another


def check_geometry(grid: Grid, name: str) -> None:
    """Refuse a grid without voxels, with an impossible spacing or origin, or with axes that are not orthogonal."""
    if min(grid.size) < 1:
        raise RegistrationError(f"{name} has no voxels (size {' x '.join(map(str, grid.size))})")
    if not (np.isfinite(grid.spacing).all() and min(grid.spacing) > 0):
        raise RegistrationError(f"{name} has the spacing {grid.spacing} mm (x, y, z), expected positive numbers")
    if min(grid.spacing) < _SMALLEST_SPACING_MM or max(grid.spacing) > _LARGEST_RATIO * min(grid.spacing):
        raise RegistrationError(
            f"{name} has the spacing {grid.spacing} mm (x, y, z), expected {_SMALLEST_SPACING_MM:g} mm or more and "
            f"none {_LARGEST_RATIO:g} times another: correct the header"
        )
    if not np.isfinite(grid.origin).all():
        raise RegistrationError(f"{name} has the origin {grid.origin} mm (x, y, z), expected finite numbers")
    direction = np.asarray(grid.direction)
    skew = np.abs(direction.T @ direction - np.eye(grid.dimension)).max() if np.isfinite(direction).all() else np.inf
    if not skew <= _LARGEST_SKEW:
        rows = "; ".join(" ".join(f"{v:.4g}" for v in row) for row in direction)
        raise RegistrationError(
            f"{name} has the direction matrix [{rows}], expected orthonormal columns: correct the header or resample"
        )


def check_registrable(volume: Volume, name: str) -> None:
    """Refuse an image with an axis of one voxel, without structure, or with NaN, infinite or enormous voxels."""
    thin = [axis for axis, n in zip("xyz", volume.grid.size, strict=False) if n < 2]
    if thin:
        raise RegistrationError(
            f"{name} has one voxel only along {' and '.join(thin)} ({volume.grid}), expected two or more along "
            "each axis: give a 2-D image for a single slice, or the folder for one file of a DICOM series"
        )
    array = volume.array
    if np.issubdtype(array.dtype, np.floating):
        # The sum is finite unless some voxel is not (or it overflows): one fast pass decides in the usual case.
        with np.errstate(all="ignore"):
            suspicious = not np.isfinite(array.sum(dtype=np.float64))
        if suspicious and (bad := ~np.isfinite(array)).any():
            raise RegistrationError(
                f"{name} has {int(bad.sum())} NaN or infinite voxels, the first at index {first_index(bad)} "
                "(x, y, z), expected finite numbers: replace them"
            )
    low, high = array.min(), array.max()
    if low == high:
        raise RegistrationError(f"{name} is constant (every voxel is {low:g}), expected an image with structure")
    largest = float(np.finfo(np.float32).max)
    if float(high) > largest or float(low) < -largest:
        raise RegistrationError(
            f"{name} has values from {low:g} to {high:g}, expected them within single precision: rescale them"
        )


def check_whole_numbers(array: np.ndarray, name: str) -> None:
    """Refuse voxels of a label image that are fractions, NaN or infinite."""
    if not np.issubdtype(array.dtype, np.floating):
        return
    with np.errstate(invalid="ignore"):
        odd = ~(np.isfinite(array) & (array == np.rint(array)))
    if odd.any():
        raise RegistrationError(
            f"{name} is no label image: voxel {first_index(odd)} is {array[odd][0]:g}, expected whole numbers"
        )


def first_index(where: np.ndarray) -> tuple[int, ...]:
    """Index (x, y, z) of the first True voxel."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape)[::-1])
