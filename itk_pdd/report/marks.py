"""Landmarks on the page of a registration: small discs among the labels, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.volume import Volume
from itk_pdd.guidance.landmarks import LandmarkError
from itk_pdd.report.page import Cell, Table

__all__ = ["Marks"]

_RADIUS_VOXELS = 2.5
_MOST_ROWS = 200


@dataclass(frozen=True)
class Marks:
    """Landmarks of both images, and what came of them."""

    # positions (n, dim) in physical millimetres
    fixed: np.ndarray
    moving: np.ndarray
    found: Sequence[LandmarkError]  # how far each was off

    def on_fixed(self, labels: Volume | None, grid: Grid) -> Volume:
        """Draw the landmarks of the fixed image among its labels."""
        return _drawn(labels, grid, self.fixed)

    def on_warped(self, labels: Volume | None, field: DisplacementField) -> Volume:
        """Draw the landmarks of the moving image where a field carries them, to first order, among its labels."""
        error = self.moving - self.fixed - field.at(self.fixed, outside="nearest")
        return _drawn(labels, field.grid, self.fixed + error)

    def table(self) -> Table:
        """List the landmarks, those that are farthest off first."""
        worst = sorted(self.found, key=lambda each: (not each.ignored, -each.after))[:_MOST_ROWS]
        rows = [(each, [Cell(f"{mm:.2f}", mm) for mm in (each.before, each.after)]) for each in worst]
        obeyed = [each for each in self.found if not each.ignored]
        caption = "No landmark was obeyed."
        if obeyed:
            before, after = (np.mean([getattr(each, when) for each in obeyed]) for when in ("before", "after"))
            caption = f"{len(obeyed)} of {len(self.found)} were obeyed: {before:.2f} mm off before, {after:.2f} after "
            caption = f"{caption}(mean). They are drawn as discs among the labels."
        return Table(
            ("Landmark", "Before, mm", "After, mm", "Not obeyed because"),
            [(each.name, *cells, each.ignored) for each, cells in rows],
            caption,
            words=(0, 3),
        )


def _drawn(labels: Volume | None, grid: Grid, points: np.ndarray) -> Volume:
    array = np.zeros(grid.shape, np.int32) if labels is None else labels.array.astype(np.int32)
    number, radius = int(array.max()) + 1, _RADIUS_VOXELS * min(grid.spacing)
    reach = np.ceil(radius / np.asarray(grid.spacing)).astype(int)
    for point, index in zip(points, np.rint(grid.to_index(points)).astype(int), strict=True):
        low = np.maximum(index - reach, 0)
        high = np.minimum(index + reach + 1, grid.size)
        if (high > low).all():
            near = grid.padded(-low, high - np.asarray(grid.size)).points()
            part = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
            array[part][np.linalg.norm(near - point, axis=-1) <= radius] = number
    return Volume(array, grid)
