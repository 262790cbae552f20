"""Convert images between ITK, SimpleITK and arrays on a grid; find out what an object is, and answer in its kind."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.volume import Volume
from itk_pdd.io.checks import check_geometry
from itk_pdd.io.files import read_image
from itk_pdd.io.messages import itk_reason

if TYPE_CHECKING:
    import SimpleITK

__all__ = [
    "answer",
    "array_of",
    "grid_of",
    "image_kind",
    "image_to_simpleitk",
    "is_itk",
    "is_itk_image",
    "is_simpleitk",
    "itk_image",
    "opened",
    "reference_grid",
    "simpleitk_image",
]

# Voxel types of which PyPI's itk has no image, and the ones that hold them.
_WIDER = {"bool": np.uint8, "int8": np.int16, "int64": np.float64}


def is_itk(image: Any) -> bool:
    """Tell whether an object is ITK's, without importing itk."""
    return any(base.__module__.split(".")[0] == "itk" for base in type(image).__mro__)


def is_itk_image(image: Any) -> bool:
    """Tell whether an object is an image of ITK (not a filter that makes one)."""
    return is_itk(image) and hasattr(image, "GetLargestPossibleRegion")


def is_simpleitk(image: Any) -> bool:
    """Tell whether an object is an image of SimpleITK, without importing SimpleITK."""
    module = sys.modules.get("SimpleITK")
    return module is not None and isinstance(image, module.Image)


def image_kind(*images: Any) -> str:
    """Choose the library to answer in: "simpleitk" where some image is SimpleITK's and none is itk's, else "itk".

    Lists of channels count as the images in them.
    """
    images = tuple(part for each in images for part in (each if isinstance(each, list | tuple) else (each,)))
    if any(is_simpleitk(image) for image in images) and not any(is_itk(image) for image in images):
        return "simpleitk"
    return "itk"


def opened(image: Any, name: str) -> Any:
    """Give an image of SimpleITK, or of ITK complete in memory, from an image, a filter that makes one, or a file."""
    if isinstance(image, str | os.PathLike):
        return read_image(image, name=name)
    if is_simpleitk(image):
        return image
    output = _output_of(image)
    if not is_itk_image(output):
        what = type(image).__name__
        if isinstance(image, np.ndarray):
            what += f" (a bare array of shape {image.shape}, which has no spacing, origin or direction)"
        raise RegistrationError(
            f"{name} is not an image: found {what}, expected an itk.Image, a SimpleITK.Image or the path of a file"
        )
    try:
        # Brings an image at the end of a pipeline, or one buffered in part only, up to date.
        output.UpdateOutputInformation()
        output.SetRequestedRegionToLargestPossibleRegion()
        output.Update()
    except RuntimeError as error:
        raise RegistrationError(f"{name} cannot be made by its filter ({itk_reason(error)})") from error
    return output


def grid_of(image: Any, name: str, *, channels: bool = False) -> Grid:
    """Give the grid of an image of ITK or SimpleITK, a start index other than 0 taken into the origin; checked.

    It is 2-D or 3-D. With ``channels`` a 4-D image is one of 3-D whose last axis counts its channels.
    """
    if is_simpleitk(image):
        size, index = image.GetSize(), np.zeros(image.GetDimension())
        direction = np.asarray(image.GetDirection()).reshape(len(size), len(size))
    else:
        import itk

        region = image.GetLargestPossibleRegion()
        size, index = tuple(int(n) for n in region.GetSize()), np.asarray([float(i) for i in region.GetIndex()])
        direction = np.asarray(itk.array_from_matrix(image.GetDirection()), dtype=float)
    spacing = np.asarray([float(s) for s in image.GetSpacing()])
    origin = np.asarray([float(o) for o in image.GetOrigin()]) + direction @ (spacing * index)
    if channels and len(size) == 4 and not (direction[3, :3].any() or direction[:3, 3].any()):
        size, spacing, origin, direction = size[:3], spacing[:3], origin[:3], direction[:3, :3]
    if len(size) not in (2, 3):
        raise RegistrationError(
            f"{name} has {len(size)} dimensions (size {' x '.join(map(str, size))}), expected 2 or 3: "
            "extract one volume of a series"
        )
    grid = Grid.create(size, spacing, origin, direction)
    check_geometry(grid, name)
    return grid


def array_of(image: Any, name: str) -> np.ndarray:
    """Copy the voxels of an image of ITK or SimpleITK: axes (z,) y, x and, where there are several, the components.

    Refused are complex numbers, images that are not whole in memory, and those of which itk gives no array.
    """
    if is_simpleitk(image):
        import SimpleITK

        array = SimpleITK.GetArrayFromImage(image)
    else:
        import itk

        whole, held = image.GetLargestPossibleRegion(), image.GetBufferedRegion()
        if held != whole:
            raise RegistrationError(
                f"{name} holds {tuple(held.GetSize())} of its {tuple(whole.GetSize())} voxels (x, y, z) in memory, "
                "expected all: update the filter it comes from"
            )
        try:
            array = np.array(itk.array_view_from_image(image), order="C")
        except (RuntimeError, KeyError, itk.TemplateTypeError) as error:
            kind = type(image).__name__
            raise RegistrationError(f"{name} is an {kind}, which itk gives no array of: cast it to float") from error
    if np.iscomplexobj(array):
        raise RegistrationError(f"{name} has complex pixels, expected real numbers: take its magnitude")
    return array


def simpleitk_image(array: np.ndarray, grid: Grid) -> SimpleITK.Image:
    """Copy an array, axes (z,) y, x and possibly components, into an image of SimpleITK; bool becomes uint8."""
    import SimpleITK

    array = array.astype(np.uint8) if array.dtype == bool else np.ascontiguousarray(array)
    image = SimpleITK.GetImageFromArray(array, isVector=array.ndim > grid.dimension)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.asarray(grid.direction).ravel().tolist())
    return image


def itk_image(array: np.ndarray, grid: Grid, kind: Any = None) -> Any:
    """Copy an array, axes (z,) y, x and possibly components, into an image of ITK.

    ``kind`` is its class, such as ``itk.Image[itk.Vector[itk.F, 3], 3]``; by default the one that
    ``itk.image_from_array`` makes of such voxels, bool as unsigned char. PyPI's itk has no images of int8 and int64:
    they are refused.
    """
    import itk

    array = array.astype(np.uint8) if array.dtype == bool else array
    vector = array.ndim > grid.dimension
    if kind is None:
        sample = array[(slice(1),) * grid.dimension].copy()
        try:
            kind = type(itk.image_from_array(sample, is_vector=vector))
        except (KeyError, RuntimeError, itk.TemplateTypeError) as error:
            raise RegistrationError(f"itk has no images of {array.dtype} voxels: cast the array first") from error
    image = kind.New()
    if "VectorImage" in kind.__name__:
        image.SetNumberOfComponentsPerPixel(array.shape[-1] if vector else 1)
    region = itk.ImageRegion[grid.dimension]()
    region.SetSize(grid.size)
    image.SetRegions(region)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(itk.matrix_from_array(np.asarray(grid.direction)))
    image.Allocate()
    itk.array_view_from_image(image)[:] = array
    return image


def image_to_simpleitk(image: Any, *, name: str = "image") -> SimpleITK.Image:
    """Give an itk.Image, a SimpleITK.Image, a Volume, an ITK filter or a file as a SimpleITK image; pixel type kept."""
    if isinstance(image, Volume):
        return simpleitk_image(image.array, image.grid)
    image = opened(image, name)
    grid = grid_of(image, name)
    if not is_simpleitk(image):
        return simpleitk_image(array_of(image, name), grid)
    if "complex" in image.GetPixelIDTypeAsString():
        raise RegistrationError(f"{name} has complex pixels, expected real numbers: take its magnitude")
    return image


def reference_grid(reference: Any, *, name: str = "reference") -> Grid:
    """Give the grid of a Grid, a Volume, an image or an image file; of a series (4-D) that of its volumes."""
    if isinstance(reference, Grid):
        return reference
    if isinstance(reference, Volume):
        return reference.grid
    if is_itk_image(reference):
        reference.UpdateOutputInformation()
        return grid_of(reference, name, channels=True)
    return grid_of(opened(reference, name), name, channels=True)


def answer(result: SimpleITK.Image, image: Any, reference: Any = None, *, same_pixels: bool = True) -> Any:
    """Give a result in the kind of what came in: SimpleITK's if some of it is and nothing is itk's, else itk's.

    It lies on the region of an itk ``reference``, its start index included, and has the type of an itk ``image``,
    unless not ``same_pixels``.
    """
    if image_kind(image, reference) == "simpleitk":
        return result
    image, reference = _output_of(image), _output_of(reference)
    array, grid = array_of(result, "result"), grid_of(result, "result")
    if (
        same_pixels
        and is_itk_image(image)
        and image.GetNumberOfComponentsPerPixel() == result.GetNumberOfComponentsPerPixel()
    ):
        answered = itk_image(array, grid, type(image))
    else:
        answered = itk_image(array.astype(_WIDER.get(array.dtype.name, array.dtype), copy=False), grid)
    if is_itk_image(reference) and len(reference.GetSpacing()) == grid.dimension:
        # Also where the reference begins at another index than 0.
        answered.CopyInformation(reference)
        answered.SetRegions(reference.GetLargestPossibleRegion())
    return answered


def _output_of(item: Any) -> Any:
    """The image of an ITK filter, up to date; anything else as it is."""
    return item.GetOutput() if is_itk(item) and not is_itk_image(item) and hasattr(item, "GetOutput") else item
