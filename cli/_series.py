"""The options of pdd-register for series of phases."""

from __future__ import annotations

from typing import Any

import click
from itk_pdd.cli._console import Number, Whole, file, flag, options

series_options = options(
    flag(
        "--series",
        "FIXED is a 4-D image: register every phase to one. -o takes all fields (5-D in NIfTI), or 'f_{}.nii.gz' "
        "for a file per phase, --warped the series at rest.",
    ),
    click.option(
        "--reference-phase",
        type=Whole(min=0),
        default=0,
        show_default=True,
        help="The phase that all go to, from 0 on.",
    ),
    click.option(
        "--smooth-time",
        type=Number(min=0),
        default=0.0,
        show_default=True,
        help="Smooth the displacements over time: a Gaussian of this standard deviation, in phases.",
    ),
    file("--points", "FILE", "Points of the reference phase, to follow over time."),
    file("--motion", "CSV", "Where --points are in every phase, in mm (LPS)."),
)
NAMES = ("series", "reference_phase", "smooth_time", "points", "motion")
_USED = ("output", "warped", "model", "smoothness", "spacing", "device", "threads", "memory", "seed", "force")


def register(fixed: Any, moving: Any, series: dict[str, Any], arguments: dict[str, Any], progress: Any) -> None:
    """Register a series with the options that have a meaning for it."""
    from itk_pdd.commands.series import register_series

    register_series(
        fixed,
        reference=series["reference_phase"],
        smooth_time=series["smooth_time"],
        points=series["points"],
        motion=series["motion"],
        progress=progress,
        **{name: arguments[name] for name in _USED},
    )


def check(fixed: Any, moving: Any, series: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Refuse combinations that make no sense."""
    context = click.get_current_context()
    given = {name for name in (*arguments, *series) if _given(context, name)}
    if not series["series"]:
        if found := sorted(given & set(series)):
            raise click.UsageError(f"--{found[0].replace('_', '-')} is about --series: give that too.")
        return
    if fixed is None or moving is not None:
        raise click.UsageError("--series takes one 4-D image.")
    if unused := sorted(given - {*_USED, *NAMES, "verbose"}):
        raise click.UsageError(f"--{unused[0].replace('_', '-')} has no meaning with --series: leave it out.")
    if not given & {"output", "warped", "motion"}:
        raise click.UsageError("Nothing to write: give -o, --warped or --motion.")


def _given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
