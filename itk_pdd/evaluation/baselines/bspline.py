"""B-spline free-form deformation with SimpleITK's registration framework, coarse to fine."""

from __future__ import annotations

import numpy as np

from itk_pdd.evaluation.baselines import Task
from itk_pdd.evaluation.baselines._images import read_float
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io.fields import write_field
from itk_pdd.io.images import grid_of


def register(task: Task) -> None:
    """Register with B-splines of shrinking control spacing, each on top of those before.

    SimpleITK can refine a B-spline by itself, but only with optimisers other than L-BFGS-B, which converges best here;
    so each level is a registration of its own that starts from the field found so far. Coefficients below 0.4 times the
    control spacing keep each level free of folds (D. Rueckert et al., "Diffeomorphic registration using B-splines",
    MICCAI 2006).
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task.threads)
    fixed, moving = read_float(task.fixed), read_float(task.moving)
    found = sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity)
    levels = task.settings["levels"]
    for number, level in enumerate(levels, start=1):
        mesh = [
            max(1, round(n * s / level["control_spacing_mm"]))
            for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)
        ]
        spline = sitk.BSplineTransformInitializer(fixed, mesh, 3)
        registration = _registration(task.settings, level, fixed)
        registration.SetMovingInitialTransform(found)
        registration.SetInitialTransform(spline, True)
        registration.Execute(fixed, moving)
        both = sitk.CompositeTransform([found, spline])  # the last one is applied first
        field = sitk.TransformToDisplacementField(
            both, sitk.sitkVectorFloat64, fixed.GetSize(), fixed.GetOrigin(), fixed.GetSpacing(), fixed.GetDirection()
        )
        # The next levels look a little beyond the grid, where a displacement field falls to zero: continue its border.
        reach = sum(task.settings["largest_coefficient"] * other["control_spacing_mm"] for other in levels[number:])
        margin = [int(np.ceil(reach / s)) for s in fixed.GetSpacing()]
        found = sitk.DisplacementFieldTransform(sitk.ZeroFluxNeumannPad(field, margin, margin))
    vectors = sitk.GetArrayFromImage(field).astype(np.float32)
    write_field(DisplacementField(vectors, grid_of(fixed, "fixed")), task.field)


def _registration(settings, level, fixed):
    import SimpleITK as sitk

    registration = sitk.ImageRegistrationMethod()
    if settings["metric"] == "mattes":
        registration.SetMetricAsMattesMutualInformation(int(settings["histogram_bins"]))
    elif settings["metric"] == "correlation":
        registration.SetMetricAsCorrelation()
    else:
        registration.SetMetricAsMeanSquares()
    registration.SetMetricSamplingStrategy(registration.RANDOM)
    voxels = fixed.GetNumberOfPixels() / level["shrink_factor"] ** fixed.GetDimension()
    registration.SetMetricSamplingPercentage(min(1.0, level["samples"] / voxels), int(settings["seed"]))
    registration.SetInterpolator(sitk.sitkLinear)
    registration.SetShrinkFactorsPerLevel([int(level["shrink_factor"])])
    registration.SetSmoothingSigmasPerLevel([float(level["smoothing_sigma_mm"])])
    registration.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    bound = float(settings["largest_coefficient"] * level["control_spacing_mm"])
    registration.SetOptimizerAsLBFGSB(
        lowerBound=-bound,
        upperBound=bound,
        gradientConvergenceTolerance=float(settings["gradient_tolerance"]),
        numberOfIterations=int(level["iterations"]),
        maximumNumberOfFunctionEvaluations=int(2 * level["iterations"]),
    )
    return registration
