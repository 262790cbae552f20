"""The demo writes what it promises; the engine is a stand-in that knows the truth."""

from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from itk_pdd.cli.register import main

from itk_pdd.commands import demo
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.fields import read_field
from itk_pdd.synthesis import make_pair

FILES = sorted(
    ["fixed", "moving", "fixed_labels", "moving_labels", "field", "truth", "warped", "warped_labels"], key=str
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_SIZE", (48, 40, 32))
    monkeypatch.setattr(demo, "_SPACING", 8.0)


def test_demo(engine, small, tmp_path) -> None:
    truth = make_pair((48, 40, 32), 8.0, seed=3, kind="abdomen").truth
    engine.field = lambda grid: DisplacementField(0.95 * truth.vectors, grid)
    result = CliRunner().invoke(main, ["--demo", str(tmp_path / "deep" / "demo"), "--seed", "3", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    written = sorted(p.name for p in (tmp_path / "deep" / "demo").iterdir())
    assert written == sorted(["overview.png", *[f"{name}.nii.gz" for name in FILES]])
    scores = [float(s) for s in re.search(r"Dice .*: ([\d.]+) before, ([\d.]+) after", result.output).groups()]
    assert scores[1] > scores[0] + 0.1
    errors = [float(s) for s in re.search(r"mean ([\d.]+) mm before, ([\d.]+) mm after", result.output).groups()]
    assert errors[1] < 0.1 * errors[0]
    folder = tmp_path / "deep" / "demo"
    np.testing.assert_allclose(read_field(folder / "truth.nii.gz").vectors, truth.vectors, atol=1e-5)
    labels = SimpleITK.ReadImage(str(folder / "warped_labels.nii.gz"))
    assert labels.GetPixelID() == SimpleITK.sitkUInt8
    (call,) = engine.calls
    assert (call.seed, call.device) == (3, "cpu")


def test_folder_that_cannot_be_made(engine, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "demo"):
        result = CliRunner().invoke(main, ["--demo", str(path)])
        assert result.exit_code == 3
        assert result.output.startswith("Error: the folder ")
        assert result.output.count("\n") == 1
    assert not engine.calls
