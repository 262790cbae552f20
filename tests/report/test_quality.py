"""The traffic light: known faults have known lights."""

from __future__ import annotations

import re

import numpy as np
import pytest

from itk_pdd import DisplacementField, RegistrationError, Volume
from itk_pdd.report import quality
from itk_pdd.report.registration import registration_page, write_registration_report


def lights(scene, determinant=None, before=None, after=None, outside=None, **options) -> dict[str, str]:
    shape = scene.fixed.grid.shape
    inside = {"before": np.ones(shape, bool), "after": np.ones(shape, bool) if outside is None else ~outside}
    signs = quality.assess(
        scene.fixed, before or scene.moving, after or scene.fixed, inside,
        np.ones(shape) if determinant is None else determinant, **options,
    )  # fmt: skip
    return {sign.name: sign.light for sign in signs} | {"all": quality.overall(signs)}


def share(scene, percent: float) -> np.ndarray:
    """A mask of so many per cent of the voxels."""
    mask = np.zeros(scene.fixed.grid.voxels, bool)
    mask[: round(mask.size * percent / 100)] = True
    return mask.reshape(scene.fixed.grid.shape)


def test_a_good_registration_is_green(scene):
    assert set(lights(scene).values()) == {"good"}


@pytest.mark.parametrize(("percent", "light"), [(0.1, "good"), (0.5, "look"), (2, "poor")])
def test_folding(scene, percent, light):
    found = lights(scene, np.where(share(scene, percent), -0.5, 1.0))
    assert found["Folding"] == found["all"] == light


@pytest.mark.parametrize("value", [0.1, 7.0])
def test_extreme_volume_change(scene, value):
    assert lights(scene, np.where(share(scene, 3), value, 1.0))["Extreme volume change"] == "look"
    assert lights(scene, np.where(share(scene, 9), value, 1.0))["all"] == "poor"


def test_similarity(scene):
    assert lights(scene, after=scene.moving)["Similarity"] == "look"
    worse = lights(scene, before=scene.fixed, after=scene.moving)
    assert worse["Similarity"] == worse["all"] == "poor"


def test_similarity_ignores_what_left_the_image(scene):
    """A field that throws everything outside must not look like a gain."""
    everywhere = np.ones(scene.fixed.grid.shape, bool)
    found = lights(scene, outside=everywhere)
    assert (found["Similarity"], found["Coverage"]) == ("look", "poor")


def test_uncertainty_and_mask(scene):
    wide = Volume(np.where(share(scene, 20), 10.0, 0.5), scene.fixed.grid)
    assert lights(scene, uncertainty=wide)["Uncertainty"] == "poor"
    assert lights(scene, uncertainty=wide, mask=~share(scene, 20))["Uncertainty"] == "good"
    assert lights(scene, uncertainty=wide, limits=quality.Limits(uncertainty=(20, 30)))["Uncertainty"] == "good"


def test_the_page_tells_the_light(scene, tmp_path):
    still = DisplacementField.zeros(scene.fixed.grid)
    good = registration_page(scene.fixed, scene.moving, scene.truth, title="<b>x</b>", facts={"file": "<i>"})
    assert 'data-light="good"' in good and "&lt;b&gt;x" in good and "<b>x" not in good and "<i>" not in good
    assert 'data-light="look"' in registration_page(scene.fixed, scene.moving, still)
    write_registration_report(tmp_path / "page.html", scene.fixed, scene.moving, scene.truth)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_before_is_the_initial_transform(scene):
    """Started from the truth, nothing can get better."""
    from itk_pdd.geometry.mapping import AffineMapping

    matrix = np.eye(4)
    matrix[:3, 3] = scene.truth.vectors[0, 0, 0]
    start = AffineMapping(matrix)
    assert "+0 %" in registration_page(scene.fixed, scene.moving, scene.truth, initial=start)


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
