"""
itk_pdd deforms, elastix refines
================================

itk_pdd finds the large displacements, a B-spline of elastix refines them (itk-elastix).

The transform goes in as ``external_initial_transform``: ``initial_transform`` takes one without a word and ignores it.
elastix' default "bspline" parameters do not work with it, because their bending energy is not implemented for such a
start: a map with one metric does.
"""

import itk
import numpy as np

import itk_pdd
from itk_pdd.synthesis import make_pair


def main() -> None:
    pair = make_pair((48, 40, 32), 6.0, seed=1, displacement=60.0)
    fixed, moving = pair.fixed.to_itk(), pair.moving.to_itk()
    start = itk_pdd.register(fixed, moving)

    parameters = itk.ParameterObject.New()
    bspline = parameters.GetDefaultParameterMap("bspline", 2, 24.0)
    bspline["Registration"] = ["MultiResolutionRegistration"]
    bspline["Metric"] = ["AdvancedMattesMutualInformation"]
    parameters.AddParameterMap(bspline)
    refined, alone = (run_elastix(fixed, moving, parameters, transform) for transform in (start, None))

    points = pair.fixed.grid.points()[pair.body][::50]
    truth = points + pair.truth.vectors[pair.body][::50]
    print(f"before: error {error(None, points, truth):.1f} mm")
    print(f"elastix B-spline alone: error {error(alone, points, truth):.1f} mm")
    print(f"itk_pdd: error {error(start, points, truth):.1f} mm")
    print(f"then elastix B-spline: error {error(refined, points, truth):.1f} mm")

    itk_pdd.plot.overlay(fixed, moving)  # before: fixed green, moving magenta, grey where they agree
    itk_pdd.plot.overlay(fixed, itk_pdd.warp_image(moving, start))


def run_elastix(fixed, moving, parameters, start):
    """The transform from fixed to moving points that elastix finds, the start included."""
    elastix = itk.ElastixRegistrationMethod.New(fixed, moving, parameter_object=parameters)
    if start is not None:
        elastix.SetExternalInitialTransform(start)
    elastix.Update()
    return elastix.GetCombinationTransform()


def error(transform, points: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance in mm of points (n, 3) moved by an itk transform from where they belong."""
    if transform is not None:
        points = np.array([list(transform.TransformPoint(point)) for point in points.tolist()])
    return float(np.linalg.norm(points - truth, axis=-1).mean())


if __name__ == "__main__":
    main()
