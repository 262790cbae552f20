"""Read images of ITK, SimpleITK and files as volumes, and give volumes back as images of these libraries."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry import volume as geometry_volume
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.files import read_image
from itk_pdd.io.messages import itk_reason

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["Volume", "grid_of", "image_kind", "is_itk", "is_simpleitk"]

# Headers round direction cosines; a shear beyond this is no rounding.
_ORTHONORMAL = 5e-3
# No microscope resolves less (in millimetres), and no axis is sampled so much more densely than another.
_FINEST, _COARSEST = 1e-6, 1e4


@dataclass(frozen=True)
class Volume(geometry_volume.Volume):
    """A scalar image that is read from images of ITK, SimpleITK and files, and given back as one.

    Parameters
    ----------
    array : numpy.ndarray
        Voxel values, axes (z,) y, x, contiguous, of any real type (bool for masks, integers for labels).
    grid : Grid
        Where the voxels lie; ``grid.shape == array.shape``.
    """

    @classmethod
    def from_image(cls, image: Any, *, name: str = "fixed") -> Volume:
        """Read an image that is to be registered, and check that it can be.

        Parameters
        ----------
        image : itk.Image, SimpleITK.Image, Volume, str or path-like
            A 2-D or 3-D image of any real scalar pixel type, an ITK filter that makes one, or a file or a folder of
            DICOM slices. A start index other than 0 is taken into the origin.
        name : str
            What to call the image in errors.

        Returns
        -------
        Volume
            The voxels (copied, pixel type kept) on a grid whose first voxel has index 0.

        Raises
        ------
        RegistrationError
            If it is not such an image, has an axis of one voxel, is constant, or holds NaN or infinite voxels.
        """
        volume = cls._read(image, name)
        _check_registrable(volume, name)
        return volume

    @classmethod
    def channels_from_image(cls, image: Any, *, name: str = "fixed") -> tuple[Volume, ...]:
        """Read an image of one channel or several that are to be registered together.

        Parameters
        ----------
        image : itk.Image, itk.VectorImage, SimpleITK.Image, Volume, str, path-like, list or tuple
            As for :meth:`from_image`, or an image of vectors or RGB pixels, or a 4-D image whose last axis counts the
            channels, or a list of scalar images on one grid.
        name : str
            What to call the image in errors.

        Returns
        -------
        tuple of Volume
            One for each channel, all on the same grid.

        Raises
        ------
        RegistrationError
            If a channel cannot be registered (see :meth:`from_image`), or the channels lie on different grids.
        """
        if isinstance(image, list | tuple):
            volumes = [cls._read(part, f"{name}[{i}]") for i, part in enumerate(image)]
            if not volumes:
                raise RegistrationError(f"{name} is an empty list, expected an image or a list with one per channel")
        elif isinstance(image, Volume):
            volumes = [cls._read(image, name)]
        else:
            array, grid = _pixels(_opened(image, name), name, channels=True)
            parts = np.moveaxis(array, -1, 0) if array.ndim > grid.dimension else [array]
            volumes = [cls(np.ascontiguousarray(part), grid) for part in parts]
        for i, volume in enumerate(volumes):
            part = name if len(volumes) == 1 else f"{name}[{i}]"
            _check_registrable(volume, part)
            if volume.grid.dimension != volumes[0].grid.dimension or not volume.grid.same_space(volumes[0].grid):
                raise RegistrationError(
                    f"{part} lies on another grid than {name}[0]: {_where(volume.grid)}, expected "
                    f"{_where(volumes[0].grid)}; resample the channels onto one grid"
                )
        # One grid for all, without differences of rounding.
        return tuple(cls(volume.array, volumes[0].grid) for volume in volumes)

    @classmethod
    def mask_from_image(cls, image: Any, reference: Grid, *, name: str = "fixed_mask") -> Volume:
        """Read a mask: voxels other than 0 are inside.

        Parameters
        ----------
        image : itk.Image, SimpleITK.Image, Volume, str or path-like
            Scalar image on the grid of the image it belongs to.
        reference : Grid
            Grid of that image.
        name : str
            What to call the mask in errors.

        Returns
        -------
        Volume
            A bool volume on ``reference``.

        Raises
        ------
        RegistrationError
            If it is not a scalar image, lies on another grid, holds NaN or is empty.
        """
        volume = cls._read(image, name)
        if volume.grid.dimension != reference.dimension or not volume.grid.same_space(reference):
            raise RegistrationError(
                f"{name} lies on another grid than its image: {_where(volume.grid)}, expected {_where(reference)}; "
                "resample the mask onto the image with nearest neighbour interpolation"
            )
        if np.issubdtype(volume.array.dtype, np.floating) and np.isnan(volume.array).any():
            raise RegistrationError(f"{name} holds NaN voxels, expected 0 outside and another number inside")
        inside = volume.array != 0
        if not inside.any():
            raise RegistrationError(f"{name} is empty: all {inside.size} voxels are 0, expected some inside")
        return cls(inside, reference)

    @classmethod
    def labels_from_image(cls, image: Any, *, name: str = "moving_labels") -> Volume:
        """Read a label image: whole numbers of any pixel type.

        Raises
        ------
        RegistrationError
            If it is not a scalar image or holds fractions.
        """
        volume = cls._read(image, name)
        array = volume.array
        if np.issubdtype(array.dtype, np.floating):
            with np.errstate(invalid="ignore"):
                odd = ~(np.isfinite(array) & (array == np.rint(array)))
            if odd.any():
                raise RegistrationError(
                    f"{name} is no label image: voxel {_first(odd)} is {array[odd][0]:g}, expected whole numbers"
                )
        return volume

    def to_simpleitk(self, dtype: type | None = None) -> SimpleITK.Image:
        """A copy as a SimpleITK image; bool becomes uint8, other types are kept unless ``dtype`` is given."""
        import SimpleITK

        kind = np.dtype(dtype or (np.uint8 if self.array.dtype == bool else self.array.dtype))
        image = SimpleITK.GetImageFromArray(self.array.astype(kind, copy=False))
        image.SetSpacing(self.grid.spacing)
        image.SetOrigin(self.grid.origin)
        image.SetDirection(np.asarray(self.grid.direction).ravel().tolist())
        return image

    def to_itk(self) -> Any:
        """A copy as an itk.Image of the same pixel type; bool becomes unsigned char.

        Raises
        ------
        RegistrationError
            If PyPI's itk has no images of the pixel type (int8 and int64).
        """
        import itk

        array = self.array.astype(np.uint8) if self.array.dtype == bool else np.ascontiguousarray(self.array)
        try:
            image = itk.image_from_array(array)
        except (KeyError, RuntimeError, itk.TemplateTypeError) as error:
            raise RegistrationError(f"itk has no images of {array.dtype} voxels: cast the array first") from error
        image.SetSpacing(self.grid.spacing)
        image.SetOrigin(self.grid.origin)
        image.SetDirection(itk.matrix_from_array(np.asarray(self.grid.direction)))
        return image

    @classmethod
    def _read(cls, image: Any, name: str) -> Volume:
        """Any supported object to a scalar volume; checks what it is, not yet its values."""
        if isinstance(image, Volume):
            _check_geometry(image.grid, name)
            return image
        array, grid = _pixels(_opened(image, name), name)
        return cls(np.ascontiguousarray(array), grid)


def _opened(image: Any, name: str) -> Any:
    """An image of itk, complete in memory, or of SimpleITK."""
    if isinstance(image, str | os.PathLike):
        return read_image(image, name=name)
    if is_itk(image) and not hasattr(image, "GetLargestPossibleRegion") and hasattr(image, "GetOutput"):
        image = image.GetOutput()
    if is_simpleitk(image):
        return image
    if not (is_itk(image) and hasattr(image, "GetLargestPossibleRegion")):
        what = type(image).__name__
        if isinstance(image, np.ndarray):
            what = f"a bare array of shape {image.shape}, which has no spacing, origin or direction"
        raise RegistrationError(
            f"{name} is not an image: found {what}, expected an itk.Image, a SimpleITK.Image or the path of a file"
        )
    try:
        # Brings an image at the end of a pipeline, or one buffered in part only, up to date.
        image.UpdateOutputInformation()
        image.SetRequestedRegionToLargestPossibleRegion()
        image.Update()
    except RuntimeError as error:
        raise RegistrationError(f"{name} cannot be made by its filter ({itk_reason(error)})") from error
    return image


def _pixels(image: Any, name: str, *, channels: bool = False) -> tuple[np.ndarray, Grid]:
    """A copy of the pixels, axes (z,) y, x and, where there are several, the channels; and the grid."""
    grid = grid_of(image, name, channels=channels)
    components = image.GetNumberOfComponentsPerPixel()
    series = len(image.GetSpacing()) > grid.dimension
    if not channels or series:
        _check_scalar(components, name)
    array = (_simpleitk_array if is_simpleitk(image) else _itk_array)(image, name)
    if np.iscomplexobj(array):
        raise RegistrationError(f"{name} has complex pixels, expected real numbers: register its magnitude")
    if series:
        array = np.moveaxis(array, 0, -1)
    # A vector image of one component.
    return (array[..., 0] if array.ndim > grid.dimension and array.shape[-1] == 1 else array), grid


def _simpleitk_array(image: Any, name: str) -> np.ndarray:
    import SimpleITK

    return SimpleITK.GetArrayFromImage(image)


def _itk_array(image: Any, name: str) -> np.ndarray:
    import itk

    whole, held = image.GetLargestPossibleRegion(), image.GetBufferedRegion()
    if held != whole:
        raise RegistrationError(
            f"{name} holds {tuple(held.GetSize())} of its {tuple(whole.GetSize())} voxels (x, y, z) in memory, "
            "expected all: update the filter it comes from"
        )
    try:
        return np.array(itk.array_view_from_image(image), order="C")
    except (RuntimeError, KeyError, itk.TemplateTypeError) as error:
        kind = type(image).__name__
        raise RegistrationError(f"{name} is an {kind}, which itk gives no array of: cast it to float") from error


def grid_of(image: Any, name: str, *, channels: bool = False) -> Grid:
    """The grid of an image of ITK or SimpleITK, a start index other than 0 taken into the origin; checked.

    With ``channels`` a 4-D image is one of 3-D whose last axis counts its channels.

    Raises
    ------
    RegistrationError
        If it is neither 2-D nor 3-D, or its geometry is impossible.
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
    _check_geometry(grid, name)
    return grid


def is_itk(image: Any) -> bool:
    """Whether an object is ITK's, told without importing itk."""
    return any(base.__module__.split(".")[0] == "itk" for base in type(image).__mro__)


def is_simpleitk(image: Any) -> bool:
    """Whether an object is a SimpleITK image, told without importing SimpleITK."""
    module = sys.modules.get("SimpleITK")
    return module is not None and isinstance(image, module.Image)


def image_kind(*images: Any) -> str:
    """In which library's kind to answer: "simpleitk" where some image is SimpleITK's and none is itk's, else "itk".

    Lists of channels count as the images in them.
    """
    images = tuple(part for each in images for part in (each if isinstance(each, list | tuple) else (each,)))
    if any(is_simpleitk(image) for image in images) and not any(is_itk(image) for image in images):
        return "simpleitk"
    return "itk"


def _check_scalar(components: int, name: str) -> None:
    if components != 1:
        raise RegistrationError(
            f"{name} has {components} components per voxel (an RGB or vector image), expected a scalar image: "
            "take one channel or the luminance"
        )


def _check_registrable(volume: Volume, name: str) -> None:
    thin = [axis for axis, n in zip("xyz", volume.grid.size, strict=False) if n < 2]
    if thin:
        raise RegistrationError(
            f"{name} has one voxel only along {' and '.join(thin)} ({volume.grid}), expected two or more along "
            "each axis: give a 2-D image for a single slice, or the folder for one file of a DICOM series"
        )
    _check_values(volume.array, name)


def _check_geometry(grid: Grid, name: str) -> None:
    if min(grid.size) < 1:
        raise RegistrationError(f"{name} has no voxels (size {' x '.join(map(str, grid.size))})")
    if not (np.isfinite(grid.spacing).all() and min(grid.spacing) > 0):
        raise RegistrationError(f"{name} has the spacing {grid.spacing} mm (x, y, z), expected positive numbers")
    if min(grid.spacing) < _FINEST or max(grid.spacing) > _COARSEST * min(grid.spacing):
        raise RegistrationError(
            f"{name} has the spacing {grid.spacing} mm (x, y, z), expected {_FINEST:g} mm or more and none "
            f"{_COARSEST:g} times another: correct the header"
        )
    if not np.isfinite(grid.origin).all():
        raise RegistrationError(f"{name} has the origin {grid.origin} mm (x, y, z), expected finite numbers")
    direction = np.asarray(grid.direction)
    skew = np.abs(direction.T @ direction - np.eye(grid.dimension)).max() if np.isfinite(direction).all() else np.inf
    if not skew <= _ORTHONORMAL:
        rows = "; ".join(" ".join(f"{v:.4g}" for v in row) for row in direction)
        raise RegistrationError(
            f"{name} has the direction matrix [{rows}], expected orthonormal columns: correct the header or resample"
        )


def _check_values(array: np.ndarray, name: str) -> None:
    if np.issubdtype(array.dtype, np.floating):
        # The sum is finite unless some voxel is not (or it overflows): one fast pass decides in the usual case.
        with np.errstate(all="ignore"):
            suspicious = not np.isfinite(array.sum(dtype=np.float64))
        if suspicious:
            bad = ~np.isfinite(array)
            if bad.any():
                raise RegistrationError(
                    f"{name} has {int(bad.sum())} NaN or infinite voxels, the first at index {_first(bad)} (x, y, z), "
                    "expected finite numbers: replace them"
                )
    low, high = array.min(), array.max()
    if low == high:
        raise RegistrationError(f"{name} is constant (every voxel is {low:g}), expected an image with structure")
    largest = float(np.finfo(np.float32).max)
    if float(high) > largest or float(low) < -largest:
        raise RegistrationError(
            f"{name} has values from {low:g} to {high:g}, expected them within single precision: rescale them"
        )


def _first(where: np.ndarray) -> tuple[int, ...]:
    """Index (x, y, z) of the first True voxel."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(where)), where.shape)[::-1])


def _where(grid: Grid) -> str:
    return f"{grid} from {tuple(round(o, 3) for o in grid.origin)} mm"
