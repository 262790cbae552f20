"""
Segmentation by ten atlases
===========================

Segmentation by ten atlases: each is registered to the patient, its labels are warped, and the majority decides.

With ITK_PDD_DATA set these are hippocampi in MR (folder hippocampus_mr, the training subjects are the atlases, the
first one of the validation subjects the patient); without, synthetic ones.
"""

import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

import itk_pdd
from itk_pdd.evaluation.metrics import dice
from itk_pdd.synthesis import make_pair, random_deformation

ATLASES = 10


def main() -> None:
    (patient, truth), *atlases = read_subjects()
    truth = sitk.GetArrayFromImage(truth)
    before, single, votes = [], [], []
    for image, labels in atlases:
        # Crops of different subjects: start from the centres.
        start = sitk.CenteredTransformInitializer(
            patient, image, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
        transform = itk_pdd.register(patient, image, initialise="center")
        for scores, each in ((before, start), (single, transform)):
            warped = sitk.Resample(labels, patient, each, sitk.sitkNearestNeighbor)
            scores.append(overlap(truth, sitk.GetArrayFromImage(warped)))
        votes.append(warped)
    fused = sitk.GetArrayFromImage(sitk.LabelVoting(votes, 0))
    print(f"before: Dice {np.mean(before):.3f} (mean of {len(atlases)} atlases)")
    print(f"one atlas: Dice {np.mean(single):.3f} (mean), {np.max(single):.3f} (best)")
    print(f"majority of all: Dice {overlap(truth, fused):.3f}")

    itk_pdd.plot.overlay(patient, itk_pdd.warp_image(image, transform))  # the last atlas, warped


def read_subjects() -> list[tuple[sitk.Image, sitk.Image]]:
    """Image and labels (1 and 2) of the patient, then of the atlases."""
    folder = os.environ.get("ITK_PDD_DATA")
    if folder is None or not (Path(folder) / "hippocampus_mr").is_dir():
        return make_subjects()
    split = json.loads((Path(folder) / "splits.json").read_text(encoding="utf-8"))["hippocampus_mr"]
    names = split["validation"][:1] + split["train"][:ATLASES]
    base = Path(folder) / "hippocampus_mr"
    kinds = (("images", sitk.sitkFloat32), ("labels", sitk.sitkUInt8))
    return [tuple(sitk.ReadImage(base / kind / f"{name}.nii.gz", pixel) for kind, pixel in kinds) for name in names]


def make_subjects() -> list[tuple[sitk.Image, sitk.Image]]:
    """The same for synthetic shapes: one anatomy, deformed anew for every subject, by another scanner."""
    grid = itk_pdd.Grid.create((40, 36, 32), 1.0)
    subjects = []
    for subject in range(ATLASES + 1):
        deformation = random_deformation(grid, seed=subject, magnitude=5.0)
        pair = make_pair(grid.size, grid.spacing, seed=1, kind="shapes", deformation=deformation)
        subjects.append((pair.moving.to_simpleitk(), pair.moving_labels.to_simpleitk()))
    return subjects


def overlap(truth: np.ndarray, labels: np.ndarray) -> float:
    """Mean Dice overlap of the labels."""
    return float(np.nanmean(list(dice(truth, labels, [int(v) for v in np.unique(truth) if v]).values())))


if __name__ == "__main__":
    main()
