"""Bring both images of a baseline onto one plain grid, and its field back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import write_field
from itk_pdd.io.images import grid_of


def read_float(path: Path):
    """Read an image as a SimpleITK image of float."""
    import SimpleITK as sitk

    return sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)


def onto_fixed_grid(fixed_path: Path, moving_path: Path):
    """Return both images, float, on the voxels of the fixed image, with origin 0 and no direction, and the true grid.

    Some tools ignore the direction, others need images of equal size: they work in these plain coordinates, and
    :func:`write_plain_field` turns their vectors back. Outside the moving image is its smallest value.
    """
    import SimpleITK as sitk

    fixed, moving = read_float(fixed_path), read_float(moving_path)
    grid = grid_of(fixed, "fixed")
    darkest = float(sitk.GetArrayViewFromImage(moving).min())
    moving = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, darkest)
    for image in (fixed, moving):
        image.SetOrigin([0.0] * grid.dimension)
        image.SetDirection(np.eye(grid.dimension).ravel().tolist())
    return fixed, moving, grid


def write_plain_field(vectors: np.ndarray, grid: Grid, path: Path) -> None:
    """Write a field whose vectors (z, y, x, dim) are in millimetres along the index axes x, y, z of the grid."""
    physical = vectors.astype(np.float64) @ np.asarray(grid.direction).T
    write_field(DisplacementField(physical.astype(np.float32), grid), path)


def normalised(image):
    """Scale the 1st and 99th percentile to 0 and 1 and clip, for tools that compare intensities."""
    import SimpleITK as sitk

    low, high = np.percentile(sitk.GetArrayViewFromImage(image), [1, 99])
    if not high > low:
        low, high = (float(v) for v in (low, low + 1))
    return sitk.Clamp((image - float(low)) / float(high - low), sitk.sitkFloat32, 0.0, 1.0)
