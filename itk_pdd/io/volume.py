"""Read images of ITK, SimpleITK and files as volumes, and give volumes back as images of these libraries."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry import volume as geometry_volume
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.checks import check_geometry, check_registrable, check_whole_numbers
from itk_pdd.io.images import array_of, grid_of, itk_image, opened, simpleitk_image

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["Volume"]

log = logging.getLogger("itk_pdd")

_SAME_PLACE_VOXELS = 0.1  # masks and channels may be rounded so far from their image; no voxel changes its neighbour


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
        check_registrable(volume, name)
        return volume

    @classmethod
    def channels_from_image(cls, image: Any, *, name: str = "fixed") -> tuple[Volume, ...]:
        """Read an image of one channel or several that are to be registered together.

        Parameters
        ----------
        image : itk.Image, itk.VectorImage, SimpleITK.Image, Volume, str, path-like, list or tuple
            As for :meth:`from_image`, or an image of vectors or RGB pixels, or a 4-D image whose last axis counts the
            channels, or a list of scalar images on one grid. An opaque alpha channel is left out.
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
            array, grid = _pixels(opened(image, name), name, channels=True)
            parts = list(np.moveaxis(array, -1, 0)) if array.ndim > grid.dimension else [array]
            volumes = [cls(np.ascontiguousarray(part), grid) for part in _without_alpha(parts, name)]
        first = volumes[0].grid
        for i, volume in enumerate(volumes):
            part = name if len(volumes) == 1 else f"{name}[{i}]"
            check_registrable(volume, part)
            if not _same_place(volume.grid, first):
                raise RegistrationError(
                    f"{part} lies on another grid than {name}[0]: {_where(volume.grid)}, expected {_where(first)}"
                    f"{_apart(volume.grid, first)}; resample the channels onto one grid"
                )
        # One grid for all, without differences of rounding.
        return tuple(cls(volume.array, first) for volume in volumes)

    @classmethod
    def mask_from_image(cls, image: Any, reference: Grid, *, name: str = "fixed_mask") -> Volume:
        """Read a mask: voxels other than 0 are inside.

        Parameters
        ----------
        image : itk.Image, SimpleITK.Image, Volume, str or path-like
            Scalar image on the grid of the image it belongs to, to a tenth of a voxel (headers are rounded).
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
        _check_place(volume.grid, reference, name, "the mask")
        if np.issubdtype(volume.array.dtype, np.floating) and np.isnan(volume.array).any():
            raise RegistrationError(f"{name} holds NaN voxels, expected 0 outside and another number inside")
        inside = volume.array != 0
        if not inside.any():
            raise RegistrationError(f"{name} is empty: all {inside.size} voxels are 0, expected some inside")
        return cls(inside, reference)

    @classmethod
    def labels_from_image(cls, image: Any, reference: Grid | None = None, *, name: str = "moving_labels") -> Volume:
        """Read a label image: whole numbers of any pixel type.

        Parameters
        ----------
        image : itk.Image, SimpleITK.Image, Volume, str or path-like
            Scalar image.
        reference : Grid, optional
            Grid that it must lie on, to a tenth of a voxel (headers are rounded); the volume gets this one.
        name : str
            What to call it in errors.

        Raises
        ------
        RegistrationError
            If it is not a scalar image, lies on another grid or holds fractions.
        """
        volume = cls._read(image, name)
        if reference is not None:
            _check_place(volume.grid, reference, name, "the labels")
        check_whole_numbers(volume.array, name)
        return volume if reference is None else cls(volume.array, reference)

    @classmethod
    def components_from_image(cls, image: Any, *, name: str = "fixed_labels") -> tuple[Volume, ...]:
        """Read every component of an image, or every volume of a 4-D image; only the geometry is checked."""
        if isinstance(image, Volume):
            return (cls._read(image, name),)
        array, grid = _pixels(opened(image, name), name, channels=True)
        parts = np.moveaxis(array, -1, 0) if array.ndim > grid.dimension else array[None]
        return tuple(cls(np.ascontiguousarray(part), grid) for part in parts)

    def to_simpleitk(self, dtype: type | None = None) -> SimpleITK.Image:
        """A copy as a SimpleITK image; bool becomes uint8, other types are kept unless ``dtype`` is given."""
        return simpleitk_image(self.array.astype(dtype or self.array.dtype, copy=False), self.grid)

    def to_itk(self) -> Any:
        """A copy as an itk.Image of the same pixel type; bool becomes unsigned char.

        Raises
        ------
        RegistrationError
            If PyPI's itk has no images of the pixel type (int8 and int64).
        """
        return itk_image(self.array, self.grid)

    @classmethod
    def _read(cls, image: Any, name: str) -> Volume:
        """Any supported object to a scalar volume; checks what it is, not yet its values."""
        if isinstance(image, Volume):
            check_geometry(image.grid, name)
            return image
        array, grid = _pixels(opened(image, name), name)
        return cls(np.ascontiguousarray(array), grid)


def _pixels(image: Any, name: str, *, channels: bool = False) -> tuple[np.ndarray, Grid]:
    """A copy of the voxels, axes (z,) y, x and, where there are several, the channels; and the grid."""
    grid = grid_of(image, name, channels=channels)
    series = len(image.GetSpacing()) > grid.dimension
    components = image.GetNumberOfComponentsPerPixel()
    if components != 1 and (series or not channels):
        if not series and components == 2:
            # Grey pixels with an alpha channel.
            parts = _without_alpha(list(np.moveaxis(array_of(image, name), -1, 0)), name)
            if len(parts) == 1:
                return parts[0], grid
        raise RegistrationError(
            f"{name} has {components} components per voxel (an RGB or vector image), expected a scalar image: "
            "take one channel or the luminance"
        )
    array = array_of(image, name)
    if series:
        array = np.moveaxis(array, 0, -1)
    # A vector image of one component.
    return (array[..., 0] if array.ndim > grid.dimension and array.shape[-1] == 1 else array), grid


def _without_alpha(channels: list[np.ndarray], name: str) -> list[np.ndarray]:
    """Leave out the alpha channel of grey or RGB pixels if it is opaque everywhere; it says nothing."""
    last = channels[-1]
    if len(channels) not in (2, 4) or last.dtype not in (np.uint8, np.uint16):
        return channels
    if last.min() < np.iinfo(last.dtype).max:
        return channels
    log.info("%s: the alpha channel is opaque everywhere and is left out", name)
    return channels[:-1]


def _check_place(found: Grid, reference: Grid, name: str, what: str) -> None:
    if not _same_place(found, reference):
        raise RegistrationError(
            f"{name} lies on another grid than its image: {_where(found)}, expected {_where(reference)}"
            f"{_apart(found, reference)}; resample {what} onto the image with nearest neighbour interpolation"
        )


def _same_place(grid: Grid, reference: Grid) -> bool:
    return grid.dimension == reference.dimension and grid.same_space(reference, tolerance=_SAME_PLACE_VOXELS)


def _where(grid: Grid) -> str:
    return f"{grid} from {tuple(round(o, 3) for o in grid.origin)} mm"


def _apart(grid: Grid, reference: Grid) -> str:
    """Say, in voxels, how far apart two grids of the same size put their corners."""
    if grid.size != reference.size:
        return ""
    index = reference.to_index(grid.corners()) - reference.to_index(reference.corners())
    return f" (corners up to {np.abs(index).max():.3g} voxels apart)"
