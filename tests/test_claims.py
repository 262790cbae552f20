"""What README.md and the help texts promise and no other test holds them to."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from conftest import GEOMETRIES, blobs
from itk_pdd.cli import compare, evaluate, register, train, transform

import itk_pdd
from itk_pdd import models
from itk_pdd.geometry.grid import Grid
from itk_pdd.network.card import CARD, WEIGHTS, kind_of
from itk_pdd.synthesis import make_pair

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    "pdd-register": register.main,
    "pdd-transform": transform.main,
    "pdd-compare": compare.main,
    "pdd-train": train.main,
    "pdd-evaluate": evaluate.main,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A small pair where README's Python code looks for one."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "demo").mkdir()
    pair = make_pair((40, 36, 32), 3.0, seed=0)
    for name in ("fixed", "moving"):
        image = getattr(pair, name).to_simpleitk()
        SimpleITK.WriteImage(image, str(folder / "demo" / f"{name}.nii.gz"))
    return folder


def test_the_python_code_of_the_readme_runs_as_it_stands(demo) -> None:
    section = re.search(r"## Three ways to use it\n(.*?)\n## ", README, re.DOTALL)[1]
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    code += "\nassert warped.GetLargestPossibleRegion().GetSize() == fixed.GetLargestPossibleRegion().GetSize()"
    found = subprocess.run([sys.executable, "-P", "-c", code], cwd=demo, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "100%" in found.stdout, "the observer tells the progress"


def test_the_models_of_the_readme_come_with_the_package() -> None:
    named = set(re.findall(r"^\| `([\w-]+)`", README, re.MULTILINE))
    assert named == set(models.names()), "the table of models"
    for name in named - {models.DEFAULT.name}:
        assert models.load(name).name == name
        folder = Path(models.__file__).parent / name
        weights = set() if kind_of(folder) == "combined" else {WEIGHTS}
        assert {CARD} | weights <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_and_its_default(name: str) -> None:
    result = CliRunner().invoke(COMMANDS[name], ["--help"])
    assert result.exit_code == 0
    shown = result.output
    if name == "pdd-train":  # the old form takes the options of all trainings; each stands with its training
        for kind in COMMANDS[name].commands:
            shown += CliRunner().invoke(COMMANDS[name], [kind, "--help"]).output
        shown += "--method"
    for parameter in COMMANDS[name].params:
        if parameter.opts[0].startswith("-") and not getattr(parameter, "hidden", False):
            assert parameter.opts[-1] in shown
    assert CliRunner().invoke(COMMANDS[name], ["--version"]).output.startswith(name)
    assert CliRunner().invoke(COMMANDS[name], ["--no-such-option"]).exit_code == 2, "2: wrong usage"


def test_help_loads_no_heavy_library_and_lists_the_models() -> None:
    code = (
        "import importlib, sys\n"
        "main = importlib.import_module(f'itk_pdd.cli.{sys.argv[1]}').main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'itk', 'SimpleITK', 'torch', 'numba', 'numpy', 'scipy', 'pydicom', 'nibabel'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for name in COMMANDS:
        command = [sys.executable, "-P", "-c", code, name.removeprefix("pdd-")]
        found = subprocess.run(command, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        assert name != "pdd-register" or all(model in found.stdout for model in models.names())


def test_warped_image_is_background_outside_and_resampled_linearly(tmp_path) -> None:
    """--warped: linear, pixel type kept; outside is the moving image's background, or what --default says.

    A moving image half as long leaves the rest of the fixed one empty.
    """
    grid = Grid.create((32, 24), 2.0)
    fixed = blobs(grid, seed=1)
    paths = [str(tmp_path / name) for name in ("f.nii", "m.nii", "u.nii", "w.nii")]
    SimpleITK.WriteImage(fixed.to_simpleitk(), paths[0])
    moving = SimpleITK.Cast(fixed.to_simpleitk() + 100, SimpleITK.sitkInt16)[:16, :]
    array = SimpleITK.GetArrayFromImage(moving)
    array[[0, -1]] = array[:, [0, -1]] = -25  # a border, darker than what it encloses
    place, moving = moving, SimpleITK.GetImageFromArray(array)
    moving.CopyInformation(place)
    SimpleITK.WriteImage(moving, paths[1])
    for outside, words in ((-25, ["-v"]), (7, ["--default", "7"])):
        result = CliRunner().invoke(register.main, [*paths[:2], "-o", paths[2], "--warped", paths[3], *words])
        assert result.exit_code == 0, result.output
        assert ("warped one is -25, the background as found" in result.output) == (outside == -25)
        warped, field = SimpleITK.ReadImage(paths[3]), SimpleITK.ReadImage(paths[2], SimpleITK.sitkVectorFloat64)
        assert warped.GetPixelID() == SimpleITK.sitkInt16
        transform_ = SimpleITK.DisplacementFieldTransform(field)
        exact = SimpleITK.Resample(
            moving, fixed.to_simpleitk(), transform_, SimpleITK.sitkLinear, outside, SimpleITK.sitkFloat64
        )
        np.testing.assert_allclose(SimpleITK.GetArrayFromImage(warped), SimpleITK.GetArrayFromImage(exact), atol=0.51)
        assert (SimpleITK.GetArrayFromImage(warped)[:, -4:] == outside).all()


def test_the_demo_says_what_it_writes_and_takes_no_other_input(tmp_path) -> None:
    result = CliRunner().invoke(register.main, ["--demo", str(tmp_path / "demo"), "-o", str(tmp_path / "u.nii")])
    assert result.exit_code == 2 and "leave the others out" in result.output


def test_a_seed_changes_nothing_in_the_default_model_and_is_accepted() -> None:
    pair = make_pair((40, 32), 2.0, seed=1, kind="shapes")
    images = pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()
    first, second = (itk_pdd.register(*images, seed=seed).GetDisplacementField() for seed in (0, 5))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(first), SimpleITK.GetArrayFromImage(second))


def test_importing_brings_no_network_access_and_no_output(tmp_path) -> None:
    """The package works offline: nothing is fetched, nothing printed, nothing written to the current folder."""
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "import itk_pdd, SimpleITK, numpy as np\n"
        "a = SimpleITK.GetImageFromArray(np.random.default_rng(0).normal(size=(24, 24)).astype('f4'))\n"
        "itk_pdd.register(a, a)\n"
    )
    (tmp_path / "here").mkdir()
    found = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path / "here", capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert list((tmp_path / "here").iterdir()) == []


def test_grids_of_the_result(tmp_path) -> None:
    """-o lies on the grid of FIXED, --inverse on the grid of MOVING, whatever their geometry."""
    fixed, moving = blobs(GEOMETRIES["oblique"], seed=1), blobs(GEOMETRIES["anisotropic"], seed=1)
    paths = [str(tmp_path / name) for name in ("f.mha", "m.mha", "u.mha", "v.mha")]
    for volume, path in zip((fixed, moving), paths, strict=False):
        SimpleITK.WriteImage(volume.to_simpleitk(), path)
    result = CliRunner().invoke(
        register.main, [*paths[:2], "-o", paths[2], "--inverse", paths[3], "--initialise", "center"]
    )
    assert result.exit_code == 0, result.output
    for image, field in ((paths[0], paths[2]), (paths[1], paths[3])):
        a, b = SimpleITK.ReadImage(image), SimpleITK.ReadImage(field)
        assert a.GetSize() == b.GetSize()
        np.testing.assert_allclose(a.GetOrigin(), b.GetOrigin(), atol=1e-9)
        np.testing.assert_allclose(a.GetDirection(), b.GetDirection(), atol=1e-9)
