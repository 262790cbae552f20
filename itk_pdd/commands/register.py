"""Register images from files to files; all outputs are written or none."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itk_pdd.commands.threads import simpleitk_threads
from itk_pdd.commands.writing import COMPOSITE_EXTENSIONS, check, elastix_field, write
from itk_pdd.errors import RegistrationError, told, warn
from itk_pdd.evaluation.overlap import Overlap, overlap
from itk_pdd.evaluation.warping import warp_labels
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.mapping import FieldMapping, Mapping
from itk_pdd.guidance.guidance import KNOWN
from itk_pdd.io import files, outputs
from itk_pdd.io.fields import field_writer
from itk_pdd.io.formats.elastix import parameter_writer
from itk_pdd.io.transforms import transform_writer
from itk_pdd.io.volume import Volume
from itk_pdd.registration import aligned, prepare, register, solve
from itk_pdd.solver.record import record as described_by
from itk_pdd.solver.record import write_record
from itk_pdd.solver.reuse import Kept
from itk_pdd.uncertainty import IMAGES, LABEL_IMAGES
from itk_pdd.uncertainty.images import uncertainty_writers
from itk_pdd.views.thumbnail import thumbnail as drawn
from itk_pdd.views.thumbnail import write_jpeg
from itk_pdd.warp.composition import inverse_field, kept_apart
from itk_pdd.warp.images import value_outside, warp_image, warp_simpleitk

if TYPE_CHECKING:
    from itk_pdd.solver.problem import Result

__all__ = ["register_files"]

log = logging.getLogger("itk_pdd")


def register_files(
    fixed: str | os.PathLike[str],
    moving: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    warped: str | os.PathLike[str] | None = None,
    transform: str | os.PathLike[str] | None = None,
    composite: str | os.PathLike[str] | None = None,
    inverse: str | os.PathLike[str] | None = None,
    elastix: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    thumbnail: str | os.PathLike[str] | None = None,
    uncertainty: str | os.PathLike[str] | None = None,
    covariance: str | os.PathLike[str] | None = None,
    entropy: str | os.PathLike[str] | None = None,
    label_probabilities: str | os.PathLike[str] | None = None,
    label_entropy: str | os.PathLike[str] | None = None,
    quality: bool = True,
    record: str | os.PathLike[str] | None = None,
    record_paths: bool = False,
    command: Sequence[str] | None = None,
    default: float | None = None,
    fixed_labels: str | os.PathLike[str] | None = None,
    moving_labels: str | os.PathLike[str] | None = None,
    warped_labels: str | os.PathLike[str] | None = None,
    initial_transform: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    initialise: str | None = None,
    fixed_mask: str | os.PathLike[str] | None = None,
    moving_mask: str | os.PathLike[str] | None = None,
    stages: str = "all",
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[float, str], None] | None = None,
    kept: Kept | None = None,
    **options: Any,
) -> Result:
    """Register two image files and write the outputs that are named, without itk.

    Parameters
    ----------
    output, inverse : path-like, optional
        The displacement field on the grid of ``fixed``, and its inverse on that of ``moving``, whose error the log
        tells: images of vectors in millimetres, or transform files.
    transform, composite : path-like, optional
        ITK transform files: of the field, and of the initial transform and the deformable part kept apart.
    elastix : path-like, optional
        elastix' parameter file (``.txt``) for transformix; the field it names is written beside it.
    warped, default : path-like, float, optional
        ``moving`` resampled onto ``fixed``: linear, pixel type kept, all volumes of a series; its value outside
        ``moving``, by default the background of ``moving``, which the log tells.
    report, thumbnail : path-like, optional
        A page (``.html``) to look at the result: the verdict with its signs, and a viewer; and a small picture
        (``.jpg``) of three planes: the fixed image, the warped one, and both overlaid.
    uncertainty, covariance, entropy : path-like, optional
        Images of the uncertainty on the grid of ``fixed``: standard deviation of the displacement in millimetres, its
        covariance in square millimetres (components xx, xy, xz, yy, yz, zz), its entropy in nats.
    moving_labels, warped_labels, fixed_labels : path-like, optional
        A label image in the space of ``moving``, the file for it, resampled by nearest neighbour, and one on the grid
        of ``fixed``: log, record and report tell the Dice overlap of both, and the report draws their contours.
    label_probabilities, label_entropy : path-like, optional
        Probability of every label (one component for each, ascending, 0 among them) and entropy in nats of the labels
        that the uncertain deformation carries along.
    quality : bool
        Judge the registration (see :mod:`itk_pdd.evaluation.verdict`): the log tells the verdict, as a warning if it is
        not "good".
    record, record_paths, command : path-like, bool, sequence of str, optional
        A JSON file for what :func:`itk_pdd.solver.record.record` describes, the words of the command line among it;
        with the folders of file names or without.
    kept : Kept, optional
        Intermediate results of the same fixed image and mask from calls before.
    initial_transform, initialise, fixed_mask, moving_mask, stages, seed, threads, progress, **options
        As for :func:`itk_pdd.register`, but the labels guide the registration only where ``guide`` says which.

    Raises
    ------
    RegistrationError
        If an input cannot be used.
    OutputError
        If some output cannot be written; checked before the registration as far as possible.
    """
    targets = {
        name: outputs.Output(path, name, extensions)
        for name, path, extensions in (
            ("output", output, files.FIELD_EXTENSIONS),
            ("transform", transform, files.TRANSFORM_EXTENSIONS),
            ("composite", composite, COMPOSITE_EXTENSIONS),
            ("inverse", inverse, files.FIELD_EXTENSIONS),
            ("elastix", elastix, (".txt",)),
            ("report", report, (".html", ".htm")),
            ("thumbnail", thumbnail, (".jpg",)),
            ("record", record, (".json",)),
            ("warped", warped, files.IMAGE_EXTENSIONS),
            ("warped_labels", warped_labels, files.IMAGE_EXTENSIONS),
            ("uncertainty", uncertainty, files.IMAGE_EXTENSIONS),
            ("covariance", covariance, files.IMAGE_EXTENSIONS),
            ("entropy", entropy, files.IMAGE_EXTENSIONS),
            ("label_probabilities", label_probabilities, files.IMAGE_EXTENSIONS),
            ("label_entropy", label_entropy, files.IMAGE_EXTENSIONS),
        )
        if path is not None
    }
    carried = not targets.keys().isdisjoint(("warped_labels", *LABEL_IMAGES))
    if moving_labels is None and (carried or (fixed_labels is not None and options.get("rigid") is None)):
        raise RegistrationError(
            "warped_labels, label_probabilities, label_entropy and fixed_labels belong together with moving_labels: "
            "give moving_labels, too"
        )
    if moving_labels is not None and not carried and fixed_labels is None and report is None:
        raise RegistrationError("moving_labels and warped_labels (or report, fixed_labels) belong together: give both")
    if stages == "affine" and not targets.keys().isdisjoint(IMAGES):
        raise RegistrationError("images of the uncertainty are asked for with stages='affine', which has none")
    starts = initial_transform if isinstance(initial_transform, list | tuple) else [initial_transform]
    points = [options.get(name) for name in ("fixed_points", "moving_points", "features", "feature_card")]
    inputs = (fixed, moving, fixed_labels, moving_labels, *points, *starts, fixed_mask, moving_mask)
    beside = [] if elastix is None else [elastix_field(elastix, "elastix")]
    check([*targets.values(), *beside], *inputs)
    moving_image = files.read_image(moving, name="moving")
    if warped is not None:
        given, default = default, value_outside(moving_image, default)
        if given is None:
            log.info("outside the moving image the warped one is %.4g, the background as found", default)
    known = {name: options.pop(name) for name in KNOWN if name in options}
    if any(known.get(name) is not None for name in ("guide", "rigid", "sliding")):
        # On the command line labels that are given guide on request only.
        known |= {"fixed_labels": fixed_labels, "moving_labels": moving_labels, "guide": known.get("guide") or "none"}
    labels: Any = None if moving_labels is None else files.read_image(moving_labels, name="moving_labels")
    with told() as warned:
        problem = prepare(
            fixed,
            moving_image,
            initial_transform=initial_transform,
            initialise=initialise,
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            stages=stages,
            threads=threads,
            kept=kept,
            **known,
        )
    maps = _label_maps(fixed_labels, labels, problem)
    if not targets.keys().isdisjoint(IMAGES):
        options["uncertainty"] = True
    if stages == "affine":
        result = aligned(problem)
    else:
        result = solve(problem, seed=seed, threads=threads, progress=progress, judged=quality, **options)
    if result.uncertainty is not None:
        log.info("Uncertainty: %s.", result.uncertainty.headline, extra={"announce": True})
    # An alignment alone is written as the linear transform that it is, and its inverse is exact.
    alone = problem.initial if stages == "affine" else None
    start = None if stages == "affine" else problem.initial
    dice = result.overlap or _overlap(maps, start, result.field)
    if dice is not None:
        log.info("%s.", dice, extra={"announce": True})

    def described() -> dict[str, Any]:
        given = {
            "fixed": fixed, "moving": moving, "initial_transform": initial_transform, "fixed_mask": fixed_mask,
            "moving_mask": moving_mask, "fixed_labels": fixed_labels, "moving_labels": moving_labels,
            **{name: known.get(name) for name in ("fixed_points", "moving_points", "features", "feature_card")},
        }  # fmt: skip
        chosen = {"initialise": initialise, "stages": stages, "seed": seed, "threads": threads, **known, **options}
        chosen = {name: value for name, value in chosen.items() if name not in given}
        return described_by(
            problem, result, given, chosen, command=command, outputs={n: t.path for n, t in targets.items()},
            warnings=[*(each.message for each in warned), *result.warnings], paths=record_paths,
            overlap=None if dice is None else dice.to_dict(),
        )  # fmt: skip

    writers: dict[str, Callable[[], Callable[[Path], None]]] = {
        "output": lambda: field_writer(result.field),
        "transform": lambda: field_writer(result.field) if alone is None else transform_writer(alone),
        "composite": lambda: transform_writer(alone or kept_apart(result.field, problem.initial)),
        "inverse": lambda: field_writer(inverse_field(alone or FieldMapping(result.field), problem.moving.grid)[0]),
        "elastix": lambda: parameter_writer(beside[0].path, result.field.grid),
        "report": lambda: _report_writer(fixed, moving, problem, start, maps, result, described()),
        "thumbnail": lambda: partial(write_jpeg, drawn(problem.fixed, problem.moving, result.field)),
        "record": lambda: partial(write_record, described()),
        "warped": lambda: partial(files.write_image, _warped(moving_image, result.field, default)),
        "warped_labels": lambda: partial(files.write_image, _warped_labels(labels, result.field)),
        **uncertainty_writers(result.uncertainty, labels, targets),
    }
    with simpleitk_threads(threads):
        wanted = [(target, writers[name]()) for name, target in targets.items()]
        wanted += [(target, field_writer(result.field)) for target in beside]
        write(wanted)
    return result


def _warped(moving: Any, field: DisplacementField, default: float | None) -> Any:
    """Warp an image, or every volume of a series."""
    if moving.GetDimension() == field.grid.dimension:
        return warp_simpleitk(moving, field, default=default)
    return warp_image(moving, field, default=default)


def _warped_labels(labels: Any, field: DisplacementField) -> Any:
    """Warp a label map; warn if none of its labels arrives."""
    import SimpleITK

    warped = warp_simpleitk(labels, field, labels=True)
    before, after = map(SimpleITK.GetArrayViewFromImage, (labels, warped))
    if before.any() and not after.any():
        warn("the warped labels are empty: check that moving_labels belongs to the moving image")
    return warped


def _label_maps(fixed: Any, moving: Any, problem: Any) -> dict[str, Volume]:
    """Read the label maps that are given and check them against the images."""
    maps: dict[str, Volume] = {}
    if problem.guidance is not None and problem.guidance.labels is not None:
        drawn = problem.guidance.labels.volumes(problem.fixed.grid)
        return dict(zip(("fixed_labels", "moving_labels"), drawn, strict=True))
    if moving is not None:
        maps["moving_labels"] = Volume.labels_from_image(moving, name="moving_labels")
        if (found := maps["moving_labels"].grid.dimension) != problem.fixed.grid.dimension:
            raise RegistrationError(f"moving_labels is {found}-D but moving is {problem.moving.grid.dimension}-D")
    if fixed is not None:
        maps["fixed_labels"] = Volume.labels_from_image(fixed, problem.fixed.grid, name="fixed_labels")
    return maps


def _overlap(maps: dict[str, Volume], start: Mapping | None, field: DisplacementField) -> Overlap | None:
    """Measure the overlap of the labels of both images before and after, if both are given."""
    if len(maps) < 2:
        return None
    before = DisplacementField.zeros(field.grid) if start is None else start.field(field.grid)
    fixed, moving = maps["fixed_labels"], maps["moving_labels"]
    return overlap(fixed, moving, warp_labels(moving, before), warp_labels(moving, field))


def _report_writer(
    fixed: Any, moving: Any, problem: Any, start: Any, maps: dict[str, Any], result: Result, described: dict[str, Any]
) -> Callable[[Path], None]:
    """Make the page of a registration and return what writes it."""
    from itk_pdd.report.marks import Marks
    from itk_pdd.report.page import writer
    from itk_pdd.report.registration import registration_page

    landmarks = None if problem.guidance is None else problem.guidance.landmarks
    text = registration_page(
        problem.fixed,
        problem.moving,
        result.field,
        initial=start,
        **maps,
        fixed_mask=problem.fixed_mask,
        uncertainty=None if result.uncertainty is None else result.uncertainty.standard_deviation(),
        verdict=result.verdict,
        marks=None if landmarks is None else Marks(landmarks.fixed, landmarks.moving, result.landmarks),
        headline=None if result.uncertainty is None else result.uncertainty.headline,
        title=f"{Path(moving).name} registered to {Path(fixed).name}",
        facts={
            "Fixed image": Path(fixed).name,
            "Moving image": f"{Path(moving).name}, {problem.moving.grid}",
            "Model": result.model.name,
            "Options": _chosen(described["options"]),
            "Date": f"{datetime.fromisoformat(described['date']):%Y-%m-%d %H:%M} UTC",
            "Versions": ", ".join(f"{k} {v}" for k, v in described["versions"].items()),
            "Time": f"{result.seconds:.1f} s",
            "Start": _start(described, problem),
            "Capture range": f"{result.capture_range_mm:.0f} mm along each axis, about the start",
        },
    )
    return writer(text)


def _chosen(options: dict[str, Any]) -> str:
    """Name the options that are not as by default, and the seed."""
    usual = {name: each.default for name, each in inspect.signature(register).parameters.items()}
    given = {k: v for k, v in options.items() if v is not None and v is not False}
    kept = {k: v for k, v in given.items() if k == "seed" or v != usual.get(k)}
    return ", ".join(k.replace("_", "-") if v is True else f"{k.replace('_', '-')} {v}" for k, v in kept.items())


def _start(described: dict[str, Any], problem: Any) -> str:
    """Tell where the registration started, in words."""
    way = described["options"]["initialise"]
    if way is not None:
        return {"center": "the centres of the images on each other", "affine": "an affine alignment, searched"}[way]
    return (
        "as the images lie (physical coordinates)" if problem.initial is None else "an initial transform that was given"
    )
