"""Every baseline finds a known shift between oblique grids, with vectors that point the right way."""

from __future__ import annotations

import importlib.metadata
import json

import numpy as np
import pytest

from itk_pdd.evaluation.methods import candidates
from itk_pdd.evaluation.run import Rules, perform
from itk_pdd.io.fields import read_field

# Small images want small steps; what is tested is the way through the tool, not its defaults.
SMALL = {
    "bspline": {"levels": [{"control_spacing_mm": 20, "shrink_factor": 1, "smoothing_sigma_mm": 1, "samples": 3000,
                            "iterations": 25}]},
    "syn-cc": {"iterations": [40, 20, 0]},
    "syn": {"iterations": [40, 20, 10]},
    "convexadam": {"grid_sp": 3, "disp_hw": 3},
}  # fmt: skip
PARAMETERS = [("MaximumNumberOfIterations 500", "MaximumNumberOfIterations 150"), ("Resolutions 4", "Resolutions 2")]


def register(name: str, scene, folder) -> dict:
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
