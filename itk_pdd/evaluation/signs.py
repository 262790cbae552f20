"""Measure signs of success and failure of a registration, without a truth: from its images and its field alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.geometry.volume import Volume

__all__ = ["PatchComparison", "field_signs", "image_signs", "likeness_within"]

_PATCHES = 1000
"""About as many patches are compared, spread evenly over the fixed image."""
_NODES = 20_000
"""About as many voxels at which the field is differentiated."""
_RADII = {2: 4, 3: 2}
"""Half the width of a patch in samples, by dimension."""
_PITCH = 3.0
"""Distance of the samples of a patch in voxels: a patch is larger than what remains unaligned between people."""
_FLOOR = 0.003
"""Share of an image's variance below which a patch shows nothing."""
_LEAST_SEEN = 0.75
"""Share of a patch that must lie within both images."""
_UNLIKE = 0.1
"""Squared correlation below which a patch is unlike its match."""
_VOXELS = {2: 65_000, 3: 1_000_000}
"""Voxels of an image beyond which it is compared at a coarser spacing, by dimension: tissue differs cell by cell."""


def field_signs(field: DisplacementField, mask: np.ndarray | None = None) -> dict[str, float]:
    """Measure how a field, the initial transform included, deforms: on about 20 000 voxels, of a mask if there is one.

    Returns
    -------
    dict of str to float
        ``folded``: share of the voxels whose Jacobian determinant is not positive (of the sign of the median one);
        ``extreme``: share whose volume changes more than fivefold beside the median; ``strain``: root mean square of
        the derivatives beside the median ones.
    """
    grid, u = field.grid, field.vectors
    index = _lattice(grid, _NODES, mask)
    last = np.asarray(grid.size) - 1
    columns = []
    for axis in range(grid.dimension):
        low, high = index.copy(), index.copy()
        low[:, axis] = np.maximum(low[:, axis] - 1, 0)
        high[:, axis] = np.minimum(high[:, axis] + 1, last[axis])
        width = np.maximum(high[:, axis] - low[:, axis], 1)[:, None]
        columns.append((u[tuple(high[:, ::-1].T)] - u[tuple(low[:, ::-1].T)]) / width)
    whole = np.stack(columns, axis=-1) @ np.linalg.inv(grid.matrix) + np.eye(grid.dimension)
    typical = np.median(whole, axis=0)
    relative = np.linalg.det(whole) / (np.linalg.det(typical) or 1.0)
    return {
        "folded": float(np.mean(relative <= 0)),
        "extreme": float(np.mean((relative > 5) | (relative < 0.2))),
        "strain": float(np.sqrt(np.mean(np.square(whole - typical)) * grid.dimension)),
    }


class PatchComparison:
    """Compare patches of a fixed image with their matches under several fields; the fixed patches are cut once.

    ``weights`` of the channels are all alike by default; ``mask`` tells the fixed voxels that count, ``moving_mask``
    where the moving image counts.
    """

    def __init__(
        self,
        fixed: Sequence[Volume],
        moving: Sequence[Volume],
        *,
        weights: Sequence[float] | None = None,
        mask: np.ndarray | None = None,
        moving_mask: Volume | None = None,
    ) -> None:
        from itk_pdd.kernels.interpolation.cpu import sample_linear

        grid, dimension = fixed[0].grid, fixed[0].grid.dimension
        spacing = _sample_spacing(grid)
        weights = [1.0] * len(fixed) if weights is None else weights
        centres = grid.to_physical(_lattice(grid, _PATCHES, mask))
        reach = range(-_RADII[dimension], _RADII[dimension] + 1)
        offsets = np.stack(np.meshgrid(*[reach] * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)
        self._points = centres[:, None] + _PITCH * spacing * offsets
        self._valid = grid.contains_index(grid.to_index(self._points))
        self._moving = moving[0].grid, moving_mask
        self._shown, self._channels = np.zeros(len(centres), bool), []
        for a, b, weight in zip(fixed, moving, weights, strict=True):
            if weight > 0:
                a, b = _coarser(a, spacing), _coarser(b, spacing)
                patches = _clipped(sample_linear(a.array, a.grid.to_index(self._points)))
                self._shown |= patches.var(axis=1) > _FLOOR * patches.var()
                self._channels.append((patches, b, weight / sum(weights)))

    def figures(self, field: DisplacementField, initial: Mapping | None = None) -> dict[str, float]:
        """Compare the patches with their matches; parameters and figures as :func:`image_signs`."""
        points = self._points
        after = points + field.at(points, outside="nearest")
        before = points if initial is None else initial(points)
        seen_after, seen_before = (_seen(where, *self._moving) & self._valid for where in (after, before))
        whole = self._shown & (seen_after.mean(axis=1) > _LEAST_SEEN)
        both = whole & (seen_before.mean(axis=1) > _LEAST_SEEN)
        likeness = self._likeness(after)
        return {
            "likeness": _mean(likeness[whole]),
            "start": _mean(self._likeness(before)[both]),
            "unlike": _mean(likeness[whole] < _UNLIKE),
            "outside": float(1 - seen_after[self._valid].mean()),
            "compared": float(whole.sum() / max(self._shown.sum(), 1)),
        }

    def _likeness(self, where: np.ndarray) -> np.ndarray:
        """Compare each patch with the moving image at some points (patches, samples, dim)."""
        from itk_pdd.kernels.interpolation.cpu import sample_linear

        found = np.zeros(len(where))
        for patches, moving, weight in self._channels:
            matches = _clipped(sample_linear(moving.array, moving.grid.to_index(where)))
            found += weight * _squared_correlation(patches, matches)
        return found


def image_signs(
    fixed: Sequence[Volume],
    moving: Sequence[Volume],
    field: DisplacementField,
    *,
    initial: Mapping | None = None,
    **options: Any,
) -> dict[str, float]:
    """Compare patches of the fixed image with their matches, by the square of their correlation.

    The square counts a contrast that is the other way round as well: one measure for images of one and of several
    kinds. Images of more than a million voxels (65,000 in 2-D) are compared at a coarser spacing. ``initial`` is where
    the registration started; other options as for :class:`PatchComparison`.

    Returns
    -------
    dict of str to float
        ``likeness`` and ``start``: mean squared correlation of the patches after and before; ``unlike``: share of the
        patches below 0.1; ``outside``: share of the samples that is mapped outside the moving image; ``compared``:
        share of the patches with something to see that could be compared.
    """
    return PatchComparison(fixed, moving, **options).figures(field, initial)


def likeness_within(
    fixed: Sequence[Volume], moving: Sequence[Volume], field: DisplacementField, labels: Volume, **options: Any
) -> tuple[float, dict[int, float]]:
    """Compare patches of the fixed image with their matches, over the whole image and within each label.

    Parameters
    ----------
    fixed, moving, field, **options
        As for :func:`image_signs`.
    labels : Volume
        A label map of the fixed image; 0 is no label.

    Returns
    -------
    float, dict of int to float
        The ``likeness`` of the whole image and of each label that the compared voxels show.
    """
    spacing = _sample_spacing(fixed[0].grid)
    fixed, moving = ([_coarser(volume, spacing) for volume in volumes] for volumes in (fixed, moving))
    parts = resample(labels, fixed[0].grid, interpolation="nearest", outside="zero").array

    def likeness(mask: np.ndarray | None) -> float:
        return image_signs(fixed, moving, field, mask=mask, **options)["likeness"]

    return likeness(None), {int(n): likeness(parts == n) for n in np.unique(parts) if n != 0}


def _sample_spacing(grid: Grid) -> float:
    """Choose the millimetres between the voxels of images that are compared."""
    return float(np.prod(grid.spacing) * max(grid.voxels / _VOXELS[grid.dimension], 1)) ** (1 / grid.dimension)


def _coarser(volume: Volume, spacing: float) -> Volume:
    """Smooth and resample a volume of much finer voxels."""
    if np.prod(volume.grid.spacing) ** (1 / volume.grid.dimension) > 0.9 * spacing:
        return volume
    return resample(volume, volume.grid.with_spacing(np.maximum(volume.grid.spacing, spacing)))


def _clipped(values: np.ndarray) -> np.ndarray:
    """Clip the intensities of single bright or dark spots, such as metal."""
    return np.clip(values, *np.percentile(values, (0.1, 99.9)))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


def _seen(points: np.ndarray, grid: Grid, mask: Volume | None) -> np.ndarray:
    from itk_pdd.kernels.interpolation.cpu import sample_linear

    index = grid.to_index(points)
    inside = grid.contains_index(index)
    return inside if mask is None else inside & (sample_linear(mask.array.astype(np.float32), index) > 0.5)


def _squared_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Square the correlation of patches (n, samples); below a share of the variance of all a patch shows nothing."""
    floors = _FLOOR * a.var(), _FLOOR * b.var()
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread = [np.square(x).mean(axis=1) + floor for x, floor in zip((a, b), floors, strict=True)]
    return np.square((a * b).mean(axis=1)) / np.maximum(spread[0] * spread[1], 1e-30)


def _lattice(grid: Grid, count: int, mask: np.ndarray | None) -> np.ndarray:
    """Spread indices (n, dim), components x, y, z, evenly in millimetres over the box of a mask; those within it."""
    low, high = np.zeros(grid.dimension, int), np.asarray(grid.size)
    if mask is not None and mask.any():
        found = [np.flatnonzero(mask.any(axis=tuple(i for i in range(mask.ndim) if i != a))) for a in range(mask.ndim)]
        low, high = np.array([f[0] for f in found])[::-1], np.array([f[-1] + 1 for f in found])[::-1]
    extent = (high - low) * np.asarray(grid.spacing)
    pitch = max(float(np.prod(extent) / count) ** (1 / grid.dimension), 1e-9)
    axes = []
    for first, n, length in zip(low, high - low, extent, strict=True):
        m = int(np.clip(round(length / pitch), 1, n))
        axes.append(first + np.unique(((np.arange(m) + 0.5) * n / m).astype(int)))
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, grid.dimension)
    if mask is None:
        return index
    inside = mask[tuple(index[:, ::-1].T)]
    return index[inside] if inside.any() else index
