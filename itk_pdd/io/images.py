"""Images of any kind in, and an answer in the same kind out; scalars and vectors, all pixel types."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.files import read_image
from itk_pdd.io.messages import itk_reason
from itk_pdd.io.volume import Volume, grid_of, image_kind, is_itk, is_simpleitk

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["answer", "from_array", "image_to_simpleitk", "reference_grid"]

# Voxel types of which PyPI's itk has no image, and the ones that hold them.
_WIDER = {"bool": np.uint8, "int8": np.int16, "int64": np.float64}


def image_to_simpleitk(image: Any, *, name: str = "image") -> SimpleITK.Image:
    """An itk.Image, a SimpleITK.Image, a Volume, an ITK filter or a file as a SimpleITK image; pixel type kept.

    Raises
    ------
    RegistrationError
        If it is no such image, neither 2-D nor 3-D, or complex.
    """
    if isinstance(image, Volume):
        return image.to_simpleitk()
    if isinstance(image, str | os.PathLike):
        image = read_image(image, name=name)
    image = _output_of(image)
    if is_itk(image) and hasattr(image, "GetLargestPossibleRegion"):
        image = _from_itk(image, name)
    if not is_simpleitk(image):
        raise RegistrationError(
            f"{name} is not an image: found {type(image).__name__}, expected an itk.Image, a SimpleITK.Image or the "
            "path of a file"
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise RegistrationError(f"{name} has complex pixels, expected real numbers: take its magnitude")
    grid_of(image, name)  # checks the geometry
    return image


def _from_itk(image: Any, name: str) -> SimpleITK.Image:
    import itk

    try:
        image.UpdateOutputInformation()
        image.SetRequestedRegionToLargestPossibleRegion()
        image.Update()
    except RuntimeError as error:
        raise RegistrationError(f"{name} cannot be made by its filter ({itk_reason(error)})") from error
    grid = grid_of(image, name)
    try:
        array = np.array(itk.array_view_from_image(image), order="C")
    except (RuntimeError, KeyError, itk.TemplateTypeError) as error:
        kind = type(image).__name__
        raise RegistrationError(f"{name} is an {kind}, which itk gives no array of: cast it to float") from error
    if np.iscomplexobj(array):
        raise RegistrationError(f"{name} has complex pixels, expected real numbers: take its magnitude")
    return from_array(array, grid)


def from_array(array: np.ndarray, grid: Grid) -> SimpleITK.Image:
    """A SimpleITK image of an array (z, y, x) or (z, y, x, components); bool becomes uint8."""
    import SimpleITK

    array = array.astype(np.uint8) if array.dtype == bool else array
    image = SimpleITK.GetImageFromArray(array, isVector=array.ndim > grid.dimension)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.asarray(grid.direction).ravel().tolist())
    return image


def reference_grid(reference: Any, *, name: str = "reference") -> Grid:
    """The grid of a Grid, a Volume, an image or an image file."""
    if isinstance(reference, Grid):
        return reference
    if isinstance(reference, Volume):
        return reference.grid
    reference = _output_of(reference)
    if is_itk(reference) and hasattr(reference, "GetLargestPossibleRegion"):
        reference.UpdateOutputInformation()
        return grid_of(reference, name)
    return grid_of(image_to_simpleitk(reference, name=name), name)


def answer(result: SimpleITK.Image, image: Any, reference: Any = None, *, same_pixels: bool = True) -> Any:
    """A result in the kind of what came in.

    Parameters
    ----------
    result : SimpleITK.Image
        What was computed.
    image, reference : itk.Image, SimpleITK.Image, str or path-like
        What was given. The answer is SimpleITK's if some of it is and nothing is itk's, and itk's otherwise; on the
        region of an itk ``reference``, its start index included.
    same_pixels : bool
        Whether the result has the pixel type of an itk ``image``.
    """
    if image_kind(image, reference) == "simpleitk":
        return result
    import itk
    import SimpleITK

    image, reference = _output_of(image), _output_of(reference)
    array = SimpleITK.GetArrayFromImage(result)
    grid = grid_of(result, "result")
    vector = array.ndim > grid.dimension
    if same_pixels and is_itk(image) and hasattr(image, "GetLargestPossibleRegion"):
        answered = type(image).New()
    else:
        array = array.astype(_WIDER.get(array.dtype.name, array.dtype))
        sample = array[(slice(1),) * grid.dimension].copy()
        answered = type(itk.image_from_array(sample, is_vector=vector)).New()
    region = itk.ImageRegion[grid.dimension]()
    region.SetSize(grid.size)
    answered.SetSpacing(grid.spacing)
    answered.SetOrigin(grid.origin)
    answered.SetDirection(itk.matrix_from_array(np.asarray(grid.direction)))
    if is_itk(reference) and hasattr(reference, "GetLargestPossibleRegion"):
        # Also where the reference begins at another index than 0.
        region = reference.GetLargestPossibleRegion()
        answered.CopyInformation(reference)
    if vector and "VectorImage" in type(answered).__name__:
        answered.SetNumberOfComponentsPerPixel(array.shape[-1])
    answered.SetRegions(region)
    answered.Allocate()
    itk.array_view_from_image(answered)[:] = array
    return answered


def _output_of(item: Any) -> Any:
    """The image of an ITK filter, anything else as it is."""
    if is_itk(item) and not hasattr(item, "GetLargestPossibleRegion") and hasattr(item, "GetOutput"):
        item.Update()
        return item.GetOutput()
    return item
