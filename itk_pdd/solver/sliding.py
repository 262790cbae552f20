"""Sliding: each side of a label's border is registered by itself, and the two fields are joined along it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from itk_pdd.errors import warn
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.volume import Volume
from itk_pdd.solver.problem import Problem, Result

__all__ = ["Slip", "joined", "solve_sides"]

log = logging.getLogger("itk_pdd")

_AWAY = 2  # voxels by which the masks end before the border: features look at their surroundings, too


class Slip:
    """Measure how two fields part along a border.

    Parameters
    ----------
    inner, outer : DisplacementField
        On one grid.
    inside : numpy.ndarray
        Where the inner one counts, bool of the shape of the grid.
    """

    def __init__(self, inner: DisplacementField, outer: DisplacementField, inside: np.ndarray) -> None:
        from scipy import ndimage  # costs a quarter of a second

        shares = ndimage.gaussian_filter(inside.astype(np.float32), 1.5)
        slope = np.stack(np.gradient(shares)[::-1], axis=-1) @ np.linalg.inv(inner.grid.matrix)
        border = ndimage.binary_dilation(inside) & ~inside
        apart = (inner.vectors - outer.vectors)[border]
        normal = slope[border] / np.maximum(np.linalg.norm(slope[border], axis=-1, keepdims=True), 1e-12)
        across = (apart * normal).sum(axis=-1)
        self.across = float(np.abs(across).mean()) if len(across) else 0.0
        """Mean gap or overlap across the border, in millimetres."""
        along = np.linalg.norm(apart - across[:, None] * normal, axis=-1)
        self.along = float(along.mean()) if len(along) else 0.0
        """Mean slip along the border, in millimetres."""


def joined(inner: DisplacementField, outer: DisplacementField, inside: np.ndarray) -> DisplacementField:
    """Take one field inside and another one outside."""
    return replace(outer, vectors=np.where(inside[..., None], inner.vectors, outer.vectors))


def solve_sides(
    problem: Problem, fixed: Volume, moving: Volume, name: str, solve: Callable[[Problem], Result]
) -> Result:
    """Register what is inside and outside of a label, each by itself.

    Parameters
    ----------
    problem : Problem
        The images.
    fixed, moving : Volume
        bool volumes: the label on the grids of the images.
    name : str
        What it is called.
    solve : callable
        Registers a problem.

    Returns
    -------
    Result
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
    inner, outer = results
    field = joined(inner.field, outer.field, fixed.array)
    slip = Slip(inner.field, outer.field, fixed.array)
    warn(
        f"the field slides along the border of label {name}, by {slip.along:.1f} mm on average: it jumps there, and "
        f"has no inverse in gaps and overlaps of {slip.across:.1f} mm on average"
    )
    return replace(outer, field=field, uncertainty=None)
