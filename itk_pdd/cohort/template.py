"""Make an unbiased template of a group of scans: affine first, then deformable, each round resumable."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from itk_pdd.cohort.averaging import Moments, common_grid, robust_mean, sharpness
from itk_pdd.cohort.batch import Cohort, Progress, prepare_folder, register_items
from itk_pdd.cohort.cluster import Place, Workers
from itk_pdd.cohort.fusion import majority
from itk_pdd.cohort.listing import Item, distinct_names
from itk_pdd.cohort.summary import write_summary
from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.datasets import read_table
from itk_pdd.evaluation.metrics import dice, labels_of
from itk_pdd.evaluation.tables import write_csv
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping, FieldMapping
from itk_pdd.io import files
from itk_pdd.io.fields import read_field
from itk_pdd.io.outputs import whole_file
from itk_pdd.io.transforms import as_mapping, transform_writer
from itk_pdd.io.volume import Volume
from itk_pdd.views.picture import window
from itk_pdd.views.thumbnail import mosaic, plane_points, sampled, write_jpeg
from itk_pdd.warp.averages import mean_mapping
from itk_pdd.warp.composition import inverse_field

__all__ = ["Template", "make_template", "read_scans"]

log = logging.getLogger("itk_pdd")

_AFFINE_ROUNDS = 2
_IMAGES = (*files.IMAGE_EXTENSIONS, ".png", ".tif", ".jpg")


@dataclass(frozen=True)
class Template:
    """Outcome of :func:`make_template`."""

    path: Path  # the image of the template
    sharpness: dict[str, float]  # sharpness of the average after each round
    dice: float | None  # mean overlap of the scans' labels with those of the template, where labels were given
    failed: dict[str, str]  # scans that could not be registered, with the reasons


@dataclass(frozen=True)
class Scan:
    """A scan of the group."""

    name: str
    image: str
    labels: str | None = None


def read_scans(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Scan]:
    """List the scans of a group, at least two.

    ``source`` is a folder with images, a pattern, a CSV file with the columns ``image`` and, if you like, ``name`` and
    ``labels``, or the files.
    """
    if isinstance(source, str | os.PathLike) and str(source).endswith(".csv"):
        base = Path(os.path.abspath(source)).parent
        rows = [
            cells
            for _, cells in read_table(source, ("image", "name", "labels"), required=("image",), what="list of scans")
        ]
        names = distinct_names([row["image"] for row in rows])
        scans = [
            Scan(
                row.get("name") or name,
                os.path.normpath(base / row["image"]),
                os.path.normpath(base / row["labels"]) if row.get("labels") else None,
            )
            for row, name in zip(rows, names, strict=True)
        ]
    else:
        if not isinstance(source, str | os.PathLike):
            found = [os.path.abspath(each) for each in source]
        elif Path(source).is_dir():
            found = [
                str(path.resolve()) for path in sorted(Path(source).iterdir()) if path.name.lower().endswith(_IMAGES)
            ]
        else:
            found = [os.path.abspath(each) for each in sorted(glob.glob(os.fspath(source), recursive=True))]
        scans = [Scan(name, path) for name, path in zip(distinct_names(found), found, strict=True)]
    if len(scans) < 2:
        raise RegistrationError(f"scans are {len(scans)} image(s), expected at least 2")
    if len({scan.name for scan in scans}) < len(scans):
        raise RegistrationError("scans have the same name twice: give other names")
    return scans


def make_template(
    scans: Any,
    output: str | os.PathLike[str],
    *,
    iterations: int = 4,
    model: str | os.PathLike[str] = "auto",
    smoothness: float = 1.0,
    spacing: float | None = None,
    place: Place | None = None,
    progress: Progress | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> Template:
    """Make an unbiased template of a group of scans.

    The first average puts the centres of all scans on each other. Two affine rounds and ``iterations`` deformable ones
    follow: all scans are registered to the average; the mean of their transforms is taken out of each, so that the
    template has the mean size and shape of the group; and the intensities are averaged robustly. More rounds make the
    template sharper, and change it less and less. The same call goes on where it was interrupted.

    The folder ``output`` gets ``template.nii.gz``, ``template_labels.nii.gz``, ``jacobian_mean.nii.gz`` and
    ``jacobian_sd.nii.gz`` (of the logarithm), ``sharpness.csv``, a folder for each round, and in ``scans/`` the
    transforms between template and scans. ``told`` is called with one line of text after each round; other options as
    for :func:`itk_pdd.register_batch`.
    """
    options = {"model": os.fspath(model), "smoothness": smoothness, "spacing": spacing}
    with Workers(place or Place()) as workers:
        return _made(read_scans(scans), Path(output), iterations, options, workers, progress, told)


def _made(
    group: Sequence[Scan], folder: Path, iterations: int, options: dict[str, Any], workers: Workers,
    progress: Progress | None, told: Callable[[str], None],
) -> Template:  # fmt: skip
    prepare_folder(folder)
    failed: dict[str, str] = {}
    grids = {scan.name: Volume.from_image(scan.image, name=scan.name).grid for scan in group}
    grid = common_grid(list(grids.values()))
    centre = grid.centre
    affine = {name: AffineMapping.translation(each.centre - centre) for name, each in grids.items()}
    template = _average(group, affine, grid, folder, "centres")
    found = {"centres": sharpness(template)}

    def registered(label: str, chosen: Mapping[str, Any], outputs: Sequence[str], starts: Mapping[str, str]) -> Cohort:
        where = folder / "rounds" / label
        fixed = str(_image_of(folder, before))
        items = [
            Item(scan.name, {"fixed": fixed, "moving": scan.image, **_start(starts, scan.name)})
            for scan in group
            if scan.name not in failed
        ]
        cohort = register_items(items, where, {**options, **chosen}, outputs, workers, progress=progress)
        write_summary(cohort.records, items, where)
        failed.update(cohort.failed)
        if len(group) - len(failed) < 2:
            raise RegistrationError(f"fewer than two scans could be registered: {next(iter(failed.values()))}")
        return cohort

    before = "centres"
    for number in range(1, _AFFINE_ROUNDS + 1):
        label = f"affine{number}"
        cohort = registered(label, {"stages": "affine"}, ["transform"], {})
        linear = {
            name: np.asarray(as_mapping(cohort.folder / name / "transform.h5", dimension=grid.dimension).matrix)
            for name in cohort.records
            if name not in failed
        }
        # The mean of all is taken out of each, so that it becomes the identity.
        mean = np.asarray(mean_mapping([AffineMapping(matrix) for matrix in linear.values()], None).matrix)
        affine = {name: AffineMapping(matrix @ np.linalg.inv(mean)) for name, matrix in linear.items()}
        template = _average(group, affine, grid, folder, label)
        found[label], before = sharpness(template), label
        told(f"{label}: sharpness {found[label]:.4f}")
    starts = _write_affines(affine, folder)
    for number in range(1, iterations + 1):
        label = f"round{number}"
        cohort = registered(label, {}, ["field"], starts)
        used = [scan for scan in group if scan.name not in failed]
        fields = {scan.name: cohort.folder / scan.name / "field.nii.gz" for scan in used}
        correction, shift = _shape_correction(fields, affine, grid)
        mappings = {name: partial(_corrected, read_field(path), correction) for name, path in fields.items()}
        template = _average(used, mappings, grid, folder, label)
        found[label], before = sharpness(template), label
        told(f"{label}: sharpness {found[label]:.4f}, mean displacement {shift:.3g} mm")
    final = _final(group, failed, before, folder, options, starts, workers, progress)
    score = _statistics([scan for scan in group if scan.name not in failed], folder, grid)
    files.write_image(template.to_simpleitk(), folder / "template.nii.gz")
    rows = [{"round": label, "sharpness": value} for label, value in found.items()]
    write_csv(rows, folder / "sharpness.csv", ("round", "sharpness"))
    write_summary(final.records, [Item(scan.name, {"moving": scan.image}) for scan in group], folder)
    return Template(folder / "template.nii.gz", found, score, failed)


def _final(
    group: Sequence[Scan], failed: dict[str, str], before: str, folder: Path, options: Mapping[str, Any],
    starts: Mapping[str, str], workers: Workers, progress: Progress | None,
) -> Cohort:  # fmt: skip
    """Register all scans to the template, for the transforms to and from it."""
    names = {
        "field": "from_template.nii.gz",
        "inverse": "to_template.nii.gz",
        "warped": "warped.nii.gz",
        "labels": "labels.nii.gz",
    }
    items = []
    for scan in group:
        if scan.name in failed:
            continue
        given = {"fixed": str(_image_of(folder, before)), "moving": scan.image, **_start(starts, scan.name)}
        if scan.labels is not None:
            given["moving_labels"] = scan.labels
        targets = {output: f"scans/{scan.name}/{name}" for output, name in names.items()}
        items.append(Item(scan.name, given, targets=targets))
    cohort = register_items(items, folder, options, list(names), workers, progress=progress)
    failed.update(cohort.failed)
    return cohort


def _statistics(scans: Sequence[Scan], folder: Path, grid: Grid) -> float | None:
    """Write mean and spread of the Jacobians and the labels of the template; return the overlap of the group."""
    jacobians = Moments()
    for scan in scans:
        field = read_field(folder / "scans" / scan.name / "from_template.nii.gz")
        jacobians.add(np.log(np.maximum(field.jacobian_determinant(), 1e-3)))
    for name, array in (("mean", jacobians.mean), ("sd", jacobians.spread)):
        files.write_image(Volume(array, grid).to_simpleitk(), folder / f"jacobian_{name}.nii.gz")
    maps = [folder / "scans" / scan.name / "labels.nii.gz" for scan in scans if scan.labels is not None]
    if not maps:
        return None
    warped = [Volume.labels_from_image(path, name="labels").array for path in maps]
    fused = majority(warped).labels
    files.write_image(Volume(fused, grid).to_simpleitk(), folder / "template_labels.nii.gz")
    scores = [list(dice(fused, each, labels_of(fused)).values()) for each in warped]
    return float(np.nanmean(scores))


def _shape_correction(
    fields: Mapping[str, Path], affine: Mapping[str, AffineMapping], grid: Grid
) -> tuple[DisplacementField, float]:
    """Invert the mean of the deformable parts: from the new template to the old one; also its mean length in mm."""
    total: Any = 0.0
    points = grid.points()
    for name, path in fields.items():
        total = total + affine[name].inverse()(points + read_field(path).vectors) - points
    mean = DisplacementField((total / len(fields)).astype(np.float32), grid)
    inverse, _ = inverse_field(FieldMapping(mean), grid)
    return inverse, float(np.linalg.norm(mean.vectors, axis=-1).mean())


def _corrected(field: DisplacementField, correction: DisplacementField, points: np.ndarray) -> np.ndarray:
    """Take points of the new template to those of a scan."""
    before = points + correction.at(points, outside="nearest")
    return before + field.at(before, outside="nearest")


def _average(scans: Sequence[Scan], mappings: Mapping[str, Any], grid: Grid, folder: Path, label: str) -> Volume:
    """Average the scans and write the image and its picture."""
    used = [scan for scan in scans if scan.name in mappings]
    template = robust_mean([scan.image for scan in used], [mappings[scan.name] for scan in used], grid, folder)
    where = _image_of(folder, label).parent
    where.mkdir(parents=True, exist_ok=True)
    with whole_file(_image_of(folder, label)) as temporary:
        files.write_image(template.to_simpleitk(), temporary)
    tiles = [window(sampled(template, points)) for points in plane_points(grid, 220)]
    with whole_file(where / "template.jpg") as temporary:
        write_jpeg(mosaic([[np.repeat(tile[..., None], 3, axis=-1) for tile in tiles]]), temporary)
    return template


def _image_of(folder: Path, label: str) -> Path:
    return folder / "rounds" / label / "template.nii.gz"


def _write_affines(affine: Mapping[str, AffineMapping], folder: Path) -> dict[str, str]:
    """Write the affine transforms, which the deformable rounds start from."""
    starts = {}
    for name, mapping in affine.items():
        path = folder / "scans" / name / "affine.tfm"
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            transform_writer(mapping)(temporary)
        starts[name] = str(path)
    return starts


def _start(starts: Mapping[str, str], name: str) -> dict[str, str]:
    return {"initial_transform": starts[name]} if starts else {}
