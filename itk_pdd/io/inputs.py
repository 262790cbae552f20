"""Notice changes of the inputs that the ITK-style object holds, and pack them for pickling."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import field_from_image, field_to_itk
from itk_pdd.io.images import is_itk, is_itk_image, is_simpleitk, itk_image, opened
from itk_pdd.io.transforms import matrix_of

__all__ = ["pack", "time_stamp", "unpack"]


def time_stamp(item: Any) -> Any:
    """Something that differs when an input has changed since: a modification time, a hash, the bytes of a matrix."""
    if hasattr(item, "TransformPoint") and item.IsLinear():
        # Not every setter of ITK's transforms changes their time.
        dimension = item.GetInputSpaceDimension() if is_itk(item) else item.GetDimension()
        return matrix_of(item, dimension).tobytes()
    if is_itk(item):
        # A filter, or an image at the end of a pipeline: bring it up to date first, which may change its time.
        if hasattr(item, "Update"):
            item.Update()
        output = item.GetOutput() if hasattr(item, "GetOutput") else item
        return id(item), int(output.GetMTime())
    if is_simpleitk(item):
        import SimpleITK

        scalar = item.GetNumberOfComponentsPerPixel() == 1
        geometry = item.GetSize(), item.GetSpacing(), item.GetOrigin(), item.GetDirection()
        # SimpleITK hashes scalar images only.
        content = SimpleITK.Hash(item) if scalar else hash(SimpleITK.GetArrayViewFromImage(item).tobytes())
        return id(item), content, geometry
    if isinstance(item, str | os.PathLike):
        status = os.stat(item) if os.path.exists(item) else None
        return os.fspath(item), status and (status.st_mtime_ns, status.st_size)
    if isinstance(item, np.ndarray):
        return item.shape, item.tobytes()
    if isinstance(item, list | tuple):
        return tuple(time_stamp(part) for part in item)
    return id(item)


@dataclass(frozen=True)
class _PackedImage:
    """All of an itk image, because pickling one itself loses its start index and the components of a VectorImage.

    The origin of ``grid`` is that of the image: where index 0 lies, which need not be the first voxel.
    """

    kind: Any
    array: np.ndarray
    grid: Grid
    start: tuple[int, ...]


def pack(item: Any) -> Any:
    """Turn an input of :func:`itk_pdd.register` into something that survives pickling with every voxel at its place.

    ITK filters become the images they make, since pipelines cannot be pickled; composite transforms are flattened;
    fields of transforms get start index 0.
    """
    if isinstance(item, list | tuple):
        return type(item)(pack(part) for part in item)
    if not is_itk(item):
        return item
    if hasattr(item, "TransformPoint"):
        return _plain_transform(item)
    if not (is_itk_image(item) or hasattr(item, "GetOutput")):
        raise RegistrationError(f"a {type(item).__name__} cannot be pickled: set an image, a transform or a path")
    import itk

    image = opened(item, "input")
    region = image.GetLargestPossibleRegion()
    direction = itk.array_from_matrix(image.GetDirection())
    grid = Grid.create(tuple(region.GetSize()), tuple(image.GetSpacing()), tuple(image.GetOrigin()), direction)
    array = np.array(itk.array_view_from_image(image))
    return _PackedImage(type(image), array, grid, tuple(int(i) for i in region.GetIndex()))


def unpack(item: Any) -> Any:
    """The input that :func:`pack` was given."""
    if isinstance(item, list | tuple):
        return type(item)(unpack(part) for part in item)
    if not isinstance(item, _PackedImage):
        return item
    image = itk_image(item.array, item.grid, item.kind)
    region = image.GetLargestPossibleRegion()
    region.SetIndex(item.start)
    image.SetRegions(region)
    return image


def _plain_transform(transform: Any) -> Any:
    """An itk transform whose own pickling loses nothing: no composite within a composite, fields with start index 0."""
    import itk

    parts = _parts(itk.down_cast(transform))
    if len(parts) == 1:
        return parts[0]
    composite = itk.CompositeTransform[itk.D, transform.GetInputSpaceDimension()].New()
    for part in parts:
        composite.AddTransform(part)
    return composite


def _parts(transform: Any) -> list[Any]:
    import itk

    if hasattr(transform, "GetNthTransform"):
        parts = [transform.GetNthTransform(i) for i in range(transform.GetNumberOfTransforms())]
        return [plain for part in parts for plain in _parts(itk.down_cast(part))]
    if "DisplacementField" in transform.GetTransformTypeAsString():
        field = transform.GetDisplacementField()
        if any(int(i) for i in field.GetLargestPossibleRegion().GetIndex()):
            return [field_to_itk(field_from_image(field, name="initial_transform"))]
    return [transform]
