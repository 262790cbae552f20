"""The verdict as a script sees it, and the record of a registration."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from itk_pdd.cli.register import main

import itk_pdd
from itk_pdd import PDDRegistrationMethod
from itk_pdd.solver.record import file_name, peak_memory
from itk_pdd.synthesis import make_pair


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    made = make_pair((90, 80), 2.0, seed=3, kind="abdomen", displacement=15)
    noise = np.random.default_rng(0).normal(size=made.fixed.grid.shape).astype(np.float32)
    paths = tuple(folder / f"{name}.nii.gz" for name in ("fixed", "moving", "noise"))
    for path, image in zip(paths, (made.fixed, made.moving, None), strict=True):
        found = SimpleITK.GetImageFromArray(noise) if image is None else image.to_simpleitk()
        found.CopyInformation(made.fixed.to_simpleitk())
        SimpleITK.WriteImage(found, str(path))
    return paths


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_exit_codes_of_a_failure(files, tmp_path) -> None:
    fixed, moving, noise = files
    out = tmp_path / "field.mha"
    failed = run(fixed, noise, "-o", out)
    assert failed.exit_code == 0 and "Verdict: probably failed." in failed.output, "told in a pipe without -v"
    out.unlink()
    strict = run(fixed, noise, "-o", out, "--strict")
    assert strict.exit_code == 4 and out.exists(), "the files are written"
    assert run(fixed, moving, "-o", out, "--strict").exit_code == 0
    assert "Verdict" not in run(fixed, moving, "-o", out).output, "silent in a pipe where it is good"


@pytest.mark.parametrize("other", [("--no-quality",), ("--stages", "affine")])
def test_strict_needs_a_verdict(files, tmp_path, other) -> None:
    found = run(*files[:2], "-o", tmp_path / "f.mha", "--strict", *other)
    assert found.exit_code == 2 and "--strict needs a verdict" in found.output


def test_record(files, tmp_path) -> None:
    fixed, moving, _ = files
    path, report = tmp_path / "run.json", tmp_path / "page.html"
    done = run(fixed, moving, "-o", tmp_path / "f.mha", "--record", path, "--report", report, "--smoothness", "1.5")
    assert done.exit_code == 0, done.output
    text = path.read_text()
    found = json.loads(text)
    assert str(tmp_path) not in text and str(fixed.parent) not in text
    assert found["inputs"]["fixed"]["sha256"] == hashlib.sha256(fixed.read_bytes()).hexdigest()
    image = SimpleITK.ReadImage(str(fixed))
    assert found["inputs"]["fixed"]["size"] == list(image.GetSize())
    assert found["inputs"]["fixed"]["spacing"] == pytest.approx(image.GetSpacing())
    assert found["versions"]["itk_pdd"] == itk_pdd.__version__ and "python" in found["versions"]
    assert found["versions"]["numpy"] == np.__version__
    assert found["options"]["smoothness"] == 1.5 and found["options"]["seed"] == 0
    assert found["model"]["name"] == "mind-ssc" and len(found["model"]["settings_sha256"]) == 64
    assert found["command"][1:4] == ["fixed.nii.gz", "moving.nii.gz", "-o"] and "f.mha" in found["command"]
    assert found["outputs"]["record"] == "run.json" and found["warnings"] == []
    assert found["verdict"]["word"] == "good" and found["verdict"]["figures"]["likeness"] > 0.5
    assert found["seconds"] > 0 and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    page = report.read_text()
    assert found["date"][:10] in page and "mind-ssc" in page and "smoothness 1.5" in page
    assert str(fixed.parent) not in page


def test_paths_on_request(files, tmp_path) -> None:
    path = tmp_path / "run.json"
    assert run(*files[:2], "-o", tmp_path / "f.mha", "--record", path, "--record-paths").exit_code == 0
    found = json.loads(path.read_text())
    assert found["inputs"]["fixed"]["name"] == str(files[0]) and str(files[0]) in found["command"]
    assert run(*files[:2], "-o", tmp_path / "f.mha", "--record-paths").exit_code == 2


def test_no_half_record(files, tmp_path) -> None:
    """The record is written with the other files, or not at all."""
    path = tmp_path / "run.json"
    assert run(*files[:2], "-o", tmp_path / "missing" / "f.mha", "--record", path).exit_code == 3
    assert not path.exists() and list(tmp_path.iterdir()) == []


def test_method_gives_verdict_and_record(files) -> None:
    fixed, moving, _ = (SimpleITK.ReadImage(str(path)) for path in files)
    method = PDDRegistrationMethod.New(fixed_image=fixed, moving_image=str(files[1]))
    assert method.GetVerdict().word == "good"
    found = method.GetRecord()
    voxels = hashlib.sha256(np.ascontiguousarray(SimpleITK.GetArrayViewFromImage(fixed)).tobytes()).hexdigest()
    assert found["inputs"]["fixed"]["sha256"] == voxels and found["inputs"]["fixed"]["sha256_of"] == "voxels"
    assert found["inputs"]["moving"]["name"] == "moving.nii.gz" and found["inputs"]["moving"]["sha256_of"] == "file"
    assert found["verdict"] == method.GetVerdict().to_dict()
    json.dumps(found)
    transform, verdict = itk_pdd.register(fixed, moving, return_verdict=True)
    assert verdict == method.GetVerdict() and transform.GetDimension() == 2
    assert len(itk_pdd.register(fixed, moving, return_uncertainty="full", return_verdict=True)) == 3


def test_names_without_folders() -> None:
    assert file_name("/a/b/c.nii.gz") == "c.nii.gz" and file_name("/a/dicom/") == "dicom"
    assert file_name("--output=/a/b.nii") == "--output=b.nii" and file_name("[/a/b.mat,1]") == "[b.mat,1]"
    assert file_name("C:\\data\\x.nii") == "x.nii" and file_name("0.5") == "0.5"
    assert file_name("/home/A Patient/x y.nii") == "x y.nii" and file_name("--model=/home/A Patient/m") == "--model=m"


def test_memory_is_that_of_this_process() -> None:
    found = peak_memory()
    assert found is None or 20e6 < found < 1e12
