"""Labels of both images: their overlap in log, record and report."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from itk_pdd.cli.register import main

from itk_pdd import Volume
from itk_pdd.commands.register import register_files
from itk_pdd.errors import RegistrationWarning
from itk_pdd.synthesis import make_pair


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("labelled")
    made = make_pair((90, 80), 2.0, seed=3, kind="abdomen", displacement=15)
    found = SimpleNamespace(folder=folder, made=made)
    for name in ("fixed", "moving", "fixed_labels", "moving_labels"):
        path = folder / f"{name}.nii.gz"
        SimpleITK.WriteImage(getattr(made, name).to_simpleitk(), str(path))
        setattr(found, name, path)
    return found


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def dice(first: np.ndarray, second: np.ndarray, label: int) -> float:
    a, b = first == label, second == label
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def done(files) -> SimpleNamespace:
    out = files.folder
    result = run(
        files.fixed, files.moving, "--fixed-labels", files.fixed_labels, "--moving-labels", files.moving_labels,
        "--report", out / "page.html", "--record", out / "run.json", "--warped-labels", out / "warped.nii.gz", "-v",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return SimpleNamespace(
        output=result.output, record=json.loads((out / "run.json").read_text()),
        page=(out / "page.html").read_text(encoding="utf-8"),
        warped=SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "warped.nii.gz"))),
    )  # fmt: skip


def test_dice_is_that_of_the_files(files, done) -> None:
    """Counted anew from the label maps on the disk; the moving ones before lie at their physical coordinates."""
    fixed, before = (getattr(files.made, f"{name}_labels").array for name in ("fixed", "moving"))
    assert files.made.fixed.grid.same_space(files.made.moving.grid)
    found = done.record["dice"]
    for name, moved in (("before", before), ("after", done.warped)):
        expected = {str(n): dice(fixed, moved, n) for n in np.unique(fixed) if n}
        assert found[name]["labels"] == pytest.approx(expected, abs=2e-5)
        assert found[name]["mean"] == pytest.approx(np.mean(list(expected.values())), abs=2e-5)
    assert found["after"]["mean"] > found["before"]["mean"] + 0.1
    assert done.record["inputs"]["fixed_labels"]["name"] == "fixed_labels.nii.gz"


def test_log_and_report_tell_the_same(done) -> None:
    words = f"mean {done.record['dice']['before']['mean']:.3f} before and {done.record['dice']['after']['mean']:.3f}"
    assert f"Dice overlap, {words} after." in done.output and f"Dice overlap, {words} after." in done.page
    data = json.loads(re.search(r'id="report-data">(.*?)</script>', done.page, re.DOTALL)[1])["pairs"][0]
    assert {"labels"} <= data["fixed"].keys() & data["before"].keys() & data["methods"][0].keys(), "contours of both"


def test_the_report_names_the_options_that_were_chosen(done) -> None:
    assert re.search(r">Options</td>\s*<td[^>]*>seed 0</td>", done.page)  # all else is as by default
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", done.page)


def test_an_alignment_alone_compares_with_the_physical_coordinates(files, done) -> None:
    path = files.folder / "affine.json"
    labels = "--fixed-labels", files.fixed_labels, "--moving-labels", files.moving_labels
    result = run(files.fixed, files.moving, *labels, "--stages", "affine", "--record", path)
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())["dice"]
    assert found["before"] == done.record["dice"]["before"] and found["after"] != found["before"]


def test_moving_labels_are_drawn_in_the_report_alone(files) -> None:
    result = run(files.fixed, files.moving, "--moving-labels", files.moving_labels, "--report", files.folder / "p.html")
    assert result.exit_code == 0, result.output
    assert "Dice overlap" not in (files.folder / "p.html").read_text(encoding="utf-8")


def test_fixed_labels_need_moving_labels(files) -> None:
    result = run(files.fixed, files.moving, "-o", files.folder / "f.mha", "--fixed-labels", files.fixed_labels)
    assert result.exit_code == 2 and "belong together" in result.output


def test_fixed_labels_of_another_grid_are_refused(files) -> None:
    labels = files.made.fixed_labels
    other = labels.grid.with_spacing(3)
    path = files.folder / "other.nii.gz"
    SimpleITK.WriteImage(Volume(np.ones(other.shape, np.uint8), other).to_simpleitk(), str(path))
    given = "--moving-labels", files.moving_labels, "--fixed-labels"
    result = run(files.fixed, files.moving, "-o", files.folder / "g.mha", *given, path)
    assert result.exit_code == 1 and "fixed_labels" in result.output.replace("--fixed-labels", "fixed_labels")
    assert "resample" in result.output and not (files.folder / "g.mha").exists()
    fractions = files.folder / "fractions.nii.gz"
    SimpleITK.WriteImage(
        Volume(np.full(labels.grid.shape, 0.5, np.float32), labels.grid).to_simpleitk(), str(fractions)
    )
    result = run(files.fixed, files.moving, "-o", files.folder / "g.mha", *given, fractions)
    assert result.exit_code == 1 and "is no label image" in result.output


def test_moving_labels_of_another_place_are_told(files) -> None:
    """None of them arrives on the fixed image: likely the labels of another scan."""
    far, path = SimpleITK.ReadImage(str(files.moving_labels)), files.folder / "far.nii.gz"
    far.SetOrigin([origin + 5000.0 for origin in far.GetOrigin()])
    SimpleITK.WriteImage(far, str(path))
    with pytest.warns(RegistrationWarning, match="the warped labels are empty"):
        register_files(
            files.fixed, files.moving, moving_labels=path, warped_labels=files.folder / "none.nii.gz", quality=False
        )
