"""convexAdam: coupled convex optimisation and Adam refinement on MIND features."""

from __future__ import annotations

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.evaluation.baselines import Task
from itk_pdd.evaluation.baselines._images import onto_fixed_grid, write_plain_field


def register(task: Task) -> None:
    """Register with convexAdam on the CPU; the settings are the arguments of its function."""
    import SimpleITK as sitk
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    fixed, moving, grid = onto_fixed_grid(task.fixed, task.moving)
    if grid.dimension != 3:
        raise RegistrationError(f"convexAdam registers 3-D images only, found {grid.dimension} dimensions.")
    # Components come along the array axes z, y, x in voxels.
    voxels = convex_adam_pt(
        sitk.GetArrayFromImage(fixed),
        sitk.GetArrayFromImage(moving),
        dtype=torch.float32,
        device=torch.device("cpu"),
        **task.settings,
    )
    write_plain_field(voxels[..., ::-1] * np.asarray(grid.spacing), grid, task.field)
