"""Every baseline finds a known shift between oblique grids, with vectors that point the right way."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from itk_pdd.evaluation.compare import compare
from itk_pdd.evaluation.methods import candidates
from itk_pdd.evaluation.run import Rules, _prepare, perform
from itk_pdd.evaluation.scoring import load_case
from itk_pdd.io.fields import read_field

# Small images want small steps; what is tested is the way through the tool, not its defaults.
SMALL = {
    "bspline": {"levels": [{"control_spacing_mm": 20, "shrink_factor": 1, "smoothing_sigma_mm": 1, "samples": 3000,
                            "iterations": 25}]},
    "syn-cc": {"iterations": [40, 20, 0]},
    "syn": {"iterations": [40, 20, 10]},
    "convexadam": {"grid_sp": 3, "disp_hw": 3, "selected_niter": 20},
}  # fmt: skip
GUIDES = ("fixed_labels", "moving_labels", "fixed_points", "moving_points")
PARAMETERS = [("MaximumNumberOfIterations 500", "MaximumNumberOfIterations 150"), ("Resolutions 4", "Resolutions 2")]


def by_method(results) -> dict:
    return {run.method: result for run, result in results}


def register(name: str, scene, folder, preset: str | None = None) -> dict:
    package = {"greedy": "picsl-greedy", "convexadam": "convexAdam", "elastix-bspline": "itk-elastix"}.get(name)
    package = "antspyx" if name.startswith("syn") else package or "SimpleITK"
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    own = folder / "settings"
    own.mkdir()
    if name in SMALL:
        (own / f"{name}.json").write_text(json.dumps({"settings": SMALL[name]}))
    [_, method] = candidates([name], settings=own)
    settings = dict(method.settings)
    if preset is not None:
        [_, guided] = candidates([name], settings=preset)
        settings |= {key: value for key, value in guided.settings.items() if key not in SMALL.get(name, {})}
    if "parameters" in settings:
        for old, new in PARAMETERS:
            assert old in settings["parameters"]
            settings["parameters"] = settings["parameters"].replace(old, new)
    return perform(
        {
            "kind": "baseline",
            "pair": {role: str(path) for role, path in scene.pair.files().items()},
            "method": name,
            "settings": settings,
            "rules": vars(Rules(time_limit=300)),
            "field": str(folder / "field.nii.gz"),
            "scratch": str(folder / "scratch"),
            "log": str(folder / "log.txt"),
        }
    )


def check(result: dict, scene, folder) -> None:
    assert result["status"] == "ok", (result["reason"], (folder / "log.txt").read_text()[-2000:])
    middle = tuple(slice(n // 3, -(n // 3)) for n in scene.fixed.shape)
    field = read_field(folder / "field.nii.gz")
    assert field.grid.same_space(scene.fixed)
    found = field.vectors[middle].reshape(-1, scene.fixed.dimension).mean(axis=0)
    # Each component by itself: a swapped or mirrored axis must not hide in the norm.
    assert found == pytest.approx(scene.shift, abs=1.0)
    assert result["overall"]["tre_mean"] < 0.5 * np.linalg.norm(scene.shift)
    assert np.mean([v["dice"] for v in result["labels"].values()]) > 0.8
    assert result["seconds"] > 0 and result["memory"] > 2**25
    assert not (folder / "scratch").exists()


@pytest.mark.parametrize("name", ["demons", "demons-symmetric", "bspline", "greedy"])
def test_three_dimensions(name, scene, tmp_path):
    check(register(name, scene, tmp_path), scene, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["syn", "syn-cc", "convexadam", "elastix-bspline"])
def test_three_dimensions_slow(name, scene, tmp_path):
    check(register(name, scene, tmp_path), scene, tmp_path)


@pytest.mark.parametrize("name", ["demons", "bspline", "greedy"])
def test_two_dimensions(name, scene_2d, tmp_path):
    check(register(name, scene_2d, tmp_path), scene_2d, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["syn", "elastix-bspline"])
def test_two_dimensions_slow(name, scene_2d, tmp_path):
    check(register(name, scene_2d, tmp_path), scene_2d, tmp_path)


@pytest.mark.slow
def test_a_tool_without_two_dimensions_says_so(scene_2d, tmp_path):
    result = register("convexadam", scene_2d, tmp_path)
    assert result["status"] == "failed"
    assert "convexAdam registers 3-D images only, found 2 dimensions" in result["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), [("elastix-bspline", "guided-points"), ("syn", "guided-labels")])
def test_guided(name, preset, scene, tmp_path):
    check(register(name, scene, tmp_path, preset), scene, tmp_path)
    bare = SimpleNamespace(pair=replace(scene.pair, **dict.fromkeys(GUIDES)), fixed=scene.fixed)
    (tmp_path / "bare").mkdir()
    result = register(name, bare, tmp_path / "bare", preset)
    assert "which this pair does not have" in result["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["guided-points", "guided-labels"])
def test_guides_of_this_package(preset, scene, tmp_path):
    [_, own] = candidates(["pdd"], settings=preset)
    result = by_method(compare([scene.pair], [own], tmp_path / "out"))["pdd"]
    assert result["status"] == "ok", result["reason"]


def test_guides_are_written_for_the_methods(scene, tmp_path):
    case, shift = load_case(scene.pair), np.array([3.0, -2.0, 5.0])
    files = _prepare(case, Rules(), shift, tmp_path)
    assert set(GUIDES) <= set(files)
    for side, moved in (("fixed", 0.0), ("moving", shift)):
        np.testing.assert_allclose(
            np.loadtxt(files[f"{side}_points"], delimiter=",", skiprows=1), getattr(case, f"{side}_points") - moved
        )
        image, labels = nibabel.load(files[f"{side}_labels"]), getattr(case, f"{side}_labels")
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, labels.array)
        assert np.issubdtype(image.get_data_dtype(), np.integer)
