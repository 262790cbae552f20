"""Symmetric normalisation (SyN) of ANTs."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from itk_pdd.evaluation.baselines import Task
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.fields import read_field, write_field
from itk_pdd.io.volume import Volume


def register(task: Task) -> None:
    """Register with SyN alone (no affine stage: the comparison gives every method the same start)."""
    import ants

    settings = task.settings
    # ants.registration takes no seed and silently drops one; this sets it, and one thread, which is undone.
    ants.config.set_ants_deterministic(seed_value=int(settings["seed"]))
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(task.threads)
    result = ants.registration(
        fixed=ants.image_read(str(task.fixed)),
        moving=ants.image_read(str(task.moving)),
        type_of_transform="SyNOnly",
        initial_transform="Identity",
        outprefix=str(task.folder / "syn_"),
        syn_metric=settings["metric"],
        syn_sampling=int(settings["bins_or_radius"]),
        reg_iterations=tuple(int(n) for n in settings["iterations"]),
        grad_step=float(settings["gradient_step"]),
        flow_sigma=float(settings["flow_sigma"]),
        total_sigma=float(settings["total_sigma"]),
        use_legacy_histogram_matching=bool(settings["histogram_matching"]),
        singleprecision=True,
        multivariate_extras=_label_terms(task) or None,
    )
    # The list may hold the identity it started from beside the warp.
    warp = next(path for path in result["fwdtransforms"] if path.endswith(".nii.gz"))
    write_field(DisplacementField(read_field(warp).vectors, Volume.from_image(task.fixed).grid), task.field)


def _label_terms(task: Task) -> list[tuple[Any, ...]]:
    """Make a metric for each label of both images, where the settings give labels a weight."""
    import ants

    weight = float(task.settings.get("label_weight", 0.0))
    if not weight:
        return []
    fixed, moving = (ants.image_read(str(path)) for path in task.both("labels"))
    known = set(np.unique(fixed.numpy())) & set(np.unique(moving.numpy())) - {0}
    known &= set(task.settings.get("guide", known))
    return [
        ("MeanSquares", *(ants.threshold_image(image, label, label) for image in (fixed, moving)), weight, 0)
        for label in sorted(float(each) for each in known)
    ]
