"""Images and labels moved by transforms: resampled once, whatever the number of transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.chain import Chain, as_chain, lattice
from itk_pdd.geometry.field import DisplacementField, slab_grids, slabs
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_to_simpleitk
from itk_pdd.io.images import answer, from_array, image_to_simpleitk, reference_grid
from itk_pdd.io.volume import Volume, grid_of

if TYPE_CHECKING:
    import SimpleITK

__all__ = [
    "INTERPOLATIONS",
    "LABEL_INTERPOLATIONS",
    "jacobian_determinant",
    "warp_channels",
    "warp_image",
    "warp_labels",
    "warp_simpleitk",
]

_SLAB_VOXELS = 8_000_000  # voxels warped at once: bounds the memory of transforms

INTERPOLATIONS = {
    "linear": "sitkLinear",
    "bspline": "sitkBSpline3",
    "sinc": "sitkLanczosWindowedSinc",
    "nearest": "sitkNearestNeighbor",
}
"""Ways to interpolate images and SimpleITK's names of them."""
LABEL_INTERPOLATIONS = ("nearest", "partial-volume")
"""Ways to interpolate labels."""


def warp_image(
    image: Any, transform: Any, *, reference: Any = None, interpolation: str = "linear", default: float = 0.0
) -> Any:
    """Resample an image of the moving space onto the grid of the fixed image.

    Parameters
    ----------
    image : itk.Image, SimpleITK.Image, Volume, str or path-like
        The moving image, 2-D or 3-D, scalars or vectors of any real pixel type.
    transform : transform, matrix, DisplacementField, str, path-like or list
        From fixed to moving points in physical (LPS) millimetres, of ITK, SimpleITK, ANTs or elastix, or files of
        them (see :func:`itk_pdd.register`). A list is given in ANTs' order: a fixed point goes through the first one
        first. The image is interpolated once.
    reference : itk.Image, SimpleITK.Image, Grid, str or path-like, optional
        The fixed image, of which only the grid counts; by default the grid of the displacement field.
    interpolation : {"linear", "bspline", "sinc", "nearest"}
        "bspline" is cubic, "sinc" has a Lanczos window of five voxels: sharper and slower than "linear", and beyond
        the range of the image beside edges.
    default : float
        Value where the moving image has none.

    Returns
    -------
    itk.Image or SimpleITK.Image
        In the kind of ``image`` (itk's for a path); the pixel type is kept. Integers are rounded to the nearest, not
        cut off as ITK's filter does.

    Raises
    ------
    RegistrationError
        If something cannot be read, the dimensions differ, the transforms do not fit each other, or no point of the
        reference is mapped into the image.
    """
    if interpolation not in INTERPOLATIONS:
        raise RegistrationError(f"interpolation is {interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}")
    moving = image_to_simpleitk(image)
    chain, grid = _prepared(moving, transform, reference, "image")
    result = resampled(moving, chain.transform, grid, interpolation=interpolation, default=default)
    return answer(result, image, reference)


def warp_labels(labels: Any, transform: Any, *, reference: Any = None, interpolation: str = "nearest") -> Any:
    """Resample a label image of the moving space onto the grid of the fixed image.

    Parameters
    ----------
    labels : itk.Image, SimpleITK.Image, Volume, str or path-like
        Whole numbers of any pixel type, 64-bit ones too.
    transform, reference
        As for :func:`warp_image`.
    interpolation : {"nearest", "partial-volume"}
        "nearest" takes the label of the nearest voxel. "partial-volume" interpolates every label linearly by itself
        and takes the one with the largest share: smoother borders, no label that was not there. It takes as long for
        a thousand labels as for two.

    Returns
    -------
    itk.Image or SimpleITK.Image
        In the kind of ``labels``, pixel type kept, 0 where the moving image has no voxel.

    Raises
    ------
    RegistrationError
        As :func:`warp_image`, and if the labels hold fractions.
    """
    if interpolation not in LABEL_INTERPOLATIONS:
        raise RegistrationError(f"interpolation is {interpolation!r}, expected 'nearest' or 'partial-volume'")
    volume = Volume.labels_from_image(labels, name="labels")
    chain, grid = _prepared(volume, transform, reference, "labels")
    vectors = chain.vectors(grid)
    result = np.zeros(grid.shape, volume.array.dtype)
    vote = _nearest if interpolation == "nearest" else _largest_share
    for slab, points in slabs(grid):
        index = volume.grid.to_index(points + vectors[slab])
        inside = np.all((index >= -0.5) & (index < np.asarray(volume.grid.size) - 0.5), axis=-1)
        result[slab][inside] = vote(volume.array, index[inside])
    return answer(from_array(result, grid), labels, reference)


def jacobian_determinant(transform: Any, *, reference: Any = None) -> Any:
    """Determinant of the Jacobian of a transform from fixed to moving points, per voxel of the fixed image.

    Parameters
    ----------
    transform, reference
        As for :func:`warp_image`.

    Returns
    -------
    itk.Image or SimpleITK.Image
        float32: above 1 where the moving image is larger than the fixed one, not positive where the transform folds.
        SimpleITK's if the reference is, itk's otherwise. Central differences between voxels, one-sided at the border.
    """
    chain = as_chain(transform)
    grid = grid_for(chain, reference)
    chain.check_reach(grid)
    result = from_array(chain.field(grid).jacobian_determinant(), grid)
    return answer(result, reference, reference, same_pixels=False)


def grid_for(chain: Chain, reference: Any) -> Grid:
    """The grid of the reference, or of the field where there is none; checked against the transform.

    Raises
    ------
    RegistrationError
        If there is neither, or the dimensions differ.
    """
    grid = chain.grid if reference is None else reference_grid(reference)
    if grid is None:
        raise RegistrationError(
            "there is no reference, and the transform has no grid of its own: give the image onto whose grid to go"
        )
    if grid.dimension != chain.dimension:
        raise RegistrationError(
            f"transform is {chain.dimension}-D but the reference is {grid.dimension}-D: expected the same dimension"
        )
    return grid


def _prepared(moving: Any, transform: Any, reference: Any, name: str) -> tuple[Chain, Grid]:
    source = moving.grid if isinstance(moving, Volume) else grid_of(moving, name)
    chain = as_chain(transform)
    if chain.dimension != source.dimension:
        raise RegistrationError(
            f"transform is {chain.dimension}-D but {name} is {source.dimension}-D: expected the same dimension"
        )
    grid = grid_for(chain, reference)
    reached = source.to_index(chain.check_reach(grid))
    size = np.asarray(source.size)
    if not np.all((reached >= -0.5) & (reached <= size - 0.5), axis=-1).any():
        # The image may be smaller than the meshes of the lattice that was mapped: look the other way.
        points, residuals = chain.backward(lattice(source))
        index = grid.to_index(points)
        back = np.all((index >= -0.5) & (index <= np.asarray(grid.size) - 0.5), axis=-1) & (residuals < 1e-2)
        if not back.any():
            raise RegistrationError(
                f"transform takes no point of the reference into {name}, the result would be empty: it has to map "
                "fixed points to moving points; is it the inverse, or are the images exchanged?"
            )
    return chain, grid


def resampled(
    image: SimpleITK.Image,
    transform: SimpleITK.Transform,
    grid: Grid,
    *,
    interpolation: str = "linear",
    default: float = 0.0,
) -> SimpleITK.Image:
    """Resample a SimpleITK image; the pixel type is kept, integers are rounded and kept within their range."""
    import SimpleITK

    if image.GetNumberOfComponentsPerPixel() > 1 and interpolation in ("bspline", "sinc"):
        # ITK has these for scalars only.
        channels = [
            resampled(
                SimpleITK.VectorIndexSelectionCast(image, i), transform, grid, interpolation=interpolation,
                default=default,
            )
            for i in range(image.GetNumberOfComponentsPerPixel())
        ]  # fmt: skip
        return SimpleITK.Compose(channels)
    kept = _dtype_of(image)
    rounded = kept.kind in "iu" and interpolation != "nearest"
    pixel = image.GetPixelID()
    if rounded:
        scalar = image.GetNumberOfComponentsPerPixel() == 1
        wide = kept.itemsize > 2  # single precision holds 24 bits
        kinds = SimpleITK.sitkFloat64 if wide else SimpleITK.sitkFloat32
        vectors = SimpleITK.sitkVectorFloat64 if wide else SimpleITK.sitkVectorFloat32
        pixel = kinds if scalar else vectors
    result = SimpleITK.Resample(
        image,
        grid.size,
        transform,
        getattr(SimpleITK, INTERPOLATIONS[interpolation]),
        grid.origin,
        grid.spacing,
        np.asarray(grid.direction).ravel().tolist(),
        float(default),
        pixel,
    )
    if not rounded:
        return result
    limits = np.iinfo(kept)
    values = SimpleITK.GetArrayFromImage(result)
    over, under = values >= limits.max, values <= limits.min
    whole = np.rint(np.where(over | under, 0, values)).astype(kept)
    whole[over], whole[under] = limits.max, limits.min
    return from_array(whole, grid)


def _dtype_of(image: SimpleITK.Image) -> np.dtype:
    import SimpleITK

    corner = SimpleITK.RegionOfInterest(image, [1] * image.GetDimension())
    return SimpleITK.GetArrayViewFromImage(corner).dtype


def _nearest(labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Label of the nearest voxel at indices (n, dim) inside; half a voxel rounds up, as in ITK."""
    last = np.asarray(labels.shape[::-1]) - 1
    nearest = np.clip(np.floor(index + 0.5).astype(np.intp), 0, last)
    return labels[tuple(nearest.T[::-1])]


def _largest_share(labels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Label with the largest share of linear interpolation at indices (n, dim); of equal ones the smallest label."""
    last = np.asarray(labels.shape[::-1]) - 1
    index = np.clip(index, 0, last)
    base = np.floor(index).astype(np.intp)
    corners = [np.unravel_index(i, (2,) * index.shape[1]) for i in range(2 ** index.shape[1])]
    found = [labels[tuple(np.minimum(base + corner, last).T[::-1])] for corner in corners]
    result = found[0].copy()
    # Most voxels lie inside of one label.
    mixed = np.flatnonzero(np.any([other != result for other in found[1:]], axis=0))
    found = [candidate[mixed] for candidate in found]
    part = index[mixed] - base[mixed]
    weights = [np.prod(np.where(corner, part, 1 - part), axis=1) for corner in corners]
    best, share = found[0].copy(), np.full(len(mixed), -1.0)
    for candidate in found:
        own = sum(weight * (other == candidate) for other, weight in zip(found, weights, strict=True))
        # Sums in another order differ in the last digits.
        better = (own > share + 1e-12) | ((own > share - 1e-12) & (candidate < best))
        best, share = np.where(better, candidate, best), np.where(better, own, share)
    result[mixed] = best
    return result


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

    interpolation = "nearest" if labels else "linear"
    grid = field.grid
    # In slabs: ITK's transforms take double precision, twelve times the memory of a 16-bit image.
    result = None
    for part, slab in slab_grids(grid, _SLAB_VOXELS):
        transform = field_to_simpleitk(DisplacementField(field.vectors[part], slab))
        warped = resampled(image, transform, slab, interpolation=interpolation, default=default)
        if slab.size == grid.size:
            return warped
        values = SimpleITK.GetArrayViewFromImage(warped)
        if result is None:
            result = np.empty((grid.shape[0], *values.shape[1:]), values.dtype)
        result[part] = values
    assert result is not None  # a grid has slices
    return from_array(result, grid)


def warp_channels(
    fixed: Any, moving: Any, channels: Sequence[Volume], field: DisplacementField, *, default: float = 0.0
) -> Any:
    """The moving image warped, in the kind of the images that came in.

    Parameters
    ----------
    fixed, moving : itk.Image, SimpleITK.Image, str, path-like or list
        The images as they were given.
    channels : sequence of Volume
        The moving image as it was read.
    field : DisplacementField
        From fixed to moving points, on the grid of the fixed image.
    default : float
        Value where the moving image has none.

    Returns
    -------
    itk.Image or SimpleITK.Image
        On the region of the fixed image, its start index included; the pixel type is the moving image's. Where the
        channels were not the components of one image, it is an image of float vectors.
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
