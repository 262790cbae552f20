"""Make the page of one registration: its verdict with the signs, and the viewer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation import metrics, warping
from itk_pdd.evaluation.overlap import Overlap, overlap
from itk_pdd.evaluation.verdict import GOOD, Sign, Verdict, judge
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.mapping import Mapping as PointMapping
from itk_pdd.io.volume import Volume
from itk_pdd.report.assets import Assets
from itk_pdd.report.marks import Marks
from itk_pdd.report.page import LAMPS, LIGHTS, Cell, PairPictures, Table, fill, write_page
from itk_pdd.views.display import fixed_view, moved_view
from itk_pdd.views.picture import grey_limits

__all__ = ["registration_page", "write_registration_report"]

VOXELS = 8_200_000
"""Most voxels of an image on the page: a CT of 192 x 160 x 256 is shown as it is."""


def registration_page(
    fixed: Volume,
    moving: Volume,
    displacements: DisplacementField,
    *,
    initial: PointMapping | None = None,
    fixed_labels: Volume | None = None,
    moving_labels: Volume | None = None,
    fixed_mask: Volume | None = None,
    uncertainty: Volume | None = None,
    verdict: Verdict | None = None,
    headline: str | None = None,
    title: str = "Registration",
    facts: Mapping[str, Any] | None = None,
    marks: Marks | None = None,
    voxels: int = VOXELS,
) -> str:
    """Make the HTML page of one registration.

    Parameters
    ----------
    displacements : DisplacementField
        From fixed to moving points in millimetres, on the grid of the fixed image.
    initial : Mapping, optional
        The initial transform, which is ``before``; by default the physical coordinates as they are.
    fixed_labels, moving_labels : Volume, optional
        Label maps, each in the space of its image; with both their overlap is measured.
    uncertainty, headline : Volume, str, optional
        Standard deviation of the displacement in millimetres, on the grid of the fixed image, and the uncertainty in
        one sentence (see :attr:`itk_pdd.Uncertainty.headline`).
    verdict : Verdict, optional
        What the registration was judged to be; by default it is judged by its images and its field within
        ``fixed_mask``.
    facts : mapping, optional
        Names with values, such as files and settings, for the table "About".
    marks : Marks, optional
        Landmarks that guided the registration: they are drawn and listed.
    voxels : int
        Most voxels of an image on the page; a larger number makes a larger page.
    """
    grid = fixed.grid
    for name, found in {
        "displacements": displacements,
        "fixed_labels": fixed_labels,
        "uncertainty": uncertainty,
    }.items():
        if found is not None and (found.grid.dimension != grid.dimension or not found.grid.same_space(grid)):
            raise RegistrationError(
                f"{name} must lie on the grid of the fixed image: found {found.grid}, expected {grid}"
            )
    displacements = DisplacementField(displacements.vectors, grid)
    start = DisplacementField.zeros(grid) if initial is None else DisplacementField.from_function(initial, grid)
    warped = {name: warping.warp_image(moving, field) for name, field in (("before", start), ("after", displacements))}
    determinant = displacements.jacobian_determinant()
    if verdict is None:
        verdict = judge((fixed,), (moving,), displacements, initial=initial, fixed_mask=fixed_mask)
    carried: dict[str, Any] = {"before": None, "after": None}
    if moving_labels is not None:
        carried = {n: warping.warp_labels(moving_labels, f) for n, f in (("before", start), ("after", displacements))}
    overlaps, drawn = None, fixed_labels
    if fixed_labels is not None and moving_labels is not None:
        overlaps = _overlaps(overlap(fixed_labels, moving_labels, carried["before"], carried["after"]))
    if marks is not None:
        drawn = marks.on_fixed(fixed_labels, grid)
        carried = {n: marks.on_warped(carried[n], f) for n, f in (("before", start), ("after", displacements))}
    grey = grey_limits(moving.array)
    assets = Assets()
    described = PairPictures("registration", grid, voxels, assets).describe(
        fixed_view(fixed, drawn),
        moved_view(warped["before"], None, limits=grey, labels=carried["before"]),
        {
            "registration": moved_view(
                warped["after"], displacements, limits=grey, labels=carried["after"], determinant=determinant,
                uncertainty=uncertainty,
            )
        },
    )  # fmt: skip
    lamp, word, text = LAMPS[verdict.word]
    if verdict.word != GOOD:
        text = f"{_sentence('; '.join(verdict.reasons))} {text}"
    return fill(
        "registration.html",
        title=title,
        subtitle=f"Quality control, {grid}",
        assets=assets,
        pictures=[described],
        single=True,
        light=LIGHTS[verdict.word],
        lamp=lamp,
        word=word,
        text=text,
        signs=Table(("Sign", "Verdict", "Found", "Rule"), [_sign_row(sign) for sign in verdict.signs], words=range(4)),
        by_chance="chance" in verdict.figures,
        headline=None if headline is None else _sentence(headline),
        mapped=uncertainty is not None,
        overlaps=overlaps,
        landmarks=None if marks is None else marks.table(),
        facts=_facts({**_measures(displacements, determinant), **(facts or {})}),
    )


def write_registration_report(path: Any, *arguments: Any, **options: Any) -> None:
    """Write the page of a registration to a file, whole or not at all; parameters as :func:`registration_page`."""
    write_page(path, registration_page(*arguments, **options))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _sign_row(sign: Sign) -> tuple[str | Cell, ...]:
    return sign.name, Cell(f"{LAMPS[sign.word][0]} {sign.word}", kind=LIGHTS[sign.word]), sign.found, sign.rule


def _overlaps(found: Overlap) -> Table:
    rows = [
        (str(n), *[Cell(f"{state[n]:.3f}", state[n]) for state in (found.before, found.after)]) for n in found.before
    ]
    return Table(("Label", "Before", "After"), rows, _sentence(str(found)))


def _measures(displacements: DisplacementField, determinant: np.ndarray) -> dict[str, str]:
    length = np.linalg.norm(displacements.vectors, axis=-1)
    folded = int((determinant <= 0).sum())
    return {
        "Displacement": f"mean {length.mean():.3g} mm, largest {length.max():.3g} mm, the start included",
        "Jacobian determinant": f"from {determinant.min():.3g} to {determinant.max():.3g} (1 keeps the volume), "
        f"SD of log(J + 3) {metrics.sd_log_jacobian_plus_3(determinant):.3g}, "
        f"{folded or 'no'} voxel{'s' * (folded != 1)} folded",
    }


def _facts(facts: Mapping[str, Any]) -> Table:
    return Table(("What", "Value"), [(name, str(value)) for name, value in facts.items()], words=(0, 1))
