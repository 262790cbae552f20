"""Other registration tools, run under the rules of the comparison.

Every tool has a module with one function ``register(task)`` and a file of settings (``settings/<method>.json``, for
elastix a parameter file) that can be read, copied and changed. :data:`METHODS` lists them.

May import errors, geometry and io.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itk_pdd.errors import RegistrationError

__all__ = ["METHODS", "Method", "Task", "find_settings", "load_settings", "run_method"]

SETTINGS = Path(__file__).parent / "settings"
"""Folder of the settings that come with the package; its subfolders are named presets."""


@dataclass(frozen=True)
class Task:
    """One registration to be done by a baseline."""

    # the images, NIfTI
    fixed: Path
    moving: Path
    field: Path  # where to write the field: an image of vectors in LPS millimetres on the grid of the fixed image
    folder: Path
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # content of the settings file
    threads: int = 1
    # labels of the images, NIfTI, for methods whose settings say that these guide
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    # corresponding landmarks, CSV with the columns x, y, z in LPS millimetres, for such methods
    fixed_points: Path | None = None
    moving_points: Path | None = None

    def both(self, what: str) -> tuple[Path, Path]:
        """Return the files of the labels or points of both images."""
        own, other = getattr(self, f"fixed_{what}"), getattr(self, f"moving_{what}")
        if own is None or other is None:
            raise RegistrationError(f"the settings ask for {what} as guides, which this pair does not have")
        return own, other


@dataclass(frozen=True)
class Method:
    """A baseline: the module that runs it and the package that has to be installed for it."""

    name: str
    module: str
    package: str
    about: str

    @property
    def version(self) -> str | None:
        """Version of the package, None if it is not installed (nothing is imported to find out)."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


METHODS = {
    method.name: method
    for method in (
        Method("demons", "demons", "SimpleITK", "SimpleITK, diffeomorphic demons"),
        Method("demons-symmetric", "demons", "SimpleITK", "SimpleITK, fast symmetric forces demons"),
        Method("bspline", "bspline", "SimpleITK", "SimpleITK, B-spline free-form deformation"),
        Method("elastix-bspline", "elastix", "itk-elastix", "elastix, B-spline with bending energy"),
        Method("syn", "syn", "antspyx", "ANTs, SyN with mutual information (Mattes)"),
        Method("syn-cc", "syn", "antspyx", "ANTs, SyN with neighbourhood cross-correlation"),
        Method("greedy", "greedy", "picsl-greedy", "greedy, windowed cross-correlation"),
        Method("convexadam", "convexadam", "convexAdam", "convexAdam with MIND features"),
    )
}
"""The baselines by their name."""


def find_settings(method: str, folder: str | Path | None = None) -> list[Path]:
    """List the settings files of a method: that of the package and, if there is one, that of ``folder``.

    ``folder`` holds settings of one's own, or is the name of a preset of the package (``hippocampus``).
    """
    folders = [SETTINGS]
    if folder is not None:
        preset = SETTINGS / str(folder)
        folders.append(preset if preset.is_dir() else Path(folder))
        if not folders[-1].is_dir():
            presets = ", ".join(sorted(p.name for p in SETTINGS.iterdir() if p.is_dir()))
            raise RegistrationError(f"settings {folder} is neither a folder nor one of the presets {presets}.")
    candidates = [base / f"{method}{ending}" for base in folders for ending in (".json", ".txt")]
    return [path for path in candidates if path.is_file()]


def load_settings(method: str, folder: str | Path | None = None) -> dict[str, Any]:
    """Load the settings of a method: those of the package, overridden one by one by those of ``folder``.

    A parameter file of elastix (``.txt``) is taken as it is; the one of ``folder`` replaces that of the package.
    """
    settings: dict[str, Any] = {}
    for path in find_settings(method, folder):
        if path.suffix == ".txt":
            settings["parameters"] = path.read_text(encoding="utf-8")
            continue
        try:
            settings |= json.loads(path.read_text(encoding="utf-8"))["settings"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise RegistrationError(f'settings {path} must be a JSON object with "settings": {error!r}.') from None
    return settings


def run_method(method: str, task: Task) -> None:
    """Run a baseline in this process (the comparison does it in a process of its own for each run)."""
    if method not in METHODS:
        raise RegistrationError(f"method must be one of {', '.join(METHODS)}, found {method!r}.")
    found = METHODS[method]
    if found.version is None:
        raise RegistrationError(f"method {method} needs the package {found.package}: pip install {found.package}")
    importlib.import_module(f"{__name__}.{found.module}").register(task)
