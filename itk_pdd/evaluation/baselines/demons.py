"""Demons of SimpleITK, coarse to fine."""

from __future__ import annotations

import numpy as np

from itk_pdd.evaluation.baselines import Task
from itk_pdd.evaluation.baselines._images import normalised, onto_fixed_grid, write_plain_field


def register(task: Task) -> None:
    """Register with the demons named in the settings (``diffeomorphic`` or ``symmetric-forces``)."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(task.threads)
    settings = task.settings
    fixed, moving, grid = onto_fixed_grid(task.fixed, task.moving)
    if settings["normalise"]:
        fixed, moving = normalised(fixed), normalised(moving)
    if settings["histogram_matching"]:
        moving = sitk.HistogramMatching(moving, fixed, 256, 15, True)
    field = None
    for shrink, iterations in zip(settings["shrink_factors"], settings["iterations"], strict=True):
        # The demons stop at the first iteration if a level leaves fewer than a handful of voxels.
        shrinks = [int(min(shrink, max(1, n // settings["least_voxels"]))) for n in fixed.GetSize()]
        small_fixed, small_moving = (_shrunk(image, shrinks) for image in (fixed, moving))
        demons = _filter(settings)
        demons.SetNumberOfIterations(int(iterations))
        if field is None:
            field = demons.Execute(small_fixed, small_moving)
        else:
            demons_input = sitk.Resample(
                field, small_fixed, sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True
            )
            field = demons.Execute(small_fixed, small_moving, demons_input)
    field = sitk.Resample(field, fixed, sitk.Transform(), sitk.sitkLinear, 0.0, field.GetPixelID(), True)
    write_plain_field(sitk.GetArrayFromImage(field), grid, task.field)


def _filter(settings):
    import SimpleITK as sitk

    kinds = {
        "diffeomorphic": sitk.DiffeomorphicDemonsRegistrationFilter,
        "symmetric-forces": sitk.FastSymmetricForcesDemonsRegistrationFilter,
    }
    demons = kinds[settings["variant"]]()
    demons.SetSmoothDisplacementField(settings["displacement_sigma"] > 0)
    demons.SetStandardDeviations(float(settings["displacement_sigma"]))
    demons.SetSmoothUpdateField(settings["update_sigma"] > 0)
    demons.SetUpdateFieldStandardDeviations(float(settings["update_sigma"]))
    demons.SetMaximumUpdateStepLength(float(settings["maximum_step"]))
    return demons


def _shrunk(image, shrinks: list[int]):
    """Smoothed, then resampled to fewer voxels that cover the same extent."""
    import SimpleITK as sitk

    if max(shrinks) == 1:
        return image
    axes = list(zip(image.GetSize(), image.GetSpacing(), image.GetOrigin(), shrinks, strict=True))
    smooth = sitk.DiscreteGaussian(image, [(0.5 * s * d) ** 2 if s > 1 else 0.0 for _, d, _, s in axes])
    size = [int(np.ceil(n / s)) for n, _, _, s in axes]
    spacing = [n * d / m for (n, d, _, _), m in zip(axes, size, strict=True)]
    origin = [o + (new - d) / 2 for (_, d, o, _), new in zip(axes, spacing, strict=True)]
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(size)
    resampler.SetOutputSpacing(spacing)
    resampler.SetOutputOrigin(origin)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return resampler.Execute(smooth)
