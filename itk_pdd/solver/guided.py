"""Compare the result of a registration with what guided it."""

from __future__ import annotations

import logging
from dataclasses import replace

from itk_pdd.errors import warn
from itk_pdd.evaluation.overlap import overlap
from itk_pdd.evaluation.warping import warp_labels
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.guidance.labels import LabelGuide
from itk_pdd.solver.problem import Problem, Result

__all__ = ["compared"]

log = logging.getLogger("itk_pdd")

_HARDLY = 0.4  # Dice overlap below which a label that guided is told: it is wrong in one image, or cut off


def compared(problem: Problem, result: Result) -> Result:
    """Add to a result how closely it follows its guides, and warn of those that it does not follow."""
    guidance = problem.guidance
    if guidance is None:
        return result
    if guidance.labels is not None:
        result = _labels(problem, result, guidance.labels)
    return result


def _labels(problem: Problem, result: Result, guide: LabelGuide) -> Result:
    fixed, moving = guide.volumes(problem.fixed.grid)
    grid = result.field.grid
    start = DisplacementField.zeros(grid) if problem.initial is None else problem.initial.field(grid)
    found = overlap(fixed, moving, warp_labels(moving, start), warp_labels(moving, result.field))
    names = {label.fixed: label.name for label in guide.labels}
    told = ", ".join(f"{names[n]} {before:.2f} to {found.after[n]:.2f}" for n, before in found.before.items())
    log.info("Dice overlap of the labels that guide: %s", told)
    for number, name in names.items():
        if found.after.get(number, 0.0) < _HARDLY:
            warn(
                f"label {name} guided the registration, but overlaps by {found.after.get(number, 0.0):.2f} only: check "
                "it in both images",
                doubt=True,
            )
    return replace(result, overlap=found)
