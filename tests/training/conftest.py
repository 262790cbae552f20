"""Small labelled scans: a bright ball on the left, a darker one on the right, in noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from itk_pdd.geometry.grid import Grid
from itk_pdd.io.files import write_image
from itk_pdd.io.volume import Volume
from itk_pdd.training.cases import LabelledScan

GRID = Grid.create((24, 20, 16), (2.0, 2.0, 2.0))


def balls(grid: Grid, seed: int, *, right: bool = True) -> tuple[Volume, Volume]:
    """Image and labels in physical space, so that any grid over the same place shows the same anatomy."""
    rng = np.random.default_rng(seed)
    points = grid.points()
    labels = np.zeros(grid.shape, np.uint8)
    for value, x in ((1, 12.0), (2, 34.0))[: 2 if right else 1]:
        centre = np.array([x, 19.0, 15.0]) + rng.uniform(-2, 2, 3)
        labels[np.linalg.norm(points - centre, axis=-1) < 8] = value
    image = 100 * (labels == 1) + 60 * (labels == 2) + 5 * rng.normal(size=grid.shape)
    return Volume(image.astype(np.float32), grid), Volume(labels, grid)


def write_scan(folder: Path, name: str, image: Volume, labels: Volume, split: str = "train") -> LabelledScan:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{kind}_{name}.nii.gz" for kind in ("image", "label")]
    for path, volume in zip(paths, (image, labels), strict=True):
        write_image(volume.to_simpleitk(), path)
    return LabelledScan(*paths, split=split)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledScan]:
    """Four scans to train on, two to validate on."""
    folder = tmp_path_factory.mktemp("scans")
    return [write_scan(folder, str(n), *balls(GRID, n), split="train" if n < 4 else "validation") for n in range(6)]


@pytest.fixture(scope="session")
def listed(scans: list[LabelledScan]) -> Path:
    """The scans as a CSV file."""
    path = scans[0].image.parent / "data.csv"
    rows = "".join(f"{s.image.name},{s.labels.name},{s.split}\n" for s in scans)
    path.write_text(f"image,labels,split\n{rows}")
    return path
