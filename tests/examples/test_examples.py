"""The examples run as they are, and what they print is what they promise."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest import mock

import pytest

from itk_pdd.errors import RegistrationWarning

FOLDER = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.slow


def figures(script: str, folder: Path, *needed: str, data: Path | None = None) -> dict[str, list[float]]:
    """Run an example in an empty folder; the numbers of each line that it prints, by what stands before the colon."""
    for package in needed:
        try:
            version(package)  # importing it would take much longer
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
    variables = {"MPLBACKEND": "Agg"} | ({} if data is None else {"ITK_PDD_DATA": str(data)})
    # In this process: starting a program takes longer than most of the examples, which import itk and torch.
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        os.environ.pop("ITK_PDD_DATA", None)
        os.environ.update(variables)
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default", RegistrationWarning)
        output = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    lines = [line.split(":", 1) for line in output.getvalue().splitlines() if ":" in line]
    return {name: [float(number) for number in re.findall(r"-?\d+\.?\d*", rest)] for name, rest in lines}


def test_elastix_affine_then_pdd(tmp_path: Path) -> None:
    found = figures("01_elastix_affine_then_pdd.py", tmp_path, "itk-elastix")
    (before,), (affine,), (deformed,) = (found[n] for n in ("before", "elastix affine", "then itk_pdd"))
    assert before > 25
    assert affine < 0.5 * before
    assert deformed < min(0.8 * affine, 6.0), "below a voxel"
    assert found["warped image"][0] > 0.7


def test_pdd_then_elastix_bspline(tmp_path: Path) -> None:
    found = figures("02_pdd_then_elastix_bspline.py", tmp_path, "itk-elastix")
    (before,), (pdd,), (refined,) = (found[n] for n in ("before", "itk_pdd", "then elastix B-spline"))
    assert pdd < 0.4 * before
    assert refined < 0.95 * pdd
    assert refined < 0.9 * found["elastix B-spline alone"][0], "the start was not ignored"


def test_ants_affine_then_pdd(tmp_path: Path) -> None:
    found = figures("03_ants_affine_then_pdd.py", tmp_path, "antspyx")
    (before,), (affine,), (deformed,) = (found[n] for n in ("before", "ANTs affine", "then itk_pdd"))
    assert before < 0.2
    assert affine > 0.4
    assert deformed > affine + 0.1


def test_simpleitk(tmp_path: Path) -> None:
    found = figures("04_simpleitk.py", tmp_path)
    assert found["after"][0] > found["before"][0] + 0.1
    assert found["after, from its file"] == found["after"]
    assert found["inverse"][0] < 0.2


def test_demons_replaced(tmp_path: Path) -> None:
    found = figures("05_demons_replaced.py", tmp_path)
    assert found["demons"][0] < found["before"][0]
    assert found["itk_pdd"][0] < 0.2 * found["before"][0]


def test_demons_replaced_on_the_images_of_itk(tmp_path: Path, data: Path) -> None:
    found = figures("05_demons_replaced.py", tmp_path, data=data)
    assert found["itk_pdd"][0] < min(0.1 * found["before"][0], found["demons"][0])


def test_label_fusion(tmp_path: Path) -> None:
    found = figures("06_label_fusion.py", tmp_path)
    assert found["one atlas"][0] > found["before"][0] + 0.1
    assert found["majority of all"][0] > found["one atlas"][0]


def test_label_fusion_of_hippocampi(tmp_path: Path, data: Path) -> None:
    found = figures("06_label_fusion.py", tmp_path, data=data)
    assert found["one atlas"][0] > found["before"][0] + 0.1
    assert found["majority of all"][0] > max(found["one atlas"][0], 0.75)


def test_series(tmp_path: Path) -> None:
    found = figures("07_series.py", tmp_path)
    (error, deviation), (error_after, deviation_after) = found["before"], found["after"]
    assert error_after < 0.6 * error
    assert deviation_after < 0.8 * deviation


def test_sliding_organs(tmp_path: Path) -> None:
    found = figures("08_sliding_organs.py", tmp_path)
    slip = found["truth"][2]
    assert slip > 10
    assert found["one per side"][1] < 0.4 * found["one field"][1]
    assert abs(found["one per side"][2] - slip) < 0.25 * slip
    assert found["one field"][2] < 0.5 * slip, "one smooth field blurs the slip"


def test_every_example_is_tested_and_listed() -> None:
    scripts = {path.name for path in FOLDER.glob("*.py")}
    tested = set(re.findall(r'"(\d\d_\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    listed = set(re.findall(r"`(\d\d_\w+\.py)`", (FOLDER / "README.md").read_text(encoding="utf-8")))
    assert scripts == tested == listed


def test_labels(tmp_path: Path) -> None:
    found = figures("09_labels.py", tmp_path)
    (before,), (alone,), (guided,) = (found[n] for n in ("before", "images alone", "guided by labels"))
    assert before < 0.5
    assert guided > max(alone + 0.05, 0.95)


def test_landmarks(tmp_path: Path) -> None:
    found = figures("10_landmarks.py", tmp_path)
    alone, guided = found["images alone"], found["guided by landmarks"]
    assert guided[0] < 0.5 * alone[0]
    assert guided[1] < 1.05 * alone[1]
    assert found["not obeyed"] == [3]


def test_own_features(tmp_path: Path) -> None:
    found = figures("11_own_features.py", tmp_path)
    assert found["with features"][0] < 0.4 * found["before"][0]


def test_rigid_bones(tmp_path: Path) -> None:
    found = figures("12_rigid_bones.py", tmp_path)
    assert found["rigid"][0] < 0.05 < found["free"][0]
    assert found["rigid"][1] == 0
