"""The page of a registration: its verdict, what it measures, what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest

from itk_pdd import DisplacementField, RegistrationError, Volume
from itk_pdd.evaluation.verdict import FAILED, Sign, Verdict
from itk_pdd.report.registration import registration_page, write_registration_report


def test_the_page_tells_the_verdict(scene, tmp_path):
    good = registration_page(scene.fixed, scene.moving, scene.truth, title="<b>x</b>", facts={"file": "<i>"})
    assert 'data-light="good"' in good and "&lt;b&gt;x" in good and "<b>x" not in good and "<i>" not in good
    given = Verdict(FAILED, (Sign("Match", FAILED, "the images hardly match", "a rule"),))
    page = registration_page(
        scene.fixed, scene.moving, scene.truth, verdict=given, headline="half is located within 2 mm"
    )
    assert 'data-light="poor"' in page and "Probably failed" in page and "The images hardly match." in page
    assert "Half is located within 2 mm." in page and "replaces no look" not in page
    write_registration_report(tmp_path / "page.html", scene.fixed, scene.moving, scene.truth)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_page_explains_what_it_tells(scene):
    """What is told has its explanation, and what is not told has none; no line can begin with a unit."""
    sign = Sign("Match", FAILED, "the images hardly match (0.42 by chance; risk of failure 80 %)", "failed from 60 %")
    values = np.full(scene.fixed.grid.shape, 2.0, np.float32)
    page = registration_page(
        scene.fixed,
        scene.moving,
        scene.truth,
        verdict=Verdict(FAILED, (sign,), {"chance": 0.42}),
        headline="half is located within 2 mm",
        uncertainty=Volume(values, scene.fixed.grid),
    )
    assert "turned or mirrored" in page and 'colour map "Uncertainty"' in page
    assert "failure 80\N{NO-BREAK SPACE}%" in page and not re.search(r"<(td|div class=\"verdict)[^<]*\d %", page)
    sign = Sign("Match", FAILED, "the images hardly match", "a rule")
    page = registration_page(scene.fixed, scene.moving, scene.truth, verdict=Verdict(FAILED, (sign,)), headline="half")
    assert "turned or mirrored" not in page and 'colour map "Uncertainty"' not in page


def test_overlap_of_labels(scene):
    page = registration_page(
        scene.fixed, scene.moving, scene.truth, fixed_labels=scene.fixed_labels, moving_labels=scene.moving_labels
    )
    before, after = (float(v) for v in re.search(r"mean ([\d.]+) before and ([\d.]+) after", page).groups())
    assert before < 0.6 and after > 0.95


@pytest.mark.parametrize("name", ["displacements", "uncertainty", "fixed_labels"])
def test_another_grid_is_refused(scene, name):
    half = scene.fixed.grid.with_spacing(3)
    wrong = {"displacements": DisplacementField.zeros(half)}.get(name, Volume(np.ones(half.shape, np.uint8), half))
    options = {"displacements": scene.truth, name: wrong}
    with pytest.raises(RegistrationError, match=f"{name} must lie on the grid of the fixed image"):
        registration_page(scene.fixed, scene.moving, options.pop("displacements"), **options)
