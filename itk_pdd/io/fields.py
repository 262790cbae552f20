"""Displacement fields to and from ITK's and SimpleITK's images and transforms, and files."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.io import files, outputs
from itk_pdd.io.formats import niftyreg
from itk_pdd.io.guards.nifti import Head, nifti_ending, read_head, read_intent
from itk_pdd.io.guards.placement import qform_of, sform_of
from itk_pdd.io.images import array_of, grid_of, itk_image, simpleitk_image

if TYPE_CHECKING:
    import SimpleITK

__all__ = [
    "field_from_image",
    "field_from_simpleitk",
    "field_to_image",
    "field_to_itk",
    "field_to_itk_image",
    "field_to_simpleitk",
    "field_writer",
    "niftyreg_writer",
    "preload_itk",
    "read_field",
    "read_field_image",
    "voxel_writer",
    "write_field",
]

_SPM_NAME = "Mapping"  # intent of SPM's deformations
_VOXELS_NAME = "VOXELS"  # intent of fields in voxels, as voxel_writer writes them
_FSL_CODES = range(2006, 2010)  # intents of FSL's warps


def field_to_itk(field: DisplacementField) -> Any:
    """The field as an ``itk.DisplacementFieldTransform[itk.D, dim]``, a copy.

    Double precision because ITK's resampling filter and elastix take no other.
    """
    import itk

    dimension = field.grid.dimension
    image = itk_image(field.vectors, field.grid, itk.Image[itk.Vector[itk.D, dimension], dimension])
    return itk.DisplacementFieldTransform[itk.D, dimension].New(displacement_field=image)


def preload_itk(dimension: int) -> threading.Thread:
    """Begin to load, in a thread, the modules of ITK that :func:`field_to_itk` needs: they take seconds."""

    def load() -> None:
        # An error is for the call that needs the modules.
        with contextlib.suppress(Exception):
            grid = Grid.create((2,) * dimension)
            field_to_itk(DisplacementField(np.zeros((*grid.shape, dimension), np.float32), grid))

    thread = threading.Thread(target=load, name="itk_pdd loads ITK")
    thread.start()
    return thread


def field_to_itk_image(field: DisplacementField) -> Any:
    """The field as an ``itk.Image[itk.Vector[itk.F, dim], dim]``, the type of ITK's field files and warp filters."""
    import itk

    dimension = field.grid.dimension
    return itk_image(field.vectors, field.grid, itk.Image[itk.Vector[itk.F, dimension], dimension])


def field_to_image(field: DisplacementField) -> SimpleITK.Image:
    """The field as a SimpleITK image of float32 vectors."""
    return simpleitk_image(np.asarray(field.vectors, dtype=np.float32), field.grid)


def field_to_simpleitk(field: DisplacementField) -> SimpleITK.DisplacementFieldTransform:
    """The field as a SimpleITK transform."""
    import SimpleITK

    # The constructor empties the image it is given: give it one of its own.
    return SimpleITK.DisplacementFieldTransform(SimpleITK.Cast(field_to_image(field), SimpleITK.sitkVectorFloat64))


def field_from_image(image: Any, *, name: str = "field") -> DisplacementField:
    """Take a vector image of ITK or SimpleITK, displacements in physical (LPS) millimetres, as a field.

    It needs as many components as dimensions, and finite numbers.
    """
    grid = grid_of(image, name)
    components = image.GetNumberOfComponentsPerPixel()
    if components != grid.dimension:
        raise RegistrationError(
            f"{name} has {components} components per voxel in {grid.dimension} dimensions, expected a displacement "
            f"field of {grid.dimension} components"
        )
    array = array_of(image, name).astype(np.float32, copy=False)
    bad = ~np.isfinite(array)
    if bad.any():
        raise RegistrationError(f"{name} holds {int(bad.sum())} NaN or infinite displacements, expected finite numbers")
    return DisplacementField(array, grid)


def field_from_simpleitk(transform: SimpleITK.Transform, *, name: str = "transform") -> DisplacementField:
    """The field of a SimpleITK displacement field transform."""
    import SimpleITK

    field = SimpleITK.DisplacementFieldTransform(transform).GetDisplacementField()
    return field_from_image(field, name=name)


def read_field(path: str | os.PathLike[str], *, name: str = "field") -> DisplacementField:
    """Read a field from an image file (.nii.gz, .mha, .nrrd, ...) or from a transform file (.h5, .tfm, ...)."""
    import SimpleITK

    if outputs.extension(path).lower() not in files.TRANSFORM_EXTENSIONS:
        return read_field_image(path, name=name)
    transform = files.read_transform(path, name=name)
    if transform.GetTransformEnum() != SimpleITK.sitkDisplacementField:
        raise RegistrationError(f"{name}: {path} holds a {transform.GetName()}, expected a displacement field")
    return field_from_simpleitk(transform, name=name)


def read_field_image(path: str | os.PathLike[str], *, name: str = "field") -> DisplacementField:
    """Read a field from an image file of LPS displacements in millimetres, as ITK, ANTs and greedy write them.

    In NIfTI also the fields of NiftyReg and the positions of SPM (``y_*.nii``), which their headers name. Vectors that
    nothing explains are refused.
    """
    image = files.read_image(path, name=name)
    head = read_head(path) if nifti_ending(path) else None
    if head is None or not head.is_nifti:
        return field_from_image(image, name=name)
    if image.GetDimension() == 4 and image.GetSize()[-1] == 3:
        code = head.number("intent_code")
        raise RegistrationError(
            f"{name}: {path} holds three numbers per voxel along its fourth axis"
            f"{' (a warp of FSL)' if code in _FSL_CODES else ''}, whose units and axes the file does not tell, "
            "expected a field of five axes (x, y, z, 1, 3) with the intent 1007 in LPS millimetres: store it so"
        )
    if image.GetDimension() == 2 and image.GetNumberOfComponentsPerPixel() == 3:
        image = _of_one_slice(image, head, path, name)
    field, intent = field_from_image(image, name=name), read_intent(path)
    if intent.name == niftyreg.NAME:
        vectors = niftyreg.from_niftyreg(field.vectors, field.grid, intent.parameter, name=name)
    elif intent.name == _SPM_NAME:
        vectors = niftyreg.displacements_from_ras(field.vectors, field.grid)
    elif intent.name == _VOXELS_NAME:
        vectors = (field.vectors @ field.grid.matrix.T).astype(np.float32)
    else:
        return field
    return DisplacementField(vectors, field.grid)


def _of_one_slice(image: SimpleITK.Image, head: Head, path: str | os.PathLike[str], name: str) -> SimpleITK.Image:
    """Give a field of 3-D vectors on a single slice its third axis, which ITK drops."""
    import SimpleITK

    affine = qform_of(head) if sform_of(head) is None else sform_of(head)
    if affine is None:
        raise RegistrationError(f"{name}: {path} holds 3-D vectors on one slice, but does not say where the slice lies")
    array = SimpleITK.GetArrayFromImage(image)[None]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    grid = Grid.create(array.shape[-2::-1], spacing, affine[:3, 3], affine[:3, :3] / spacing)
    return simpleitk_image(array, grid)


def niftyreg_writer(field: DisplacementField) -> Callable[[Path], None]:
    """Make a function that writes a field as NiftyReg's displacement field (``reg_resample -trans``) to a path."""
    return partial(_write_marked, niftyreg.mirrored(field.vectors), field.grid)


def voxel_writer(field: DisplacementField) -> Callable[[Path], None]:
    """Make a function that writes a field in voxels of its grid, along its index axes x, y, z, to a NIfTI file.

    The name of the intent, VOXELS, keeps it from being taken for millimetres: :func:`read_field` turns it back.
    """
    vectors = (field.vectors @ np.linalg.inv(field.grid.matrix).T).astype(np.float32)
    return partial(_write_marked, vectors, field.grid, intent=(_VOXELS_NAME, 0))


def _write_marked(vectors: np.ndarray, grid: Grid, path: Path, intent: tuple[Any, ...] = ()) -> None:
    files.write_image(field_to_image(DisplacementField(vectors, grid)), path)
    niftyreg.mark_intent(path, *intent)


def field_writer(field: DisplacementField) -> Callable[[Path], None]:
    """Make a function that writes a field to a path, in the format of its extension (see :func:`write_field`)."""

    def write(path: Path) -> None:
        if outputs.extension(path) in files.TRANSFORM_EXTENSIONS:
            files.write_transform(field_to_simpleitk(field), path)
        else:
            files.write_image(field_to_image(field), path)

    return write


def write_field(field: DisplacementField, path: str | os.PathLike[str]) -> None:
    """Write a field, whole or not at all; OutputError if it cannot be written.

    ``.nii``, ``.nii.gz`` (intent code 1007, as ITK, ANTs and greedy read it), ``.mha``, ``.mhd``, ``.nrrd`` or
    ``.nhdr`` make a float32 vector image; ``.h5``, ``.hdf5``, ``.tfm``, ``.txt`` or ``.mat`` a transform.
    """
    outputs.write_all([(outputs.Output(path, "field", files.FIELD_EXTENSIONS), field_writer(field))])
