"""
elastix aligns, itk_pdd deforms
===============================

The affine transform of elastix is the start (needs itk-elastix).
"""

import itk
import numpy as np

import itk_pdd
from itk_pdd.synthesis import make_pair, random_affine


def main() -> None:
    grid = itk_pdd.Grid.create((48, 40, 32), 6.0)
    affine = random_affine(grid, seed=3, rotation=12.0, translation=25.0)
    pair = make_pair(grid.size, grid.spacing, seed=1, displacement=20.0, affine=affine)
    fixed, moving = pair.fixed.to_itk(), pair.moving.to_itk()

    parameters = itk.ParameterObject.New()
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("affine", 4))
    elastix = itk.ElastixRegistrationMethod.New(fixed, moving, parameter_object=parameters)
    elastix.Update()
    start = elastix.ConvertToItkTransform(elastix.GetCombinationTransform())

    transform = itk_pdd.register(fixed, moving, initial_transform=start)
    # The start is part of the result: one transform, one interpolation.
    warped = itk.resample_image_filter(moving, transform=transform, use_reference_image=True, reference_image=fixed)

    points = pair.fixed.grid.points()[pair.body][::50]
    truth = points + pair.truth.vectors[pair.body][::50]
    print(f"before: error {error(None, points, truth):.1f} mm")
    print(f"elastix affine: error {error(start, points, truth):.1f} mm")
    print(f"then itk_pdd: error {error(transform, points, truth):.1f} mm")
    images = [itk.array_view_from_image(image)[pair.body] for image in (fixed, warped)]
    print(f"warped image: correlation {np.corrcoef(*images)[0, 1]:.3f}")

    itk_pdd.plot.overlay(fixed, moving)  # before: fixed green, moving magenta, grey where they agree
    itk_pdd.plot.overlay(fixed, warped)


def error(transform, points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in mm of points (n, 3) moved by an itk transform from where they belong."""
    if transform is not None:
        points = np.array([list(transform.TransformPoint(point)) for point in points.tolist()])
    return float(np.linalg.norm(points - truth, axis=-1).mean())


if __name__ == "__main__":
    main()
