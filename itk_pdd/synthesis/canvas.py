"""A canvas on which anatomies are painted, one organ over the other, at arbitrary points.

Organs are *levels*: approximate signed distances to their surface, negative inside. As they are evaluated at points
and not on a raster, the same anatomy can be painted undeformed and deformed without any resampling of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Canvas", "TissueMap", "smooth_path"]

Region = tuple[slice, ...]
_OUTSIDE = np.float32(1e3)


@dataclass(frozen=True)
class TissueMap:
    """Tissue of each voxel, the runner-up and its share of the voxel (partial volume).

    Parameters
    ----------
    labels : numpy.ndarray
        uint8 label of the tissue that fills most of the voxel, axes (z,) y, x.
    second : numpy.ndarray
        uint8 label of the tissue that fills the rest.
    share : numpy.ndarray
        float32 share of the second tissue, 0 to 0.5.
    texture : numpy.ndarray or None
        float32 noise (scales, (z,) y, x) that sticks to the tissue, fine to coarse; None where there is none.
    """

    labels: np.ndarray
    second: np.ndarray
    share: np.ndarray
    texture: np.ndarray | None = None

    @classmethod
    def from_labels(cls, labels: np.ndarray) -> TissueMap:
        """Take a label array as it is, every voxel filled by one tissue."""
        return cls(labels, labels, np.zeros(labels.shape, dtype=np.float32))


class Canvas:
    """Points to paint on: float32 arrays of x, y and z, of one shape (z,) y, x, in the painter's units.

    ``width`` is the size of a voxel in these units: the width over which one tissue gives way to the next.
    """

    def __init__(self, coordinates: Sequence[np.ndarray], width: float) -> None:
        self.coordinates = tuple(coordinates)
        self.width = width
        shape = self.coordinates[0].shape
        self.labels = np.zeros(shape, dtype=np.uint8)
        self.second = np.zeros(shape, dtype=np.uint8)
        self.share = np.zeros(shape, dtype=np.float32)
        # Range of each coordinate over the planes of each array axis: finds the part of the array that can touch a box.
        self._ranges = []
        for axis in range(len(shape)):
            others = tuple(a for a in range(len(shape)) if a != axis)
            lowest = np.stack([c.min(axis=others) for c in self.coordinates])
            highest = np.stack([c.max(axis=others) for c in self.coordinates])
            self._ranges.append((lowest, highest))

    @property
    def everywhere(self) -> Region:
        """Return the region of all points."""
        return tuple(slice(0, n) for n in self.labels.shape)

    def region(self, lower: Sequence[float], upper: Sequence[float]) -> Region | None:
        """Find the smallest block of the arrays that holds all points of a box; None if there is no point in it."""
        lower = np.asarray(lower)[:, None] - self.width
        upper = np.asarray(upper)[:, None] + self.width
        slices = []
        for lowest, highest in self._ranges:
            planes = np.flatnonzero(((highest >= lower) & (lowest <= upper)).all(axis=0))
            if not len(planes):
                return None
            slices.append(slice(int(planes[0]), int(planes[-1]) + 1))
        return tuple(slices)

    def at(self, region: Region) -> tuple[np.ndarray, ...]:
        """Return the coordinates x, y, z of a region."""
        return tuple(c[region] for c in self.coordinates)

    def paint(
        self, label: int, level: np.ndarray, region: Region | None = None, *, over: Sequence[int] | None = None
    ) -> None:
        """Cover the points of a region (by default all) where ``level`` is negative with a tissue.

        ``level`` is the signed distance to its surface in the painter's units; ``over`` names the only tissues that may
        be covered.
        """
        region = self.everywhere if region is None else region
        touched = level < 0.5 * self.width
        if over is not None:
            allowed = np.zeros(256, dtype=bool)
            allowed[list(over)] = True
            touched &= allowed[self.labels[region]]
        labels, second, share = self.labels[region], self.second[region], self.share[region]
        cover = np.clip(0.5 - level[touched] / self.width, 0, 1).astype(np.float32)
        old, old_second, old_share = labels[touched], second[touched], share[touched]
        same = old == label
        wins = cover >= 0.5
        runner_up = ~wins & ~same & (cover > old_share)
        labels[touched] = np.where(wins, label, old)
        second[touched] = np.where(wins & ~same, old, np.where(runner_up, label, old_second))
        share[touched] = np.where(
            wins, np.where(same, np.minimum(old_share, 1 - cover), 1 - cover), np.where(runner_up, cover, old_share)
        )

    def ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        rotation: np.ndarray | None = None,
        *,
        exponent: float = 2.0,
        margin: float = 0.0,
    ) -> tuple[np.ndarray, Region] | None:
        """Level of a (super)ellipsoid and the region it may touch; None where it misses the canvas.

        ``radii`` are the half axes, along the columns of ``rotation``; an ``exponent`` above 2 makes a rounder box. The
        surface may be moved outwards by ``margin`` afterwards.
        """
        radii = np.asarray(radii, dtype=float)
        rotation = np.eye(3) if rotation is None else rotation
        # A superellipsoid reaches past the box of its ellipsoid when turned.
        reach = np.abs(rotation) @ radii if exponent > 2 else np.sqrt(rotation**2 @ radii**2)
        region = self.region(np.asarray(centre) - reach - margin, np.asarray(centre) + reach + margin)
        if region is None:
            return None
        offsets = [c - np.float32(m) for c, m in zip(self.at(region), centre, strict=True)]
        total: np.ndarray | float = 0.0
        slope: np.ndarray | float = 0.0
        for axis in range(3):
            along = sum(offsets[i] * np.float32(rotation[i, axis] / radii[axis]) for i in range(3))
            power = along * along if exponent == 2 else np.abs(along) ** np.float32(exponent)
            total = total + power
            slope = slope + power * power / np.maximum(along * along, 1e-6) / np.float32(radii[axis] ** 2)
        norm = np.maximum(total, 1e-6) ** np.float32(1 / exponent)
        # Distance to first order: the value of the norm over the length of its gradient.
        gradient = np.sqrt(slope) * norm ** np.float32(1 - exponent)
        return (norm - 1) / np.maximum(gradient, np.float32(1 / radii.max())), region

    def tube(
        self, path: np.ndarray, radii: np.ndarray | float, *, margin: float = 0.0
    ) -> tuple[np.ndarray, Region] | None:
        """Level of a tube along a polyline (n, 3) and the region it may touch; None where it misses the canvas.

        ``radii`` is the radius at each point of the path. The surface may be moved outwards by ``margin`` afterwards.
        """
        radii = np.broadcast_to(np.asarray(radii, dtype=float), len(path))
        reach = radii.max() + margin
        region = self.region(path.min(axis=0) - reach, path.max(axis=0) + reach)
        if region is None:
            return None
        level = np.full([s.stop - s.start for s in region], _OUTSIDE, dtype=np.float32)
        for a, b, first, last in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
            reach = max(first, last) + margin
            part = self.region(np.minimum(a, b) - reach, np.maximum(a, b) + reach)
            if part is None:
                continue
            within = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))
            level[within] = np.minimum(level[within], self._capsule(part, a, b, first, last))
        return level, region

    def _capsule(self, region: Region, a: np.ndarray, b: np.ndarray, first: float, last: float) -> np.ndarray:
        offsets = [c - np.float32(m) for c, m in zip(self.at(region), a, strict=True)]
        axis = (b - a).astype(np.float32)
        length = max(float(axis @ axis), 1e-12)
        t = np.clip(sum(o * d for o, d in zip(offsets, axis / length, strict=True)), 0, 1)
        squared = sum((o - t * d) ** 2 for o, d in zip(offsets, axis, strict=True))
        return np.sqrt(squared) - (first + t * (last - first)).astype(np.float32)

    def tissue_map(self, texture: np.ndarray | None = None) -> TissueMap:
        """Return the painted tissues."""
        return TissueMap(self.labels, self.second, self.share, texture)


def smooth_path(points: Sequence[Sequence[float]], per_segment: int = 4) -> np.ndarray:
    """Draw a Catmull-Rom curve through the points, (n, 3), as a polyline with ``per_segment`` pieces between them."""
    points = np.asarray(points, dtype=float)
    padded = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])
    t = (np.arange(per_segment) / per_segment)[:, None]
    pieces = []
    for p0, p1, p2, p3 in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        pieces.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
        )
    return np.concatenate([*pieces, points[-1:]])
