"""Sliding: each side of a label's border is registered by itself, and the two fields are joined along it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from itk_pdd.errors import warn
from itk_pdd.io.volume import Volume
from itk_pdd.solver.problem import Problem, Result

__all__ = ["solve_sides"]

_AWAY = 2  # voxels by which the masks end before the border: features look at their surroundings, too


def _slip(apart: np.ndarray, inside: np.ndarray, matrix: np.ndarray) -> tuple[float, float]:
    """Measure how two fields on one grid part along the border of a region: mean slip, and mean gap or overlap across.

    ``apart`` is the difference of the fields in millimetres, ``matrix`` that of the grid.
    """
    from scipy import ndimage  # costs a quarter of a second

    shares = ndimage.gaussian_filter(inside.astype(np.float32), 1.5)
    slope = np.stack(np.gradient(shares)[::-1], axis=-1) @ np.linalg.inv(matrix)
    border = ndimage.binary_dilation(inside) & ~inside
    if not border.any():
        return 0.0, 0.0
    normal = slope[border] / np.maximum(np.linalg.norm(slope[border], axis=-1, keepdims=True), 1e-12)
    across = (apart[border] * normal).sum(axis=-1)
    along = np.linalg.norm(apart[border] - across[:, None] * normal, axis=-1)
    return float(along.mean()), float(np.abs(across).mean())


def solve_sides(
    problem: Problem, fixed: Volume, moving: Volume, name: str, solve: Callable[[Problem], Result]
) -> Result:
    """Register what is inside and outside of a label (bool volumes on the grids of the images), each by itself.

    The field jumps along the border of the label, which a warning tells with its size.
    """
    from scipy import ndimage  # costs a quarter of a second

    def side(label: np.ndarray, mask: Volume | None, grid: Volume) -> Volume:
        kept = ndimage.binary_erosion(label, iterations=_AWAY, border_value=1)
        kept = kept if kept.any() else label
        return Volume(kept if mask is None else kept & (mask.array > 0), grid.grid)

    results = []
    for own, other in ((fixed.array, moving.array), (~fixed.array, ~moving.array)):
        masks = side(own, problem.fixed_mask, fixed), side(other, problem.moving_mask, moving)
        results.append(solve(replace(problem, fixed_mask=masks[0], moving_mask=masks[1])))
    inner, outer = (result.field for result in results)
    along, across = _slip(inner.vectors - outer.vectors, fixed.array, inner.grid.matrix)
    warn(
        f"the field slides along the border of label {name}, by {along:.1f} mm on average: it jumps there, and "
        f"has no inverse in gaps and overlaps of {across:.1f} mm on average"
    )
    field = replace(outer, vectors=np.where(fixed.array[..., None], inner.vectors, outer.vectors))
    return replace(results[1], field=field, uncertainty=None)
