"""Register a pair again, quickly, as it is and turned or mirrored: what a registration reaches by chance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from itk_pdd.evaluation.signs import PatchComparison
from itk_pdd.evaluation.verdict import Rivals
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping, Mapping, joined
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.threads import allowed, chosen
from itk_pdd.solver.prealignment import align_centres
from itk_pdd.solver.problem import Problem
from itk_pdd.solver.refinement import refined
from itk_pdd.solver.search import search
from itk_pdd.solver.settings import Settings
from itk_pdd.solver.working import WorkingImage, search_grid

__all__ = ["rivals"]

_VOXELS = {2: 16_000, 3: 40_000}
"""Voxels of the images that are registered again, by dimension: a registration takes a tenth of a second."""
_ITERATIONS = 15
"""Steps of the descent."""
_FLIPS = {2: ((1, -1), (-1, 1), (-1, -1)), 3: ((1, 1, -1), (1, -1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1))}
"""Signs of the axes x, y(, z) of the turned and mirrored starts, by dimension; quarter turns are added in 2-D."""
_AXES = "left-right", "front-back", "head-foot"


def rivals(problem: Problem, settings: Settings, *, threads: int | None = None) -> Rivals:
    """Register small copies of two images from the same start and from others; tell how alike they are then.

    The others are the centres of the images on each other, and the fixed image turned or mirrored about its centre:
    except one that puts right a wrong start, they can only match by chance. ``settings`` are those of a model without a
    network; its descent is shortened.
    """
    problem = problem.without_outliers()
    fixed = problem.fixed.grid
    spacing = float(np.prod(fixed.spacing) * max(fixed.voxels / _VOXELS[fixed.dimension], 1)) ** (1 / fixed.dimension)
    small = _small(problem, spacing)
    descent = replace(settings.refinement, iterations=_ITERATIONS, derivatives=False)
    settings = replace(settings, refinement=descent, spacing=None)
    patches = PatchComparison(
        problem.fixed_channels, problem.moving_channels, weights=problem.weights,
        mask=None if problem.fixed_mask is None else problem.fixed_mask.array > 0, moving_mask=problem.moving_mask,
    )  # fmt: skip

    def likeness(start: Mapping | None) -> tuple[float, float]:
        found = patches.figures(_registered(replace(small, initial=start), settings), start)
        return found["likeness"], found["start"]

    with chosen(threads or allowed()[0]):
        again, start = likeness(problem.initial)
        others = {name: likeness(way) for name, way in _others(problem).items()}
        turned = {name: likeness(way) for name, way in _turned(problem).items()}
    chance, by_start = (float(np.median(values)) for values in zip(*turned.values(), strict=True))
    others |= turned
    best = max(others, key=lambda name: others[name])
    return Rivals(again, start, chance, by_start, best=others[best][0], way=best)


def _small(problem: Problem, spacing: float) -> Problem:
    """Smooth and resample images and masks of finer voxels."""

    def smaller(volume: Volume | None, mask: bool = False) -> Volume | None:
        if volume is None or np.prod(volume.grid.spacing) ** (1 / volume.grid.dimension) > 0.9 * spacing:
            return volume
        grid = volume.grid.with_spacing(np.maximum(volume.grid.spacing, spacing))
        options: dict[str, Any] = {"interpolation": "nearest", "outside": "zero"} if mask else {}
        return resample(volume, grid, **options)

    changed: dict[str, Any] = {
        f"{name}_channels": tuple(smaller(each) for each in getattr(problem, f"{name}_channels"))
        for name in ("fixed", "moving")
    }
    for name in ("fixed_mask", "moving_mask"):
        changed[name] = smaller(getattr(problem, name), mask=True)
    return replace(problem, **changed)


def _registered(problem: Problem, settings: Settings) -> DisplacementField:
    """Register small images without a word: searches and a descent."""
    fixed, start = problem.fixed.grid, problem.initial
    grid = search_grid(fixed, problem.moving.grid, start, settings)
    own, other = (
        WorkingImage.from_volumes(channels, grid, mapping, mask, problem.weights)
        for channels, mapping, mask in (
            (problem.fixed_channels, None, problem.fixed_mask),
            (problem.moving_channels, start, problem.moving_mask),
        )
    )
    found = refined(own, other, search(own, other, settings.stages), settings.refinement).to_field(grid)
    if start is None:
        return found
    return DisplacementField.from_function(lambda points: start(points + found.at(points, outside="nearest")), fixed)


def _others(problem: Problem) -> dict[str, Mapping]:
    """Start with the centres on each other, unless the registration did."""
    fixed, moving = problem.fixed, problem.moving
    centres = align_centres(fixed, moving, fixed_mask=problem.fixed_mask, moving_mask=problem.moving_mask)
    start, corners = problem.initial, fixed.grid.corners()
    apart = centres(corners) - (corners if start is None else start(corners))
    if np.abs(apart).max() < min(fixed.grid.spacing):
        return {}
    return {"started from the centres of the images (initialise center or affine)": centres}


def _turned(problem: Problem) -> dict[str, Mapping]:
    """Turn and mirror the fixed image about its centre before the start; names say how."""
    grid = problem.fixed.grid
    starts = {}
    for signs in _FLIPS[grid.dimension]:
        flipped = [axis for axis, sign in enumerate(signs) if sign < 0]
        kept = [axis for axis, sign in enumerate(signs) if sign > 0]
        if len(flipped) == 1:
            name = f"mirrored along {_named(grid, flipped[0])}"
        else:
            name = "turned by 180 degrees" + (f" about {_named(grid, kept[0])}" if kept else "")
        starts[name] = np.diag(np.asarray(signs, float))
    if grid.dimension == 2:
        for sign, name in ((1, "a quarter"), (-1, "three quarters")):
            starts[f"turned by {name}"] = np.array([[0.0, -sign], [sign, 0.0]])
    after = () if problem.initial is None else (problem.initial,)
    return {name: joined((_about_centre(grid, turn), *after)) for name, turn in starts.items()}


def _named(grid: Grid, axis: int) -> str:
    if grid.dimension == 2:
        return f"the {'xy'[axis]} axis"
    return f"the {_AXES[int(np.argmax(np.abs(np.asarray(grid.direction)[:, axis])))]} axis"


def _about_centre(grid: Grid, turn: np.ndarray) -> AffineMapping:
    """Turn the axes of a grid about its centre."""
    matrix, direction, centre = np.eye(grid.dimension + 1), np.asarray(grid.direction), np.asarray(grid.centre)
    matrix[:-1, :-1] = direction @ turn @ direction.T
    matrix[:-1, -1] = centre - matrix[:-1, :-1] @ centre
    return AffineMapping(matrix)
