"""
The demons stage replaced
=========================

The demons stage of ITK's example DeformableRegistration2 replaced by itk_pdd: the lines around it stay.

Its images are read from the folder classic_2d in ITK_PDD_DATA where that is set (a slice of a brain, and the same
slice deformed by a B-spline); without them a synthetic pair is taken.
"""

import os
from pathlib import Path

import itk
import numpy as np

import itk_pdd
from itk_pdd.synthesis import make_pair


def main() -> None:
    fixed, moving = read_images()

    # As in the example: the moving image gets the grey values of the fixed one.
    matcher = itk.HistogramMatchingImageFilter.New(moving, reference_image=fixed)
    matcher.SetNumberOfHistogramLevels(1024)
    matcher.SetNumberOfMatchPoints(7)
    matcher.ThresholdAtMeanIntensityOn()
    matcher.Update()

    # The stage of the example ...
    demons = itk.DemonsRegistrationFilter.New(
        fixed_image=fixed, moving_image=matcher.GetOutput(), number_of_iterations=50, standard_deviations=1.0
    )
    demons.Update()
    # ... and what takes its place.
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=fixed, moving_image=matcher.GetOutput())
    method.Update()

    print(f"before: mean squared difference {difference(fixed, matcher.GetOutput()):.0f}")
    for name, field in (("demons", demons.GetOutput()), ("itk_pdd", method.GetDisplacementField())):
        # As in the example: the field goes to a warp filter.
        warped = itk.warp_image_filter(
            matcher.GetOutput(),
            displacement_field=field,
            output_spacing=fixed.GetSpacing(),
            output_origin=fixed.GetOrigin(),
            output_direction=fixed.GetDirection(),
        )
        print(f"{name}: mean squared difference {difference(fixed, warped):.0f}")

    itk_pdd.plot.overlay(fixed, matcher.GetOutput())  # before: fixed green, moving magenta, grey where they agree
    itk_pdd.plot.deformation_grid(method.GetTransform(), image=fixed)


def read_images():
    """Fixed and moving image, float, on one grid."""
    folder = Path(os.environ.get("ITK_PDD_DATA", "")) / "classic_2d"
    if "ITK_PDD_DATA" not in os.environ or not folder.is_dir():
        pair = make_pair((128, 112), 2.0, seed=3, displacement=18.0)
        return pair.fixed.to_itk(), pair.moving.to_itk()
    # The first is stored with three equal colours.
    names = "BrainProtonDensitySliceBorder20.png", "BrainProtonDensitySliceBSplined10.png"
    return [itk.imread(str(folder / name), itk.F) for name in names]


def difference(first, second) -> float:
    """Mean squared difference of two images, the outermost ten voxels left out."""
    arrays = [itk.array_view_from_image(image)[10:-10, 10:-10].astype(float) for image in (first, second)]
    return float(np.mean((arrays[0] - arrays[1]) ** 2))


if __name__ == "__main__":
    main()
