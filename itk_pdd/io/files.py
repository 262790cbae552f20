"""Images and transforms in files, read and written with SimpleITK; every output goes through ``outputs``."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.io.dicom import is_dicom, read_dicom
from itk_pdd.io.formats import mgh, tiff
from itk_pdd.io.formats.unusual import read_unusual
from itk_pdd.io.guards.headers import check_header, check_transform_text, nrrd_fields
from itk_pdd.io.guards.nifti import examine_nifti, missing_bytes, nifti_ending, read_head
from itk_pdd.io.guards.placement import check_placement, check_shear
from itk_pdd.io.guards.transforms import loose_transforms
from itk_pdd.io.guards.trial import check_hdf5
from itk_pdd.io.guards.twins import alone
from itk_pdd.io.gzipping import compress_file, holds
from itk_pdd.io.messages import READ_ERRORS, check_file_name, itk_reason, library_messages
from itk_pdd.io.outputs import OutputError, extension, free_space
from itk_pdd.io.units import check_nrrd_units

if TYPE_CHECKING:
    import SimpleITK

__all__ = [
    "FIELD_EXTENSIONS",
    "IMAGE_EXTENSIONS",
    "TRANSFORM_EXTENSIONS",
    "read_image",
    "read_transform",
    "write_image",
    "write_transform",
]

_VECTOR_EXTENSIONS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
IMAGE_EXTENSIONS = _VECTOR_EXTENSIONS + mgh.EXTENSIONS
"""Formats that keep size, spacing, origin and direction."""
TRANSFORM_EXTENSIONS = (".h5", ".hdf5", ".tfm", ".txt", ".mat")
"""ITK's transform files."""
FIELD_EXTENSIONS = _VECTOR_EXTENSIONS + TRANSFORM_EXTENSIONS
"""Formats in which a displacement field can be written."""
_BEYOND = 1e12  # no length in millimetres, no factor, no number of control points
_COMPRESSED = (".nii.gz", ".mha", ".nrrd")


def read_image(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], *, name: str = "image"
) -> SimpleITK.Image:
    """Read an image of any format ITK knows, or DICOM slices.

    ``path`` is a file; a folder, of which the DICOM series with the most slices is read (the log says which); or the
    DICOM files of one image. A single DICOM slice becomes a 2-D image. ``name`` is what errors call it.
    """
    if not isinstance(path, str | os.PathLike):
        return read_dicom([_existing(file, name) for file in path], name=name)
    path = _existing(path, name)
    where = f"{name}: {path}"
    if path.is_dir():
        return read_dicom(path, name=name)
    if not os.access(path, os.R_OK):
        raise RegistrationError(f"{where} may not be read (permission denied)")
    if path.stat().st_size == 0:
        raise RegistrationError(f"{where} is empty (0 bytes), expected an image")
    if is_dicom(path):
        return read_dicom(path, name=name)
    kind = extension(path).lower()
    if kind in mgh.EXTENSIONS:
        return mgh.read_mgh(path, name=name)
    check_header(path, name=name)
    head = read_head(path) if nifti_ending(path) else None
    if head is not None:
        if head.version == 2:
            raise RegistrationError(f"{where} is NIfTI-2, which ITK does not read: convert it to NIfTI-1")
        check_shear(head, where=where)
        _check_voxels(path, name)
    image = _read_alone(path, name)
    if head is not None:
        image = _unscaled(image, path, where) if head.has_idle_intercept else image
        check_placement(image, head, where=where)
    elif kind in tiff.EXTENSIONS:
        tiff.apply_description(image, path, where=where)
    elif kind in (".nrrd", ".nhdr"):
        check_nrrd_units(nrrd_fields(path), where=where)
    return image


def _check_voxels(path: Path, name: str) -> None:
    """Refuse a NIfTI or Analyze file that is cut short or holds NaN, of both of which ITK says nothing."""
    flaws = examine_nifti(path)
    if flaws.missing:
        raise RegistrationError(f"{name}: {path} was cut short, it lacks {flaws.missing} bytes: copy it again")
    if flaws.not_finite:
        raise RegistrationError(
            f"{name} has {flaws.not_finite} NaN or infinite voxels, the first at index {flaws.first} (x, y, z), "
            "expected finite numbers: replace them"
        )


def _unscaled(image: SimpleITK.Image, path: Path, where: str) -> SimpleITK.Image:
    """Give an image the voxels as they are stored, without the intercept that ITK has added in vain."""
    import nibabel
    import SimpleITK

    if image.GetNumberOfComponentsPerPixel() > 1:
        raise RegistrationError(f"{where} holds vectors with an intercept but no slope: write it without scaling")
    source: Any = nibabel.load(path)
    stored = np.asarray(source.dataobj.get_unscaled()).reshape(image.GetSize(), order="F").T
    result = SimpleITK.GetImageFromArray(np.ascontiguousarray(stored, stored.dtype.newbyteorder("=")), isVector=False)
    result.CopyInformation(image)
    return result


def _read_alone(path: Path, name: str, pixel: int | None = None) -> SimpleITK.Image:
    """Read a file with ITK, which must not take a part of it from a neighbour of a similar name."""
    import SimpleITK

    try:
        with alone(path, name=name) as readable, library_messages():
            reader = SimpleITK.ImageFileReader()
            reader.SetFileName(str(readable))
            if pixel is not None:
                reader.SetOutputPixelType(pixel)
            return reader.Execute()
    except READ_ERRORS as error:
        # SimpleITK has no images of some kinds of pixels that ITK reads.
        if "Unknown PixelType" not in str(error):
            raise RegistrationError(f"{name}: {path} cannot be read as an image ({itk_reason(error)})") from error
        return read_unusual(path, name=name)


def _existing(path: str | os.PathLike[str], name: str) -> Path:
    path = Path(path)
    if not path.exists():
        raise RegistrationError(f"{name}: there is no file {path}")
    check_file_name(path, name=name, error=RegistrationError)
    return path


def read_transform(path: str | os.PathLike[str], *, name: str = "initial_transform") -> SimpleITK.Transform:
    """Read an ITK transform file (.h5, .hdf5, .tfm, .txt, .mat; ANTs' affine .mat too)."""
    import SimpleITK

    path = _existing(path, name)
    if not path.is_file():
        raise RegistrationError(f"{name}: there is no file {path}")
    if extension(path).lower() not in TRANSFORM_EXTENSIONS:
        raise RegistrationError(
            f"{name}: {path} is no transform file, expected one of {', '.join(TRANSFORM_EXTENSIONS)}"
        )
    if extension(path).lower() in (".tfm", ".txt"):
        check_transform_text(path, name=name)
    elif extension(path).lower() in (".h5", ".hdf5"):
        check_hdf5(path, name=name)
    several = loose_transforms(path, extension(path).lower())
    if several:
        raise RegistrationError(
            f"{name}: {path} holds {several} transforms that are no composite, and the format does not say in which "
            "order they are applied: write them as one CompositeTransform, or each into a file of its own"
        )
    try:
        with library_messages():
            transform = SimpleITK.ReadTransform(str(path))
            fine = all(map(_is_finite, [transform.GetFixedParameters(), _parameters(transform)]))
    except READ_ERRORS as error:
        raise RegistrationError(f"{name}: {path} cannot be read as an ITK transform ({itk_reason(error)})") from error
    if not fine:
        raise RegistrationError(f"{name}: {path} holds numbers that are not finite or beyond reason: make it again")
    return transform


def write_image(image: SimpleITK.Image, path: str | os.PathLike[str]) -> None:
    """Write an image in the format of its extension and read it back: some of ITK's writers do not notice a full disk.

    A vector image in NIfTI gets the intent code 1007. Compressed where the format can be (floats in NIfTI need room for
    a file that is not, for a moment).
    """
    import SimpleITK

    kind = extension(path)
    if kind in mgh.EXTENSIONS:
        mgh.write_mgh(image, Path(path))
        with _as_output_error():
            _check_written(mgh.read_mgh(Path(path), name="output"), image)
        return
    if kind == ".nii.gz" and "float" in image.GetPixelIDTypeAsString():
        _write_compressed(image, Path(path))
        return
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(kind in _COMPRESSED)
    # Level 1 halves the time of level 6; fields of noisy floats hardly get smaller with more.
    writer.SetCompressionLevel(1)
    with library_messages(), _as_output_error():
        writer.Execute(image)
    if kind in (".nii", ".nii.gz") and missing_bytes(path):
        raise OutputError("it was cut short; is the disk full?")
    with _as_output_error():
        _check_written(_read_alone(Path(path), "output", image.GetPixelID()), image)


def _check_written(again: SimpleITK.Image, image: SimpleITK.Image) -> None:
    """Compare what a file holds with what was to be written."""
    import SimpleITK

    found, written = SimpleITK.GetArrayViewFromImage(again), SimpleITK.GetArrayViewFromImage(image)
    if found.ndim == written.ndim and image.GetDimension() < again.GetDimension():
        found = np.moveaxis(found, 0, -1)  # components that became frames
    elif found.ndim < written.ndim:
        found = found.reshape(written.shape) if found.size == written.size else found  # vectors on a single slice
    if not np.array_equal(found, written, equal_nan=found.dtype.kind == "f"):
        raise OutputError("it was cut short; is the disk full?")


def _write_compressed(image: SimpleITK.Image, path: Path) -> None:
    """Write floating-point numbers to .nii.gz faster than ITK does, and without a copy of them in memory."""
    import SimpleITK

    plain = path.with_name(f"{path.name}.plain.nii")
    try:
        with library_messages(), _as_output_error():
            SimpleITK.WriteImage(image, str(plain), False)
        if missing_bytes(plain):
            raise OutputError("it was cut short; is the disk full?")
        compress_file(plain, path, threads=SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads())
        if not holds(path, plain):
            raise OutputError("it was cut short; is the disk full?")
    finally:
        plain.unlink(missing_ok=True)


def write_transform(transform: SimpleITK.Transform, path: str | os.PathLike[str]) -> None:
    """Write a transform file and read it back (see :func:`write_image`)."""
    import SimpleITK

    numbers = _parameters(transform)
    # HDF5 does not only fail on a full disk, it brings the process down when it ends.
    if free_space(Path(path).resolve().parent) < 8 * numbers.size + (1 << 16):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with library_messages(), _as_output_error():
        SimpleITK.WriteTransform(transform, str(path))
        again = _parameters(SimpleITK.ReadTransform(str(path)))
    if not np.array_equal(again, numbers):
        raise OutputError("it was cut short; is the disk full?")


@contextlib.contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise OutputError(f"{itk_reason(error)}; is the disk full?") from error


def _parameters(transform: SimpleITK.Transform) -> np.ndarray:
    """All parameters of a transform; those of a displacement field not by way of millions of Python numbers."""
    import SimpleITK

    # Linear ones first: SimpleITK shows those it has no class for as composites of themselves, without end.
    if not transform.IsLinear() and transform.GetTransformEnum() == SimpleITK.sitkComposite:
        parts = SimpleITK.CompositeTransform(transform)
        return np.concatenate([_parameters(parts.GetNthTransform(i)) for i in range(parts.GetNumberOfTransforms())])
    if transform.GetTransformEnum() == SimpleITK.sitkDisplacementField:
        field = SimpleITK.DisplacementFieldTransform(transform).GetDisplacementField()
        return SimpleITK.GetArrayFromImage(field).ravel()
    return np.asarray(transform.GetParameters())


def _is_finite(numbers: Iterable[float] | np.ndarray) -> bool:
    values = np.asarray(numbers, dtype=float)
    return bool((np.abs(values) < _BEYOND).all())
