"""Wheel and source distribution hold what they need, and the wheel works away from the checkout."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import itk_pdd
from itk_pdd import __version__

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "*.egg-info", "build", "dist", ".*_cache", ".hypothesis",
                                  "_build", "_gallery", ".venv", "demo", "runs")  # fmt: skip
BUILD = """
import sys
from setuptools import build_meta
folder = sys.argv[1]
build_meta.build_wheel(folder)
build_meta.build_sdist(folder)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """Both packages, built from a copy of the tree."""
    pytest.importorskip("setuptools", minversion="70")
    if not (ROOT / "itk_pdd").is_dir():
        pytest.skip("the package is tested without its source tree")
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_OUT)
    done = subprocess.run(
        [sys.executable, "-P", "-c", BUILD, str(folder)], cwd=folder / "tree", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def wanted(folder: str) -> set[str]:
    """Files of a folder of the checkout, relative to its root."""
    unwanted = {"__pycache__", "_build", "_gallery", "commands.md"}
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file() and not unwanted & set(path.parts))
    return {path.relative_to(ROOT).as_posix() for path in files if path.suffix != ".pyc"}


def test_the_wheel_holds_the_package_and_all_its_data(packages) -> None:
    (path,) = packages.glob("*.whl")
    assert path.name == f"itk_pdd-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(f"itk_pdd-{__version__}.dist-info/METADATA").decode()
    expected = wanted("itk_pdd") | {name.replace("cli/", "itk_pdd/cli/", 1) for name in wanted("cli")}
    assert names == expected, "every file of the package, and nothing else"
    assert "itk_pdd/py.typed" in names and "itk_pdd/models/abdomen-ct/curve.png" in names
    assert "OS Independent" not in metadata


def test_the_source_distribution_holds_tests_pages_and_examples(packages) -> None:
    (path,) = packages.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("itk_pdd", "cli", "tests", "docs", "examples", "conda", "deploy", ".github"):
        assert wanted(folder) - names == set(), folder
    assert {"constraints.txt", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", ".ci/run"} <= names


def test_the_wheel_works_away_from_the_checkout(packages, tmp_path) -> None:
    """Every module of the commands, every model and every template are found in what was unpacked."""
    (path,) = packages.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import itk_pdd, importlib\n"
        "assert itk_pdd.__file__.startswith(sys.argv[1]), itk_pdd.__file__\n"
        "itk_pdd.__path__[:] = itk_pdd.__path__[:1]\n"
        "from itk_pdd import models\n"
        "found = [models.load(name) for name in models.names()]\n"
        "from itk_pdd.report.page import _environment\n"
        "assert len(_environment().list_templates()) > 5\n"
        "from itk_pdd.evaluation.methods import candidates; candidates(['pdd', 'demons'])\n"
        "for name in ('register', 'transform', 'compare', 'train', 'evaluate'):\n"
        "    importlib.import_module(f'itk_pdd.cli.{name}').main(['--help'], standalone_mode=False)\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path / "site")], cwd=tmp_path, env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_one_version_everywhere() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f'"{__version__}"' in (Path(itk_pdd.__file__).parent / "_version.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    """The package's settings."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_workflows_use_versions_and_extras_that_there_are(setup) -> None:
    yaml = pytest.importorskip("yaml")
    versions = set(re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE))
    installed, tried = {}, set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            assert job["timeout-minutes"] and job["steps"], path.name
            tried |= set(job.get("strategy", {}).get("matrix", {}).get("python", ()))
            for step in job["steps"]:
                assert len({"uses", "run"} & set(step)) == 1, step
                found = re.findall(r"\[([\w,]+)\]\"", step.get("run", ""))
                installed.setdefault(path.stem, set()).update(*(extras.split(",") for extras in found))
    assert tried == versions
    assert installed == {"tests": {"test"}, "packages": {"test"}, "docs": {"docs", "compare"}}, (
        "elastix for the gallery"
    )
    assert set().union(*installed.values()) <= set(setup["options.extras_require"])


def test_the_recipe_needs_what_the_package_needs(setup) -> None:
    """conda names torch pytorch, and SimpleITK simpleitk."""
    needed = [line.strip().split(";")[0] for line in setup["options"]["install_requires"].splitlines() if line.strip()]
    recipe = (ROOT / "conda" / "meta.yaml").read_text(encoding="utf-8")
    for each in needed:
        if not each.startswith("#"):
            name = each.replace("torch", "pytorch").lower().replace(">=", " >=")
            assert f"    - {name}\n" in recipe, name
    for script in setup["options.entry_points"]["console_scripts"].split("\n")[1:]:
        assert f"    - {script.strip()}\n" in recipe, script
