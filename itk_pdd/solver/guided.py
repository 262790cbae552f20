"""Compare the result of a registration with what guided it."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import numpy as np

from itk_pdd.errors import RegistrationError, counted, warn
from itk_pdd.evaluation.overlap import overlap
from itk_pdd.evaluation.signs import likeness_within
from itk_pdd.evaluation.warping import warp_labels
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.guidance.labels import LabelGuide
from itk_pdd.guidance.landmarks import LandmarkError, Landmarks
from itk_pdd.io.volume import Volume
from itk_pdd.solver.problem import Model, Options, Problem, Result
from itk_pdd.solver.rigid import part_of, with_rigid_parts
from itk_pdd.solver.sliding import solve_sides

__all__ = ["compared", "solved"]

log = logging.getLogger("itk_pdd")

_HARDLY = 0.4  # Dice overlap below which a label that guided is told: it is wrong in one image, or cut off
_UNLIKE = 0.6  # times the likeness of the whole image below which a label is told: right ones had 0.75 of it and more
_MATCH = 0.4  # likeness of images that match; of others, no label tells more than the verdict
_MOST_TOLD = 100  # landmarks that the log tells one by one
_MOST_NAMED = 10  # landmarks whose reason a warning tells


def compared(problem: Problem, result: Result) -> Result:
    """Add to a result how closely it follows its guides, and warn of those that it does not follow."""
    guidance = problem.guidance
    if guidance is None:
        return result
    if guidance.rigid:
        grid = result.field.grid
        parts = [(name, part_of(share, grid)) for name, share in guidance.rigid]
        field, uncertainty = with_rigid_parts(result.field, parts), copy.copy(result.uncertainty)
        if uncertainty is not None:
            uncertainty.field = field
        result = replace(result, field=field, uncertainty=uncertainty)
    if guidance.labels is not None:
        result = _labels(problem, result, guidance.labels)
    if guidance.landmarks is not None:
        result = _landmarks(problem, result, guidance.landmarks)
    return result


def solved(problem: Problem, model: Model, options: Options) -> Result:
    """Register a problem, each side of a border along which it slides by itself, and compare it with its guides."""
    sliding = None if problem.guidance is None else problem.guidance.sliding
    if sliding is None:
        return compared(problem, model.register(problem, options))
    name, fixed, moving = sliding
    if options.uncertainty is True:
        raise RegistrationError("the uncertainty is asked for, but not estimated where the field slides: leave one out")
    sides = [part_of(fixed, problem.fixed.grid), part_of(moving, problem.moving.grid)]
    masks = [Volume(side.array, side.grid) for side in sides]
    sides_solved = solve_sides(problem, masks[0], masks[1], name, lambda side: model.register(side, options))
    return compared(problem, sides_solved)


def _landmarks(problem: Problem, result: Result, landmarks: Landmarks) -> Result:
    points, wanted = landmarks.fixed, landmarks.moving
    start = points if problem.initial is None else problem.initial(points)
    before = np.linalg.norm(start - wanted, axis=1)
    after = np.linalg.norm(points + result.field.at(points, outside="nearest") - wanted, axis=1)
    reasons = [""] * len(points) if result.trust is None else result.trust.reasons
    found = tuple(
        LandmarkError(name, float(a), float(b), reason)
        for name, a, b, reason in zip(landmarks.names, before, after, reasons, strict=True)
    )
    obeyed = np.array([not reason for reason in reasons])
    for each in found[:_MOST_TOLD]:
        log.info("landmark %s: %.2f mm off before, %.2f mm after%s", each.name, each.before, each.after,
                 " (not obeyed)" if each.ignored else "")  # fmt: skip
    if obeyed.any():
        log.info(
            "%s: %.2f mm off before, %.2f mm after (mean)", counted(int(obeyed.sum()), "landmark"),
            before[obeyed].mean(), after[obeyed].mean(), extra={"announce": True},
        )  # fmt: skip
    ignored = [each for each in found if each.ignored]
    if ignored:
        named = "; ".join(f"{each.name} ({each.ignored})" for each in ignored[:_MOST_NAMED])
        if len(ignored) > _MOST_NAMED:
            named += "; " + ", ".join(each.name for each in ignored[_MOST_NAMED:])
        warn(f"{len(ignored)} of {len(found)} landmarks are not obeyed: {named}", doubt=True)
    return replace(result, landmarks=found)


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
    whole, within = likeness_within(
        problem.fixed_channels, problem.moving_channels, result.field, fixed, weights=problem.weights,
        moving_mask=problem.moving_mask,
    )  # fmt: skip
    for number, likeness in within.items():
        if whole > _MATCH and likeness < _UNLIKE * whole:
            warn(
                f"label {names[number]} guided the registration, but there the images match less than elsewhere "
                f"(likeness {likeness:.2f}, {whole:.2f} of the whole): check that it is the same structure in both",
                doubt=True,
            )
    return replace(result, overlap=found)
