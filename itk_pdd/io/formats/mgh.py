"""FreeSurfer's images (.mgh and .mgz), which ITK does not know: read and written with nibabel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.checks import check_geometry
from itk_pdd.io.outputs import OutputError

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["EXTENSIONS", "read_mgh", "write_mgh"]

EXTENSIONS = (".mgz", ".mgh")
"""FreeSurfer's image files, compressed and plain."""
_TYPES = (np.uint8, np.int16, np.int32, np.float32)  # that the format has
_LARGEST_SIZE = 1 << 31
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_mgh(path: Path, *, name: str) -> SimpleITK.Image:
    """Read an image of FreeSurfer, its RAS coordinates turned into LPS; several frames make a 4-D image."""
    import nibabel
    import SimpleITK
    from nibabel.imageglobals import logger

    # The error below says what nibabel would print. Its own LoggingOutputSuppressor loses the handlers for good.
    before, logger.disabled = logger.disabled, True
    try:
        source = nibabel.MGHImage.from_filename(str(path))
        affine, sizes = _LPS @ source.affine, [int(n) for n in source.header["dims"]]
        if min(sizes) < 1 or np.prod(sizes, dtype=float) >= _LARGEST_SIZE or not np.isfinite(affine).all():
            raise ValueError(f"sizes {sizes}")
        # Axes x, y, z and frames to (frames,) z, y, x.
        array = np.ascontiguousarray(np.asarray(source.dataobj).T)
    except Exception as error:
        # nibabel raises errors of many kinds on damaged files, some of them directly below Exception.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RegistrationError(f"{name}: {path} cannot be read as an image of FreeSurfer ({reason})") from error
    finally:
        logger.disabled = before
    array = array.astype(array.dtype.newbyteorder("="))
    frames = array.ndim - 3
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    with np.errstate(all="ignore"):
        grid = Grid.create(array.shape[:-4:-1], spacing, affine[:3, 3], affine[:3, :3] / spacing)
    check_geometry(grid, f"{name}: {path}")
    direction = np.eye(array.ndim)
    direction[:3, :3] = grid.direction
    image = SimpleITK.GetImageFromArray(array, isVector=False)
    image.SetSpacing([*grid.spacing, *[1.0] * frames])
    image.SetOrigin([*grid.origin, *[0.0] * frames])
    image.SetDirection(direction.ravel().tolist())
    return image


def write_mgh(image: SimpleITK.Image, path: Path) -> None:
    """Write a 3-D image for FreeSurfer; the components of vectors become frames.

    OutputError if it is not 3-D, or its voxels fit into none of the types of the format.
    """
    import nibabel
    import SimpleITK

    if image.GetDimension() != 3:
        raise OutputError(f"the format holds 3-D images, this one has {image.GetDimension()} dimensions")
    array = SimpleITK.GetArrayFromImage(image)
    for kind in _TYPES:
        with np.errstate(all="ignore"):
            held = array.astype(kind)
        if np.array_equal(held, array, equal_nan=array.dtype.kind == "f"):
            break
    else:
        raise OutputError(f"the format has no voxels that hold these of type {array.dtype}: choose .nii.gz")
    # Axes z, y, x (and components) to x, y, z (and frames).
    voxels = np.moveaxis(held, [0, 1, 2], [2, 1, 0])
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    nibabel.MGHImage(voxels, _LPS @ affine).to_filename(str(path))
