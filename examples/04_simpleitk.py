"""
SimpleITK in and out
====================

Images, an initial transform, masks, the result, its file and its inverse.
"""

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

import itk_pdd
from itk_pdd.synthesis import make_pair


def main() -> None:
    pair = make_pair((48, 40, 32), 6.0, seed=1, displacement=30.0)
    fixed, moving = pair.fixed.to_simpleitk(), pair.moving.to_simpleitk()
    moving.SetOrigin((300.0, -100.0, 50.0))  # scanned elsewhere
    mask = fixed > -900

    # The class "centred on the image" of SimpleITK's own registration, then ours.
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=fixed, moving_image=moving, initial_transform=start, fixed_mask=mask
    )
    transform, inverse = method.GetTransform(), method.GetInverseTransform()

    # Its file is a transform that SimpleITK reads, and warps with, alone.
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "transform.h5")
        sitk.WriteTransform(transform, path)
        read = sitk.ReadTransform(path)
    lowest = float(sitk.GetArrayViewFromImage(moving).min())
    body = pair.body
    for name, each in (("before", start), ("after", transform), ("after, from its file", read)):
        warped = sitk.Resample(moving, fixed, each, sitk.sitkLinear, lowest)
        images = [sitk.GetArrayViewFromImage(image)[body] for image in (fixed, warped)]
        print(f"{name}: correlation {np.corrcoef(*images)[0, 1]:.3f}")

    points = pair.fixed.grid.points()[body][::100]
    there = np.array([transform.TransformPoint(point) for point in points.tolist()])
    back = np.array([inverse.TransformPoint(point) for point in there.tolist()])
    print(f"inverse: error {np.median(np.linalg.norm(back - points, axis=-1)):.3f} mm")

    for each in (start, transform):  # fixed green, moving magenta, grey where they agree
        itk_pdd.plot.overlay(fixed, sitk.Resample(moving, fixed, each, sitk.sitkLinear, lowest), plane="coronal")


if __name__ == "__main__":
    main()
