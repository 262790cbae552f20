"""Measure a model: the Dice of its segmentation, and of the registrations it guides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from itk_pdd.evaluation.metrics import overlaps
from itk_pdd.evaluation.scoring import Case, score
from itk_pdd.io.volume import Volume
from itk_pdd.network.card import ModelCard
from itk_pdd.network.preparation import largest_share
from itk_pdd.network.semantic import SemanticNetwork
from itk_pdd.training.cases import LabelledScan, ordered_pairs
from itk_pdd.training.dataset import read_labelled

__all__ = ["registration_scores", "segmentation_dice", "summary"]


def segment(model: SemanticNetwork, image: Volume) -> Volume:
    """Label map of an image on its own grid: the class of the largest probability, as label value (int16)."""
    probabilities, grid = model.probabilities(image)
    shares = zip((c.value for c in model.card.classes), (Volume(p, grid) for p in probabilities), strict=True)
    return largest_share(shares, image.grid, np.int16)


def segmentation_dice(model: SemanticNetwork, scans: Sequence[LabelledScan]) -> dict[str, dict[int, float]]:
    """Dice of each class in each scan, on the grids of the scans; classes that a scan does not show are left out."""
    result = {}
    for scan in scans:
        image, labels = read_labelled(scan)
        found = segment(model, image).array
        shown = [c.value for c in model.card.classes[1:] if bool((labels.array == c.value).any())]
        truth = labels.array.astype(np.int16)
        result[scan.name] = {value: dice for value, (dice, _) in overlaps(truth, found, shown).items()}
    return result


def summary(scores: dict[str, dict[int, float]], card: ModelCard) -> dict[str, Any]:
    """Mean Dice over scans, per class and over the classes, as it stands in a card."""
    by_class = {}
    for entry in card.classes[1:]:
        values = [dice[entry.value] for dice in scores.values() if entry.value in dice]
        if values:
            by_class[entry.name] = round(float(np.mean(values)), 4)
    mean = round(float(np.mean(list(by_class.values()))), 4) if by_class else None
    return {"scans": list(scores), "segmentation_dice": {"mean": mean, **by_class}}


def registration_scores(
    scans: Sequence[LabelledScan],
    register: Callable[[Volume, Volume], Any],
    *,
    count: int | None = None,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Register ordered pairs of scans, ``count`` of them drawn with the seed, and measure each.

    ``register`` takes fixed and moving image to a :class:`DisplacementField` in millimetres on the grid of the fixed
    image. Yields fixed, moving, dice (mean over the labels that both show), labels (Dice by label), folding (% of
    voxels), sd_log_j3 (Learn2Reg's smoothness).
    """
    for fixed, moving in ordered_pairs(scans, count, seed):
        (fixed_image, fixed_labels), (moving_image, moving_labels) = read_labelled(fixed), read_labelled(moving)
        case = Case(fixed_image, moving_image, _whole(fixed_labels), _whole(moving_labels))
        measured = score(case, register(fixed_image, moving_image), surfaces=False, similarity=False)
        yield {
            "fixed": fixed.name,
            "moving": moving.name,
            "dice": measured.mean("dice"),
            "labels": {label: values["dice"] for label, values in measured.labels.items()},
            "folding": measured.overall["folding"],
            "sd_log_j3": measured.overall["sd_log_j3"],
        }


def _whole(labels: Volume) -> Volume:
    """Formats without integers hold labels as floats."""
    array = labels.array
    return labels if np.issubdtype(array.dtype, np.integer) else Volume(array.astype(np.int32), labels.grid)
