"""Verdicts on scans that once went wrong unnoticed; needs the folder of the data, which ITK_PDD_DATA names."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from itk_pdd import Volume, registration
from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.verdict import FAILED, GOOD
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.solver.problem import Problem

DATA = Path(os.environ.get("ITK_PDD_DATA", "missing"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="ITK_PDD_DATA names no folder")


def verdict(problem: Problem, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return registration.run(problem, **options).verdict


def test_a_model_for_other_images() -> None:
    folder = DATA / "hippocampus_mr" / "images"
    images = [Volume.from_image(str(folder / f"hippocampus_{n}.nii.gz")) for n in ("001", "003")]
    problem = Problem((images[0],), (images[1],))
    with pytest.raises(RegistrationError, match="not made for these images"):
        verdict(problem, model="abdomen-ct")
    forced = verdict(problem, model="abdomen-ct", force=True)
    assert forced.word == FAILED and "the default model matches them better" in forced.reasons[0]
    assert any("not made for these images" in reason for reason in forced.reasons)
    assert verdict(problem).word == GOOD


def test_two_patients_as_they_come_from_the_scanner() -> None:
    images = []
    for number in (1, 3):
        image = Volume.from_image(str(DATA / "abdomen_ct_native" / f"image_{number:04d}.nii.gz"))
        images.append(resample(image, image.grid.with_spacing(4.0)))
    found = verdict(Problem((images[0],), (images[1],)))
    assert found.word != GOOD and any("initialise affine" in reason for reason in found.reasons)


def test_a_wrong_start_is_told_with_the_right_one() -> None:
    folder = DATA / "hippocampus_mr" / "images"
    fixed, moving = (Volume.from_image(str(folder / f"hippocampus_{n}.nii.gz")) for n in ("001", "003"))
    turn = np.diag([-1.0, -1.0, 1.0, 1.0])
    turn[:3, 3] = np.asarray(moving.grid.centre) - turn[:3, :3] @ np.asarray(fixed.grid.centre)
    assert verdict(Problem((fixed,), (moving,), AffineMapping(turn))).word == FAILED
