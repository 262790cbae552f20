"""
ANTs aligns, itk_pdd deforms, ANTs applies
==========================================

Everything goes through files (needs antspyx).
"""

import tempfile
from pathlib import Path

import ants
import itk
import numpy as np
import SimpleITK as sitk

import itk_pdd
from itk_pdd.evaluation.metrics import dice
from itk_pdd.synthesis import make_pair, random_affine


def main() -> None:
    grid = itk_pdd.Grid.create((48, 40, 32), 6.0)
    affine = random_affine(grid, seed=3, rotation=6.0, translation=15.0)
    pair = make_pair(grid.size, grid.spacing, seed=1, displacement=20.0, affine=affine)
    with tempfile.TemporaryDirectory() as folder:
        run(pair, Path(folder))


def run(pair, folder: Path) -> None:
    """Write the pair, run the tools and print the overlap of the labels."""
    volumes = {"fixed": pair.fixed, "moving": pair.moving, "labels": pair.moving_labels}
    paths = {name: str(folder / f"{name}.nii.gz") for name in (*volumes, "field")}
    for name, volume in volumes.items():
        sitk.WriteImage(volume.to_simpleitk(), paths[name])
    fixed, moving, labels = (ants.image_read(paths[name]) for name in volumes)

    # Of images as small as these a fifth of the voxels, ANTs' default, is few: one run in eight ends nowhere near.
    found = ants.registration(fixed, moving, "Affine", outprefix=str(folder / "ants_"), aff_random_sampling_rate=1.0)
    affine = found["fwdtransforms"]  # one 0GenericAffine.mat; a list of several is taken in ANTs' order
    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=paths["fixed"], moving_image=paths["moving"], initial_transform=affine
    )
    # The affine is part of the result, so ANTs gets this field alone.
    itk.imwrite(method.GetDisplacementField(), paths["field"])
    for name, transforms in (("before", []), ("ANTs affine", affine), ("then itk_pdd", [paths["field"]])):
        warped = ants.apply_transforms(fixed, labels, transforms, interpolator="nearestNeighbor")
        # ANTs' arrays are x, y, z.
        overlap = dice(pair.fixed_labels.array, warped.numpy().T.astype(np.uint8), range(1, 14))
        print(f"{name}: Dice {np.nanmean(list(overlap.values())):.3f}")

    itk_pdd.plot.overlay(paths["fixed"], paths["moving"])  # before: fixed green, moving magenta, grey where they agree
    itk_pdd.plot.overlay(paths["fixed"], method.GetOutput())


if __name__ == "__main__":
    main()
