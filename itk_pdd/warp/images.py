"""Images warped by transforms: interpolated once, whatever the number of transforms."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError, warn
from itk_pdd.geometry.background import background_of
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid, slab_grids
from itk_pdd.io.fields import field_to_simpleitk
from itk_pdd.io.formats.tensors import holds_tensors
from itk_pdd.io.images import (
    answer,
    array_of,
    grid_of,
    image_kind,
    image_to_simpleitk,
    itk_image,
    opened,
    simpleitk_image,
)
from itk_pdd.io.transforms import mapping_to_simpleitk
from itk_pdd.io.volume import Volume
from itk_pdd.warp.fit import fitted

if TYPE_CHECKING:
    import SimpleITK

__all__ = [
    "INTERPOLATIONS",
    "dtype_of",
    "outside_value",
    "value_outside",
    "warp_channels",
    "warp_image",
    "warp_simpleitk",
]

log = logging.getLogger("itk_pdd")

_SLAB_VOXELS = 8_000_000  # voxels warped at once: bounds the memory of transforms

INTERPOLATIONS = {
    "linear": "sitkLinear",
    "bspline": "sitkBSpline3",
    "sinc": "sitkLanczosWindowedSinc",
    "nearest": "sitkNearestNeighbor",
}
"""Names of interpolations and SimpleITK's names of them."""


def warp_image(
    image: Any, transform: Any, *, reference: Any = None, interpolation: str = "linear", default: float | None = None
) -> Any:
    """Resample an image of the moving space onto the grid of the fixed image.

    Parameters
    ----------
    image : itk.Image, SimpleITK.Image, Volume, str or path-like
        The moving image, 2-D or 3-D, scalars or vectors of any real pixel type; or a series (4-D), of which every
        volume is warped and the fourth axis kept. Vectors are resampled component by component and not turned, whatever
        they mean; tensors are refused here (see :mod:`itk_pdd.warp.tensors`).
    transform : transform, matrix, DisplacementField, str, path-like or list
        From fixed to moving points in physical (LPS) millimetres, of ITK, SimpleITK, ANTs or elastix, or files of
        them (see :func:`itk_pdd.register`). A list is given in ANTs' order: a fixed point goes through the first one
        first. The image is interpolated once.
    reference : itk.Image, SimpleITK.Image, Grid, str or path-like, optional
        The fixed image, of which only the grid counts; by default the grid of the displacement field.
    interpolation : {"linear", "bspline", "sinc", "nearest"}
        "bspline" is cubic, "sinc" has a Lanczos window of five voxels: sharper and slower than "linear", and beyond
        the range of the image beside edges.
    default : float, optional
        Value where the moving image has none; by default the image's own background, such as -1000 for the air of a
        CT or 0 for an MR (:func:`itk_pdd.geometry.background.background_of`). One that the pixel type cannot hold
        becomes the nearest one it can hold, with a warning.

    Returns
    -------
    itk.Image or SimpleITK.Image
        In the kind of ``image`` (itk's for a path); the pixel type is kept. Integers are rounded to the nearest, not
        cut off as ITK's filter does.

    Raises
    ------
    RegistrationError
        If something cannot be read, the dimensions differ, the transforms do not fit each other, no point of the
        reference is mapped into the image, or ``default`` is NaN for an integer image.
    """
    if interpolation not in INTERPOLATIONS:
        raise RegistrationError(f"interpolation is {interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}")
    if "SSRT" in type(image).__name__ or (isinstance(image, str | os.PathLike) and holds_tensors(image)):
        raise RegistrationError(
            "image holds tensors, which turn with the tissue: use pdd-transform image, or "
            "itk_pdd.warp.tensors.warp_tensors with what itk_pdd.io.formats.tensors.read_tensors reads"
        )
    given = image if isinstance(image, Volume) else opened(image, "image")
    if _axes(given) == 4:
        return _warped_series(given, transform, reference, interpolation, default)
    moving = image_to_simpleitk(given)
    mapping, grid = fitted(grid_of(moving, "image"), transform, reference, "image")
    outside = value_outside(moving, default)
    result = _resampled(moving, mapping_to_simpleitk(mapping), grid, interpolation, outside)
    return answer(result, image, reference)


def _warped_series(series: Any, transform: Any, reference: Any, interpolation: str, default: float | None) -> Any:
    """Warp every volume of a 4-D image; spacing and origin of the fourth axis are kept."""
    import SimpleITK

    source, array = grid_of(series, "image", channels=True), array_of(series, "image")
    mapping, grid = fitted(source, transform, reference, "image")
    if len(array) == 6 and array.dtype.kind == "f":
        log.info("image is taken for a series of 6 volumes; tensors are recognised by the NIfTI intent 1005")
    moves = mapping_to_simpleitk(mapping)
    outside = value_outside(simpleitk_image(array[0], source), default)
    volumes = (simpleitk_image(volume, source) for volume in array)
    warped = [_resampled(volume, moves, grid, interpolation, outside) for volume in volumes]
    first, step = float(series.GetOrigin()[3]), float(series.GetSpacing()[3])
    if image_kind(series, reference) == "simpleitk":
        return SimpleITK.JoinSeries(warped, first, step)
    direction = np.eye(4)
    direction[:3, :3] = grid.direction
    times = Grid.create((*grid.size, len(warped)), (*grid.spacing, step), (*grid.origin, first), direction)
    return itk_image(np.stack([array_of(volume, "image") for volume in warped]), times, type(series))


def _resampled(
    image: SimpleITK.Image, transform: SimpleITK.Transform, grid: Grid, interpolation: str, default: float
) -> SimpleITK.Image:
    """Resample an image; the pixel type is kept, integers are rounded and kept within their range."""
    import SimpleITK

    components, kept = image.GetNumberOfComponentsPerPixel(), dtype_of(image)
    if components > 1 and interpolation in ("bspline", "sinc"):
        # ITK has these for scalars only.
        single = (SimpleITK.VectorIndexSelectionCast(image, i) for i in range(components))
        return SimpleITK.Compose([_resampled(part, transform, grid, interpolation, default) for part in single])
    pixel = image.GetPixelID()
    rounded = kept.kind in "iu" and interpolation != "nearest"
    if rounded:
        # Single precision holds 24 bits.
        kind = "Float64" if kept.itemsize > 2 else "Float32"
        pixel = getattr(SimpleITK, f"sitk{kind}" if components == 1 else f"sitkVector{kind}")
    way = getattr(SimpleITK, INTERPOLATIONS[interpolation])
    direction = np.asarray(grid.direction).ravel().tolist()
    result = SimpleITK.Resample(image, grid.size, transform, way, grid.origin, grid.spacing, direction, default, pixel)
    if not rounded:
        return result
    limits = np.iinfo(kept)
    values = SimpleITK.GetArrayFromImage(result)
    over, under = values >= limits.max, values <= limits.min
    whole = np.rint(np.where(over | under, 0, values)).astype(kept)
    whole[over], whole[under] = limits.max, limits.min
    return simpleitk_image(whole, grid)


def dtype_of(image: SimpleITK.Image) -> np.dtype:
    """Return the type of the pixels, or of their components."""
    import SimpleITK

    if image.GetDimension() < 4:  # a corner is a copy of its own; SimpleITK cuts none out of a series
        image = SimpleITK.RegionOfInterest(image, [1] * image.GetDimension())
    return SimpleITK.GetArrayViewFromImage(image).dtype


def value_outside(image: SimpleITK.Image, default: float | None = None) -> float:
    """Choose the value outside an image: a given one within its pixel type, or its own background.

    An image of vectors has no background but 0, unless all its components have the same one.
    """
    import SimpleITK

    if default is not None:
        return outside_value(default, dtype_of(image))
    values = SimpleITK.GetArrayViewFromImage(image)
    if image.GetDimension() == 4:
        values = values[0]
    if image.GetNumberOfComponentsPerPixel() == 1:
        return background_of(values)
    found = {background_of(part) for part in np.moveaxis(values, -1, 0)}
    return found.pop() if len(found) == 1 else 0.0


def outside_value(default: float, dtype: np.dtype) -> float:
    """Bring the value outside into the range of the pixel type, with a warning; round it for integers."""
    value = float(default)
    if dtype.kind == "f":
        if not np.isfinite(value):
            return value
        low, high = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    else:
        if np.isnan(value):
            raise RegistrationError(f"default is NaN but the image has {dtype} pixels: give a number they can hold")
        # 64-bit limits are not numbers of double precision: take the next one inside.
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        high = high if int(high) <= np.iinfo(dtype).max else float(np.nextafter(high, 0))
    held = min(max(value, low), high)
    if held != value:
        warn(f"default is {value:g}, which {dtype} pixels cannot hold: {held:g} is used instead")
    return held if dtype.kind == "f" else float(np.rint(held))


def warp_simpleitk(
    image: SimpleITK.Image, field: DisplacementField, *, labels: bool = False, default: float | None = None
) -> SimpleITK.Image:
    """Resample an image of the moving space onto the grid of a field; the pixel type is kept.

    ``labels`` takes the nearest neighbour instead of interpolating linearly. ``default`` is the value where the image
    has none; by default 0 for labels, and the image's own background else.
    """
    import SimpleITK

    interpolation, grid = "nearest" if labels else "linear", field.grid
    default = value_outside(image, 0.0 if labels and default is None else default)
    # In slabs: ITK's transforms are in double precision, twelve times the memory of a 16-bit image.
    result = None
    for part, slab in slab_grids(grid, _SLAB_VOXELS):
        transform = field_to_simpleitk(DisplacementField(field.vectors[part], slab))
        warped = _resampled(image, transform, slab, interpolation, default)
        if slab.size == grid.size:
            return warped
        values = SimpleITK.GetArrayViewFromImage(warped)
        if result is None:
            result = np.empty((grid.shape[0], *values.shape[1:]), values.dtype)
        result[part] = values
    assert result is not None  # a grid has slices
    return simpleitk_image(result, grid)


def warp_channels(
    fixed: Any, moving: Any, channels: Sequence[Volume], field: DisplacementField, *, default: float | None = None
) -> Any:
    """Warp the moving image, read as ``channels``, and return it in the kind of the images that came in.

    It lies on the region of the fixed image, its start index included; the pixel type is the moving image's. Where the
    channels were not the components of one image, it is an image of float vectors. ``default`` is the value where the
    moving image has none, by default the background of each channel.
    """
    import SimpleITK

    warped = [warp_simpleitk(volume.to_simpleitk(), field, default=default) for volume in channels]
    several = len(warped) > 1
    # Channels of a list or along a fourth axis.
    apart = isinstance(moving, list | tuple) or _axes(moving) > field.grid.dimension
    if several and apart:
        warped = [SimpleITK.Cast(image, SimpleITK.sitkFloat32) for image in warped]
    if isinstance(fixed, list | tuple):
        fixed = fixed[0]
    elif _axes(fixed) > field.grid.dimension:
        fixed = None
    return answer(SimpleITK.Compose(warped) if several else warped[0], moving, fixed, same_pixels=not apart)


def _axes(image: Any) -> int:
    """Number of axes of an image; 0 for a path."""
    return len(image.GetSpacing()) if hasattr(image, "GetSpacing") else 0
