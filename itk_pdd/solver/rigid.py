"""Rigid parts: labelled bones move as a whole, and the field around them follows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from itk_pdd.errors import warn
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.geometry.volume import Volume
from itk_pdd.solver.prealignment import fitted_similarity

__all__ = ["part_of", "with_rigid_parts"]

log = logging.getLogger("itk_pdd")

_MARGIN_VOXELS = 6.0  # around a part over which the field passes from rigid to free, at least
_MARGIN_SHIFTS = 4.0  # the same in changes of the displacement at the border of the part
_WIDER, _TRIES = 1.6, 5  # the margin is widened where the field would fold


def with_rigid_parts(field: DisplacementField, parts: Sequence[tuple[str, Volume]]) -> DisplacementField:
    """Let parts of the fixed image move rigidly; around each of them the field passes smoothly to what it was.

    ``parts`` are names and bool volumes on the grid of the field. Where it cannot be made rigid without folding, a
    warning says how many voxels fold.
    """
    grid, before = field.grid, field.folded_voxels()
    voxel = float(np.prod(grid.spacing) ** (1 / grid.dimension))
    motions, largest = [], 0.0
    for name, part in parts:
        if np.count_nonzero(part.array) <= grid.dimension:
            warn(f"rigid part {name} has hardly a voxel on the grid of the fixed image: it stays free")
            continue
        points = grid.to_physical(np.argwhere(part.array)[:, ::-1])
        moved = points + field.vectors[part.array]
        motion = fitted_similarity(points, moved, rigid=True)
        change = np.linalg.norm(motion(points) - moved, axis=1)
        largest = max(largest, float(np.percentile(change, 95)))
        angle = np.degrees(np.arccos(np.clip((np.trace(motion.matrix[:-1, :-1]) - grid.dimension + 2) / 2, -1, 1)))
        log.info("rigid part %s: turned by %.1f degrees, %.2f mm off the free field", name, angle, change.mean())
        motions.append((part.array, motion))
    margin = max(_MARGIN_VOXELS * voxel, _MARGIN_SHIFTS * largest)
    for _ in range(_TRIES):
        found = _blended(field, motions, margin)
        folds = found.folded_voxels()
        if folds <= before:
            break
        margin *= _WIDER
    if folds > before:
        warn(f"the field folds at {folds - before} voxels around the rigid parts: they move against their surroundings")
    return found


def _blended(
    field: DisplacementField, motions: Sequence[tuple[np.ndarray, AffineMapping]], margin: float
) -> DisplacementField:
    from scipy import ndimage  # costs a quarter of a second

    grid, vectors = field.grid, field.vectors.copy()
    spacing = grid.spacing[::-1]
    inside = np.zeros(grid.shape, bool)
    for part, _ in motions:
        inside |= part
    for part, motion in motions:
        box = _box(part, np.ceil(margin / np.asarray(spacing)).astype(int) + 1)
        near = part[box]
        away = ndimage.distance_transform_edt(~near, sampling=spacing)
        share = np.clip(1 - away / margin, 0, 1)
        share = share**2 * (3 - 2 * share)
        others = inside[box] & ~near
        if others.any():
            # At the next part the influence of this one ends.
            distance = ndimage.distance_transform_edt(~others, sampling=spacing)
            share = share * distance / np.maximum(distance + away, 1e-9)
        first = np.array([piece.start for piece in box][::-1])
        last = np.array([piece.stop for piece in box][::-1])
        points = grid.padded(-first, last - np.asarray(grid.size)).points()
        target = (motion(points) - points).astype(np.float32)
        weight = share[..., None].astype(np.float32)
        vectors[box] += weight * (target - vectors[box])
    return replace(field, vectors=vectors)


def _box(part: np.ndarray, margin: np.ndarray) -> tuple[slice, ...]:
    where = np.argwhere(part)
    low, high = where.min(axis=0) - margin, where.max(axis=0) + margin + 1
    return tuple(slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, part.shape, strict=True))


def part_of(share: Volume, grid: Grid) -> Volume:
    """Find the voxels of a grid half of which a label has, or more."""
    found = resample(share, grid, interpolation="nearest", outside="zero")
    return Volume(found.array >= 0.5, grid)
