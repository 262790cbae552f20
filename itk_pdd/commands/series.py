"""Register every phase of a 4-D series to one of them, from files to files."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.commands.threads import simpleitk_threads
from itk_pdd.commands.writing import write
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.mapping import FieldMapping
from itk_pdd.io import files, outputs
from itk_pdd.io.fields import field_to_image, field_writer
from itk_pdd.io.points import read_points
from itk_pdd.registration import prepare, solve
from itk_pdd.solver.reuse import Kept
from itk_pdd.warp.images import warp_simpleitk

__all__ = ["register_series"]

log = logging.getLogger("itk_pdd")

_VECTOR_EXTENSIONS = (".nii", ".nii.gz", ".mha", ".nrrd")


def register_series(
    series: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    warped: str | os.PathLike[str] | None = None,
    reference: int = 0,
    smooth_time: float = 0.0,
    points: str | os.PathLike[str] | None = None,
    motion: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> list[DisplacementField]:
    """Register all phases of a 4-D image, whose last axis counts them, to one of them; return a field for each.

    Parameters
    ----------
    output : path-like, optional
        The fields, from points of the reference phase to those of each phase: one 4-D image of vectors (5-D in NIfTI),
        or, with ``{}`` in the name, a file for each phase (``field_{}.nii.gz``).
    warped : path-like, optional
        The series with every phase warped onto the reference phase.
    reference : int
        The phase that all are registered to, from 0 on.
    smooth_time : float
        Standard deviation, in phases, of a Gaussian by which the displacements are smoothed over time; 0 for none. The
        reference phase stays where it is.
    points, motion : path-like, optional
        Points of the reference phase, and the CSV file for their places in every phase: columns ``point``, ``phase``,
        ``x``, ``y``, ``z`` (LPS millimetres) and ``distance`` from the reference phase in millimetres.
    threads, progress, **options
        As for :func:`itk_pdd.register`.
    """
    import SimpleITK

    if (points is None) != (motion is None):
        raise RegistrationError("points and motion belong together: give both or none")
    image = files.read_image(series, name="series")
    if image.GetDimension() != 4 or image.GetSize()[3] < 2:
        raise RegistrationError(f"series is {image.GetDimension()}-D, expected a 4-D image of at least 2 phases")
    count = image.GetSize()[3]
    if not 0 <= reference < count:
        raise RegistrationError(f"reference is {reference}, expected a phase from 0 to {count - 1}")
    apart = output is not None and "{}" in str(output)
    names = (
        [] if output is None else [str(output).replace("{}", str(n)) for n in range(count)] if apart else [str(output)]
    )
    extensions = files.FIELD_EXTENSIONS if apart else _VECTOR_EXTENSIONS
    targets = [outputs.Output(name, "output", extensions) for name in names]
    extra = [("warped", warped, files.IMAGE_EXTENSIONS), ("motion", motion, (".csv",))]
    more = {name: outputs.Output(path, name, kinds) for name, path, kinds in extra if path is not None}
    given = None if points is None else read_points(points).own
    outputs.check_outputs([*targets, *more.values()], inputs=[each for each in (series, points) if each is not None])
    phases = [SimpleITK.Extract(image, [*image.GetSize()[:3], 0], [0, 0, 0, number]) for number in range(count)]
    fields = _fields(phases, reference, threads, progress, options)
    if smooth_time > 0:
        fields = _smoothed(fields, reference, smooth_time)
    writers: list[tuple[outputs.Output, Callable[[Path], None]]] = []
    with simpleitk_threads(threads):
        if apart:
            writers = [(target, field_writer(field)) for target, field in zip(targets, fields, strict=True)]
        elif targets:
            joined = SimpleITK.JoinSeries([field_to_image(field) for field in fields], *_time(image))
            writers = [(targets[0], partial(files.write_image, joined))]
        if "warped" in more:
            still = [
                phase if number == reference else warp_simpleitk(phase, field)
                for number, (phase, field) in enumerate(zip(phases, fields, strict=True))
            ]
            writers.append((more["warped"], partial(files.write_image, SimpleITK.JoinSeries(still, *_time(image)))))
        if given is not None:
            content = _motion(given, fields).encode()
            writers.append((more["motion"], partial(outputs.write_bytes, content=content)))
        write(writers)
    return fields


def _fields(
    phases: Sequence[Any],
    reference: int,
    threads: int | None,
    progress: Callable[[float, str], None] | None,
    options: dict[str, Any],
) -> list[DisplacementField]:
    """Register the phases one after the other; what belongs to the reference phase is computed once."""
    kept = Kept()
    fields: list[DisplacementField | None] = []
    for number, phase in enumerate(phases):

        def report(fraction: float, _: str, number: int = number) -> None:
            if progress is not None:
                progress((number + fraction) / len(phases), f"phase {number + 1} of {len(phases)}")

        if number == reference:
            fields.append(None)
            continue
        problem = prepare(phases[reference], phase, threads=threads, kept=kept)
        fields.append(solve(problem, threads=threads, progress=report, **options).field)
        log.info("phase %d of %d is registered", number + 1, len(phases))
    grid = next(field for field in fields if field is not None).grid
    return [DisplacementField.zeros(grid) if field is None else field for field in fields]


def _smoothed(fields: Sequence[DisplacementField], reference: int, width: float) -> list[DisplacementField]:
    """Smooth the displacements over time, the reference phase among them with none."""
    times = np.arange(len(fields))
    found = []
    for number, field in enumerate(fields):
        weights = np.exp(-0.5 * ((times - number) / width) ** 2)
        weights /= weights.sum()
        total = sum(weight * each.vectors for weight, each in zip(weights, fields, strict=True) if weight > 1e-4)
        vectors = field.vectors if number == reference else np.asarray(total, np.float32)
        found.append(DisplacementField(vectors, field.grid))
    return found


def _time(image: Any) -> tuple[float, float]:
    """Return the time of the first phase and that between two."""
    return image.GetOrigin()[3], image.GetSpacing()[3]


def _motion(points: np.ndarray, fields: Sequence[DisplacementField]) -> str:
    """Write the places of the points in every phase as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("point", "phase", "x", "y", "z", "distance"))
    for phase, field in enumerate(fields):
        for number, (before, after) in enumerate(zip(points, FieldMapping(field)(points), strict=True)):
            row = [f"{value:.4f}" for value in (*after, np.linalg.norm(after - before))]
            writer.writerow((number, phase, *row))
    return text.getvalue()
