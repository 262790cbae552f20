"""On real pairs: points there, back and there again end where they were, and the stored inverse says its error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from itk_pdd import register, warp_points
from itk_pdd.evaluation.datasets import abdomen_pairs, hippocampus_pairs, lung_pair
from itk_pdd.io.transforms import as_mapping
from itk_pdd.io.volume import Volume
from itk_pdd.warp.composition import inverse_field

PAIRS = {
    "hippocampus": lambda: hippocampus_pairs(count=1)[0],
    "abdomen": lambda: abdomen_pairs(count=1)[0],
    "lung": lung_pair,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::itk_pdd.errors.RegistrationWarning")
@pytest.mark.parametrize("name", PAIRS)
def test_points_come_back(data: Path, name: str) -> None:
    pair = PAIRS[name]()
    fixed, moving = SimpleITK.ReadImage(str(pair.fixed)), SimpleITK.ReadImage(str(pair.moving))
    if name == "lung":
        fixed, moving = (SimpleITK.Clamp(image, image.GetPixelID(), -1024, 4000) for image in (fixed, moving))
        fixed, moving = (SimpleITK.Shrink(image, [2, 2, 2]) for image in (fixed, moving))
    if name == "abdomen":  # a quarter of it, in its voxels
        fixed, moving = (image[30:162, 20:140, 80:192] for image in (fixed, moving))
    chain = as_mapping(register(fixed, moving))
    grid = chain.grid
    index = np.random.default_rng(0).uniform(0, np.asarray(grid.size) - 1, (20000, grid.dimension))
    there = warp_points(grid.to_physical(index), chain, to="moving")
    again = warp_points(warp_points(there, chain, to="fixed", outside="nearest"), chain, to="moving", outside="nearest")
    distance = np.linalg.norm(again - there, axis=-1)
    assert distance.max() < 0.1, f"{distance.max():.3g} mm"
    # The inverse as a field of its own: exact at its voxels, but for those behind folds.
    _, error = inverse_field(chain, Volume.from_image(moving, name="moving").grid)
    assert error.solved > 0.999
    assert error.mean < 0.1
