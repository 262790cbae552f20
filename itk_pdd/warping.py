"""Images moved by a field: resampled onto the grid of the fixed image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.field import DisplacementField
from itk_pdd.transform import field_to_simpleitk
from itk_pdd.volume import Volume, image_kind, is_itk

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["warp_like", "warp_simpleitk"]

# Voxel types of which PyPI's itk has no image, and the ones that hold them.
_WIDER = {"bool": np.uint8, "int8": np.int16, "int64": np.float64}


def warp_simpleitk(
    image: SimpleITK.Image, field: DisplacementField, *, labels: bool = False, default: float = 0.0
) -> SimpleITK.Image:
    """Resample an image in the space of the moving image onto the grid of a field.

    Parameters
    ----------
    image : SimpleITK.Image
        The image; its pixel type is kept.
    field : DisplacementField
        From fixed to moving points.
    labels : bool
        Take the nearest neighbour instead of interpolating linearly.
    default : float
        Value where the image has none.
    """
    import SimpleITK

    grid = field.grid
    return SimpleITK.Resample(
        image,
        grid.size,
        field_to_simpleitk(field),
        SimpleITK.sitkNearestNeighbor if labels else SimpleITK.sitkLinear,
        grid.origin,
        grid.spacing,
        np.asarray(grid.direction).ravel().tolist(),
        float(default),
        image.GetPixelID(),
    )


def warp_like(fixed: Any, moving: Any, volume: Volume, field: DisplacementField, *, default: float = 0.0) -> Any:
    """The moving image warped, in the kind of the images that came in.

    Parameters
    ----------
    fixed, moving : itk.Image, SimpleITK.Image, str or path-like
        The images as they were given.
    volume : Volume
        The moving image as it was read.
    field : DisplacementField
        From fixed to moving points, on the grid of the fixed image.
    default : float
        Value where the moving image has none.

    Returns
    -------
    itk.Image or SimpleITK.Image
        On the region of the fixed image, its start index included; the pixel type is the moving image's.
    """
    warped = warp_simpleitk(volume.to_simpleitk(), field, default=default)
    if image_kind(fixed, moving) == "simpleitk":
        return warped
    import itk
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(warped)
    moving, fixed = _output_of(moving), _output_of(fixed)
    if is_itk(moving):
        image = type(moving).New()
    else:
        array = array.astype(_WIDER.get(array.dtype.name, array.dtype))
        image = type(itk.image_from_array(array[(slice(1),) * array.ndim].copy())).New()
    grid = field.grid
    region = itk.ImageRegion[grid.dimension]()
    region.SetSize(grid.size)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(itk.matrix_from_array(np.asarray(grid.direction)))
    if is_itk(fixed):
        # Also where the fixed image begins at another index than 0.
        region = fixed.GetLargestPossibleRegion()
        image.CopyInformation(fixed)
    image.SetRegions(region)
    image.Allocate()
    itk.array_view_from_image(image)[:] = array
    return image


def _output_of(item: Any) -> Any:
    """The image of an ITK filter, anything else as it is."""
    return item.GetOutput() if is_itk(item) and hasattr(item, "GetOutput") else item
