"""Displacement fields to and from ITK's and SimpleITK's images and transforms, and files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.io import files, outputs
from itk_pdd.io.formats import niftyreg
from itk_pdd.io.guards.nifti import read_intent
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
    "read_field",
    "read_field_image",
    "write_field",
]


def field_to_itk(field: DisplacementField) -> Any:
    """The field as an ``itk.DisplacementFieldTransform[itk.D, dim]``, a copy.

    Double precision because ITK's resampling filter and elastix take no other.
    """
    import itk

    dimension = field.grid.dimension
    image = itk_image(field.vectors, field.grid, itk.Image[itk.Vector[itk.D, dimension], dimension])
    return itk.DisplacementFieldTransform[itk.D, dimension].New(displacement_field=image)


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
    """A vector image of ITK or SimpleITK as a field.

    Parameters
    ----------
    image : itk.Image or SimpleITK.Image
        Displacements in physical (LPS) millimetres, as many components as dimensions.
    name : str
        What to call it in errors.

    Raises
    ------
    RegistrationError
        If it is not such an image or holds NaN or infinite numbers.
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
    """Read a field from an image file (.nii.gz, .mha, .nrrd, ...) or from a transform file (.h5, .tfm, ...).

    Raises
    ------
    RegistrationError
        If the file is missing or holds no displacement field.
    """
    import SimpleITK

    if outputs.extension(path).lower() not in files.TRANSFORM_EXTENSIONS:
        return read_field_image(path, name=name)
    transform = files.read_transform(path, name=name)
    if transform.GetTransformEnum() != SimpleITK.sitkDisplacementField:
        raise RegistrationError(f"{name}: {path} holds a {transform.GetName()}, expected a displacement field")
    return field_from_simpleitk(transform, name=name)


def read_field_image(path: str | os.PathLike[str], *, name: str = "field") -> DisplacementField:
    """Read a field from an image file: LPS displacements as ITK, ANTs and greedy write, or NiftyReg's field."""
    field = field_from_image(files.read_image(path, name=name), name=name)
    if outputs.extension(path).lower() in niftyreg.EXTENSIONS:
        intent = read_intent(path)
        if intent.name == niftyreg.NAME:
            vectors = niftyreg.from_niftyreg(field.vectors, field.grid, intent.parameter, name=name)
            return DisplacementField(vectors, field.grid)
    return field


def niftyreg_writer(field: DisplacementField) -> Callable[[Path], None]:
    """Make a function that writes a field as NiftyReg's displacement field (``reg_resample -trans``) to a path."""

    def write(path: Path) -> None:
        files.write_image(field_to_image(DisplacementField(niftyreg.mirrored(field.vectors), field.grid)), path)
        niftyreg.mark_as_niftyreg(path)

    return write


def field_writer(field: DisplacementField) -> Callable[[Path], None]:
    """Make a function that writes a field to a path, in the format of its extension (see :func:`write_field`)."""

    def write(path: Path) -> None:
        if outputs.extension(path) in files.TRANSFORM_EXTENSIONS:
            files.write_transform(field_to_simpleitk(field), path)
        else:
            files.write_image(field_to_image(field), path)

    return write


def write_field(field: DisplacementField, path: str | os.PathLike[str], *, name: str = "field") -> None:
    """Write a field, whole or not at all.

    Parameters
    ----------
    field : DisplacementField
        The field, in physical (LPS) millimetres.
    path : path-like
        ``.nii``, ``.nii.gz`` (intent code 1007, as ITK, ANTs and greedy read it), ``.mha``, ``.mhd``, ``.nrrd`` or
        ``.nhdr`` make a float32 vector image; ``.h5``, ``.hdf5``, ``.tfm``, ``.txt`` or ``.mat`` a transform.
    name : str
        What to call it in errors.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    outputs.write_all([(outputs.Output(path, name, files.FIELD_EXTENSIONS), field_writer(field))])
