"""Measure a registration: a pair of images with its labels, landmarks and masks, and a field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation import metrics, warping
from itk_pdd.evaluation.datasets import Pair, read_points
from itk_pdd.evaluation.whole_image import whole_image
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.volume import Volume

__all__ = ["Case", "Score", "load_case", "score"]


@dataclass(frozen=True)
class Case:
    """A pair of images in memory with its labels, landmarks and masks; None if unknown."""

    fixed: Volume
    moving: Volume
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    fixed_points: np.ndarray | None = None
    moving_points: np.ndarray | None = None
    fixed_mask: Volume | None = None
    moving_mask: Volume | None = None


@dataclass(frozen=True)
class Score:
    """Measures of one registration."""

    # for each label its ``dice``, ``jaccard``, ``hd95`` and ``asd`` (average surface distance), both in mm
    labels: dict[int, dict[str, float]] = field(default_factory=dict)
    # measures of the whole pair: ``tre_mean``, ``tre_median``, ``tre_p90`` (mm), ``folding`` (% of voxels),
    # ``sd_log_j3`` (Learn2Reg), ``sd_log_j``, ``ncc``, ``mi``; a measure without data is left out
    overall: dict[str, float] = field(default_factory=dict)
    # labels that occur in one of the two label maps only, and which one lacks them
    absent: dict[int, str] = field(default_factory=dict)

    def mean(self, measure: str = "dice", labels: Iterable[int] | None = None) -> float:
        """Mean of a measure over the labels (all, or those named), NaN left out."""
        values = [v[measure] for n, v in self.labels.items() if labels is None or n in set(labels)]
        values = [v for v in values if not np.isnan(v)]
        return float(np.mean(values)) if values else float("nan")


def load_case(pair: Pair) -> Case:
    """Read the files of a pair and check that they belong together."""
    given = pair.files()
    for role, path in given.items():
        if not path.is_file():
            raise RegistrationError(f"{role}: there is no file {path}")
    images = {side: Volume.from_image(given[side], name=side) for side in ("fixed", "moving")}
    dimensions = [image.grid.dimension for image in images.values()]
    if dimensions[0] != dimensions[1]:
        raise RegistrationError(
            f"fixed and moving image must have the same dimension, found {dimensions[0]} and {dimensions[1]}."
        )
    loaded: dict[str, Volume | np.ndarray] = {**images}
    for side, image in images.items():
        if f"{side}_mask" in given:
            loaded[f"{side}_mask"] = Volume.mask_from_image(given[f"{side}_mask"], image.grid, name=f"{side}_mask")
        if f"{side}_labels" in given:
            labels = Volume.labels_from_image(given[f"{side}_labels"], name=f"{side}_labels")
            if labels.grid.dimension != image.grid.dimension or not labels.grid.same_space(image.grid):
                raise RegistrationError(
                    f"{side}_labels must lie on the grid of the {side} image: found {labels.grid}, expected "
                    f"{image.grid} at the same place; resample them by nearest neighbour"
                )
            # Formats without integers hold labels as floats.
            whole = labels.array if np.issubdtype(labels.array.dtype, np.integer) else labels.array.astype(np.int32)
            loaded[f"{side}_labels"] = Volume(whole, labels.grid)
        if f"{side}_points" in given:
            loaded[f"{side}_points"] = read_points(given[f"{side}_points"], side=side, dimension=image.grid.dimension)
    for kind in ("labels", "points"):
        if (f"fixed_{kind}" in loaded) != (f"moving_{kind}" in loaded):
            raise RegistrationError(f"fixed_{kind} and moving_{kind} must be given together.")
    if "fixed_points" in loaded:
        shapes = loaded["fixed_points"].shape, loaded["moving_points"].shape
        if shapes[0] != shapes[1] or shapes[0][1] != loaded["fixed"].grid.dimension:
            raise RegistrationError(
                f"fixed_points and moving_points must hold equally many points of {loaded['fixed'].grid.dimension} "
                f"coordinates, found shapes {shapes[0]} and {shapes[1]}."
            )
    return Case(**loaded)


def score(
    case: Case,
    displacements: DisplacementField,
    *,
    labels: Iterable[int] | None = None,
    surfaces: bool = True,
    similarity: bool = True,
) -> Score:
    """Measure a registration by its field, brought to the grid of the fixed image if it lies on another.

    Labels are warped by nearest neighbour, images linearly. Labels that occur in one image only are not scored, but
    named. Similarity is measured inside the fixed mask where there is one, smoothness over the whole field, and what no
    label names as :mod:`itk_pdd.evaluation.whole_image` does. Surface distances and similarity take the longest.
    """
    displacements = warping.onto_grid(displacements, case.fixed.grid)
    determinant = metrics.jacobian_determinant(displacements)
    overall = {
        "folding": metrics.folding_percentage(determinant),
        "sd_log_j3": metrics.sd_log_jacobian_plus_3(determinant),
        "sd_log_j": metrics.sd_log_jacobian(determinant),
    }
    if case.fixed_points is not None:
        errors = warping.target_registration_error(case.fixed_points, case.moving_points, displacements)
        overall["tre_mean"] = float(errors.mean())
        overall["tre_median"] = float(np.median(errors))
        overall["tre_p90"] = float(np.percentile(errors, 90))
    carried = None
    if case.fixed_labels is not None:
        carried = warping.warp_labels(case.moving_labels, displacements).array
    if similarity:
        warped = warping.warp_image(case.moving, displacements).array
        inside = None if case.fixed_mask is None else case.fixed_mask.array > 0
        overall["ncc"] = metrics.normalised_cross_correlation(case.fixed.array, warped, inside)
        overall["mi"] = metrics.mutual_information(case.fixed.array, warped, inside)
        known = None if case.fixed_labels is None else case.fixed_labels.array
        overall |= whole_image(case.fixed.array, warped, known, carried)
    by_label: dict[int, dict[str, float]] = {}
    absent: dict[int, str] = {}
    if case.fixed_labels is not None:
        fixed, moving = case.fixed_labels.array, case.moving_labels.array
        in_fixed, in_moving = set(metrics.labels_of(fixed)), set(metrics.labels_of(moving))
        wanted = in_fixed | in_moving if labels is None else {int(n) for n in labels}
        for label in sorted(wanted - (in_fixed & in_moving)):
            sides = [s for s, there in (("fixed", in_fixed), ("moving", in_moving)) if label not in there]
            absent[label] = " and ".join(sides)
        common = sorted(wanted & in_fixed & in_moving)
        for label, (dice, jaccard) in metrics.overlaps(fixed, carried, common).items():
            by_label[label] = {"dice": dice, "jaccard": jaccard}
            if surfaces:
                distances = metrics.surface_distances(fixed == label, carried == label, case.fixed.grid.spacing)
                by_label[label] |= metrics.summarise_surface_distances(distances)
    return Score(by_label, overall, absent)
