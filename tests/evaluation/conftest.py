"""A small pair of images with known truth, in files, and a stand-in for a registration program."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from itk_pdd.evaluation.datasets import Pair, write_pairs
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import write_field
from itk_pdd.io.files import write_image
from itk_pdd.io.volume import Volume


@dataclass(frozen=True)
class Scene:
    """A pair in files: y = x + ``shift`` for corresponding points x of the fixed and y of the moving image."""

    folder: Path
    pair: Pair
    fixed: Grid
    moving: Grid
    shift: np.ndarray

    @property
    def truth(self) -> DisplacementField:
        """The true field on the grid of the fixed image."""
        return DisplacementField(
            np.broadcast_to(self.shift, (*self.fixed.shape, len(self.shift))).astype(np.float32), self.fixed
        )

    def write_truth(self, name: str = "truth.nii.gz") -> Path:
        """Write the true field, for programs that copy it."""
        write_field(self.truth, self.folder / name)
        return self.folder / name


def intensities(points: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Anatomy as a function of physical points near the origin."""
    rng = np.random.default_rng(seed)
    result = np.zeros(points.shape[:-1])
    for _ in range(30):
        place = rng.uniform(-20, 20, points.shape[-1])
        width = rng.uniform(3.5, 7)
        result += rng.uniform(30, 100) * np.exp(-((points - place) ** 2).sum(-1) / (2 * width**2))
    return result


def make_scene(folder: Path, dimension: int = 3, shift: np.ndarray | None = None) -> Scene:
    """Write the images, labels, masks and landmarks of a shifted anatomy on two different oblique grids."""
    turn = 0.3
    direction = np.eye(dimension)
    direction[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    direction[:, -1] *= -1  # left-handed, as many scanners write
    size, spacing = (26, 24, 22)[:dimension], (2.0, 2.2, 2.4)[:dimension]
    grids = []
    for n, axes in ((np.array(size), direction), (np.array(size) + 2, np.eye(dimension))):
        corner = Grid.create(n, spacing, 0.0, axes)
        grids.append(Grid.create(n, spacing, -corner.centre, axes))
    shift = np.array([3.0, -2.0, 2.5][:dimension]) if shift is None else np.asarray(shift, dtype=float)
    files = {}
    landmarks = np.random.default_rng(1).uniform(-12, 12, size=(6, dimension))
    for side, grid, offset in (("fixed", grids[0], 0.0), ("moving", grids[1], shift)):
        values = intensities(grid.points() - offset)
        labels = np.digitize(values, [60.0, 110.0]).astype(np.uint8)
        for role, array in (("", values), ("_labels", labels), ("_mask", (values > 5).astype(np.uint8))):
            files[side + role] = folder / f"{side}{role}.nii.gz"
            write_image(
                Volume(array.astype(np.float32) if not role else array, grid).to_simpleitk(), files[side + role]
            )
        files[f"{side}_points"] = folder / f"{side}.csv"
        with files[f"{side}_points"].open("w", newline="") as stream:
            csv.writer(stream).writerows([[*"xyz"[:dimension]], *(landmarks + offset).tolist()])
    return Scene(folder, Pair(**files), *grids, shift)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A 3-D pair."""
    (tmp_path / "data").mkdir()
    return make_scene(tmp_path / "data")


@pytest.fixture
def scene_2d(tmp_path: Path) -> Scene:
    """A 2-D pair."""
    (tmp_path / "data2").mkdir()
    return make_scene(tmp_path / "data2", 2)


@pytest.fixture
def pairs_csv(scene: Scene) -> Path:
    """A list with the 3-D pair and its swap."""
    write_pairs(scene.folder / "pairs.csv", [scene.pair, scene.pair.swapped()])
    return scene.folder / "pairs.csv"


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], str]:
    """Make a program from a few lines of Python; gives the words to start it with."""

    def make(name: str, source: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(source)
        return f"{sys.executable} {path}"

    return make
