"""Draw a registration as a small picture: three planes of the fixed image, of the warped one, and of both overlaid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.volume import Volume
from itk_pdd.views.picture import grey_limits, window

__all__ = ["mosaic", "plane_points", "sampled", "thumbnail", "write_jpeg"]

_GAP = 3
_HEIGHT = 112  # pixels along the longest side of a plane
_QUALITY = 80
_PLANES = ((1, 0, False), (2, 0, True), (2, 1, True))
"""Axial, coronal and sagittal: axes of the patient (x, y, z) along the rows and the columns; upside down or not."""


def thumbnail(fixed: Volume, moving: Volume, field: DisplacementField, *, height: int = _HEIGHT) -> np.ndarray:
    """Draw the middle planes of the fixed image, of the warped one, and both overlaid: fixed green, warped magenta.

    Only the voxels of these planes are warped. The result is uint8 (rows, columns, 3), a column for each plane;
    ``height`` is in pixels, of the longest side of a plane.
    """
    planes = plane_points(fixed.grid, height)
    first = [sampled(fixed, points) for points in planes]
    second = [sampled(moving, points + field.at(points, outside="nearest")) for points in planes]
    limits = grey_limits(fixed.array), grey_limits(moving.array)
    grey = [[window(tile, limit) for tile in tiles] for tiles, limit in zip((first, second), limits, strict=True)]
    overlaid = [np.stack([b, a, b], axis=-1) for a, b in zip(*grey, strict=True)]
    return mosaic([*([np.repeat(tile[..., None], 3, axis=-1) for tile in tiles] for tiles in grey), overlaid])


def plane_points(grid: Grid, height: int = _HEIGHT) -> list[np.ndarray]:
    """Return the physical points of the pixels of the middle planes, of equal size along both sides.

    The patient's left is on the right, front or head at the top.
    """
    canonical = grid.canonical()
    size = max(canonical.extent) / height
    steps = np.asarray(canonical.spacing)
    counts = [max(2, round(length / size)) for length in canonical.extent]
    places = [
        np.clip(((np.arange(count) + 0.5) * size / step) - 0.5, 0, n - 1)
        for count, step, n in zip(counts, steps, canonical.size, strict=True)
    ]
    found = []
    for down, across, flipped in _PLANES if grid.dimension == 3 else _PLANES[:1]:
        shape = counts[down], counts[across]
        index = np.broadcast_to((np.asarray(canonical.size) - 1) / 2, (*shape, grid.dimension)).copy()
        index[..., down], index[..., across] = places[down][:, None], places[across][None]
        points = canonical.to_physical(index)
        found.append(points[::-1] if flipped else points)
    return found


def sampled(volume: Volume, points: np.ndarray) -> np.ndarray:
    """Interpolate an image at physical points; the smallest intensity counts outside."""
    from itk_pdd.kernels.interpolation.cpu import sample_linear

    array, index = volume.array.astype(np.float32), volume.grid.to_index(points)
    values = sample_linear(array[..., None], index, outside="nearest")[..., 0]
    return np.where(volume.grid.contains(points), values, array.min())


def mosaic(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Put tiles (rows, columns, 3) of values from 0 to 1 into rows and columns of one picture of uint8."""
    width = max(tile.shape[1] for row in rows for tile in row)
    heights = [max(tile.shape[0] for tile in row) for row in rows]
    page = np.zeros((sum(heights) + _GAP * (len(rows) - 1), (width + _GAP) * len(rows[0]) - _GAP, 3))
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            left = column * (width + _GAP) + (width - tile.shape[1]) // 2
            page[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        top += height + _GAP
    return np.rint(255 * np.clip(page, 0, 1)).astype(np.uint8)


def write_jpeg(picture: np.ndarray, path: Path) -> None:
    """Write a picture (rows, columns, 3) of uint8 to a JPEG file."""
    from PIL import Image

    Image.fromarray(picture).save(path, format="JPEG", quality=_QUALITY)
