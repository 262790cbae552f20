"""Register a synthetic abdominal pair with known truth, score it and draw it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io import files, outputs
from itk_pdd.io.fields import field_writer
from itk_pdd.io.messages import system_reason
from itk_pdd.io.volume import Volume
from itk_pdd.registration import prepare, solve
from itk_pdd.views import picture
from itk_pdd.warp.images import warp_simpleitk

__all__ = ["run_demo"]

_SIZE, _SPACING = (128, 112, 96), 3.0
# Labels 1 to 13 are organs, higher ones other tissues.
_ORGANS = 13


def run_demo(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    initialise: str | None = None,
    threads: int | None = None,
    progress: Callable[[float, str], None] | None = None,
    **options: Any,
) -> str:
    """Make a labelled synthetic abdominal pair, register it, and write everything into a folder.

    ``seed`` is that of the pair; other options as for :func:`itk_pdd.register`. Returns the Dice overlap and the true
    error before and after, in words.
    """
    from itk_pdd.synthesis import make_pair

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else system_reason(error)
        raise outputs.OutputError(f"the folder {folder} cannot be made ({reason})") from error
    names = ("fixed", "moving", "fixed_labels", "moving_labels", "field", "truth", "warped", "warped_labels")
    targets = {name: outputs.Output(folder / f"{name}.nii.gz", name, (".nii.gz",)) for name in names}
    targets["overview"] = outputs.Output(folder / "overview.png", "overview", (".png",))
    outputs.check_outputs(list(targets.values()))

    pair = make_pair(_SIZE, _SPACING, seed=seed, kind="abdomen")
    start = time.perf_counter()
    problem = prepare(pair.fixed, pair.moving, initialise=initialise, threads=threads)
    result = solve(problem, seed=seed, threads=threads, progress=progress, **options)
    seconds = time.perf_counter() - start

    field, grid = result.field, pair.fixed.grid
    still = DisplacementField.zeros(grid)
    before, after = (_warped(pair.moving, pair.moving_labels, each) for each in (still, field))
    outlines = [
        Volume(np.where(labels.array <= _ORGANS, labels.array, 0), labels.grid)
        for labels in (pair.fixed_labels, before[1], after[1])
    ]
    drawing = picture.overview(pair.fixed, before[0], after[0], field, labels=outlines)
    writers: dict[str, Callable[[Path], None]] = {
        "fixed": partial(files.write_image, pair.fixed.to_simpleitk()),
        "moving": partial(files.write_image, pair.moving.to_simpleitk()),
        "fixed_labels": partial(files.write_image, pair.fixed_labels.to_simpleitk()),
        "moving_labels": partial(files.write_image, pair.moving_labels.to_simpleitk()),
        "field": field_writer(field),
        "truth": field_writer(pair.truth),
        "warped": partial(files.write_image, after[0].to_simpleitk()),
        "warped_labels": partial(files.write_image, after[1].to_simpleitk()),
        "overview": partial(picture.write_png, drawing),
    }
    outputs.write_all([(targets[name], write) for name, write in writers.items()])
    return _summary(pair, [(still, before[1]), (field, after[1])], seconds, result.capture_range_mm, folder)


def _warped(moving: Volume, labels: Volume, field: DisplacementField) -> tuple[Volume, Volume]:
    """Resample the moving image and its labels onto the grid of a field."""
    import SimpleITK

    images = (
        warp_simpleitk(moving.to_simpleitk(), field, default=float(moving.array.min())),
        warp_simpleitk(labels.to_simpleitk(), field, labels=True),
    )
    image, label_map = (Volume(SimpleITK.GetArrayFromImage(each), field.grid) for each in images)
    return image, label_map


def _summary(
    pair: Any, states: list[tuple[DisplacementField, Volume]], seconds: float, capture_range: float, folder: Path
) -> str:
    from itk_pdd.evaluation.metrics import dice

    organs = range(1, _ORGANS + 1)
    scores, errors = [], []
    for field, labels in states:
        values = dice(pair.fixed_labels.array, labels.array, organs)
        scores.append(float(np.nanmean(list(values.values()))))
        errors.append(np.linalg.norm(field.vectors - pair.truth.vectors, axis=-1)[pair.body])
    size = " x ".join(map(str, pair.fixed.grid.size))
    return "\n".join(
        [
            f"Registered two abdomens of {size} voxels of {_SPACING:g} mm in {seconds:.0f} s "
            f"(capture range {capture_range:.0f} mm).",
            f"  Dice overlap of {_ORGANS} organs: {scores[0]:.3f} before, {scores[1]:.3f} after",
            f"  error against the true deformation: mean {errors[0].mean():.1f} mm before, "
            f"{errors[1].mean():.1f} mm after (95 % of the body below {np.percentile(errors[1], 95):.1f} mm)",
            f"Look at {folder / 'overview.png'}.",
        ]
    )
