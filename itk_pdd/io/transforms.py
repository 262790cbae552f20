"""The door for transforms: every kind and every file becomes a mapping of points, and mappings become transforms."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField, FieldMapping
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.inversion import ITERATIONS, invert_points
from itk_pdd.geometry.mapping import AffineMapping, Chain, Everywhere, Mapping, joined, parts_of
from itk_pdd.io import files
from itk_pdd.io.fields import (
    field_from_image,
    field_from_simpleitk,
    field_to_itk,
    field_to_simpleitk,
    read_field,
    read_field_image,
)
from itk_pdd.io.formats.affines import AFFINE_FORMATS, check_named, read_affine
from itk_pdd.io.formats.elastix import is_elastix, read_elastix
from itk_pdd.io.images import is_itk, is_simpleitk, reference_grid
from itk_pdd.io.outputs import extension

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["as_mapping", "mapping_answer", "mapping_to_itk", "mapping_to_simpleitk", "matrix_of", "transform_writer"]

# ANTs' way to ask for the inverse of a file.
_INVERTED = re.compile(r"^\[\s*(.+?)\s*,\s*([01])\s*\]$")
_FLATTENS = 1e-6  # shortest over longest axis of a unit sphere's image: below, it counts as flat
_POINTS_AT_ONCE = 500_000  # points mapped by ITK at once: bounds the memory


@dataclass(frozen=True)
class LinearTransform(AffineMapping):
    """An affine mapping that remembers the transform of SimpleITK from which it comes, to be written as it was."""

    transform: SimpleITK.Transform = field(repr=False, compare=False)


@dataclass(frozen=True)
class OtherTransform(Everywhere):
    """Any other transform of SimpleITK, a B-spline for instance, as a mapping of points; nothing is sampled."""

    matrix = None  # it is not linear
    transform: SimpleITK.Transform  # from fixed to moving points; beyond its domain it does what ITK does there
    domain: Grid | None  # the meshes of a B-spline
    name: str

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""
        return int(self.transform.GetDimension())

    @property
    def voxel(self) -> float:
        """Length in millimetres over which it changes little."""
        return 1.0 if self.domain is None else min(self.domain.spacing) / 10

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., dim), components x, y, z, in physical (LPS) millimetres."""
        points = np.asarray(points, dtype=float)
        flat = points.reshape(-1, points.shape[-1])
        mapped = np.empty_like(flat)
        for first in range(0, len(flat), _POINTS_AT_ONCE):
            part = slice(first, first + _POINTS_AT_ONCE)
            mapped[part] = _mapped_by_itk(self.transform, flat[part])
        return mapped.reshape(points.shape)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Tell which points (..., dim) lie in the domain, as booleans (...)."""
        return np.ones(np.shape(points)[:-1], bool) if self.domain is None else self.domain.contains(points, margin=0)

    def invert(
        self, points: np.ndarray, *, tolerance: float | None = None, iterations: int = ITERATIONS
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the points that are mapped to given ones, and how far from these they end, in millimetres."""
        tolerance = 1e-4 * self.voxel if tolerance is None else tolerance
        return invert_points(self, points, tolerance=tolerance, step=self.voxel, iterations=iterations)


def _mapped_by_itk(transform: SimpleITK.Transform, points: np.ndarray) -> np.ndarray:
    """Map points (n, dim) with all threads: through a field, applied before, that takes a row of voxels to them."""
    import SimpleITK

    count, dimension = points.shape
    nodes = np.zeros_like(points)
    nodes[:, 0] = np.arange(count)
    row = (points - nodes).reshape(*(1,) * (dimension - 1), count, dimension)
    there = SimpleITK.DisplacementFieldTransform(SimpleITK.GetImageFromArray(row, isVector=True))
    moved = SimpleITK.TransformToDisplacementField(
        SimpleITK.CompositeTransform([transform, there]), SimpleITK.sitkVectorFloat64, row.shape[-2::-1],
        [0.0] * dimension, [1.0] * dimension, np.eye(dimension).ravel().tolist(),
    )  # fmt: skip
    return SimpleITK.GetArrayFromImage(moved).reshape(points.shape) + nodes


def as_mapping(transform: Any, *, dimension: int | None = None, name: str = "transform") -> Mapping:
    """Read a transform in any form as a mapping of physical points.

    Parameters
    ----------
    transform : itk.Transform, SimpleITK.Transform, numpy.ndarray, DisplacementField, Mapping, str, path-like or list
        Maps fixed points to moving points in physical (LPS) millimetres. A matrix is homogeneous, (dim + 1, dim + 1).
        A file is a transform of ITK or ANTs (.h5, .hdf5, .tfm, .txt, .mat), elastix' transform parameters (.txt) or
        the image of a displacement field; "ras:FILE" is a matrix of greedy, c3d or NiftyReg, "fsl:FILE,FIXED,MOVING"
        one of FLIRT with its images, .lta FreeSurfer's, .aff12.1D AFNI's and .xfm MINC's;
        "[file,1]" asks for the inverse of a linear one as in ANTs. A list is given in ANTs' order: a fixed point goes
        through the first one first (so that the moving image is changed by the last one first).
    dimension : int, optional
        Dimension it must have; by default any (of a list the dimension of its first member).
    name : str
        What to call it in errors.

    Returns
    -------
    Mapping
        An :class:`AffineMapping`, exact, if all are linear; a :class:`FieldMapping`, which moves nothing beyond its
        grid, as in ITK; an exact :class:`OtherTransform`; or a :class:`Chain` of these.
    """
    items = list(transform) if isinstance(transform, list | tuple) else [transform]
    if not items:
        raise RegistrationError(f"{name} is an empty list, expected at least one transform")
    parts: list[Mapping] = []
    for number, item in enumerate(items):
        own = f"{name}[{number}]" if len(items) > 1 else name
        # A list within a list is one transform.
        found = [as_mapping(item, dimension=dimension, name=own)] if isinstance(item, list | tuple) else []
        for part in found or _parts(item, own):
            if dimension not in (None, part.dimension):
                raise RegistrationError(
                    f"{own} is {part.dimension}-D but the fixed image is {dimension}-D: expected the same dimension"
                )
            dimension = part.dimension
            if part.matrix is not None:
                _check_matrix(part.matrix, own)
            parts.append(part)
    return joined(parts)


def _parts(transform: Any, name: str) -> Iterator[Mapping]:
    """The single mappings of a transform; a fixed point goes through the first one first."""
    import SimpleITK

    if isinstance(transform, str | os.PathLike):
        yield from _read(os.fspath(transform), name)
    elif isinstance(transform, AffineMapping | FieldMapping | OtherTransform | Chain):
        yield from parts_of(transform)
    elif isinstance(transform, DisplacementField):
        yield FieldMapping(transform, "zero", name)
    elif isinstance(transform, np.ndarray):
        _check_homogeneous(transform, name)
        yield AffineMapping(transform.astype(float))
    elif isinstance(transform, SimpleITK.Transform):
        yield from _from_simpleitk(transform, name)
    elif is_itk(transform) and hasattr(transform, "TransformPoint"):
        yield from _from_itk(transform, name)
    else:
        raise RegistrationError(
            f"{name} is of type {type(transform).__name__}, expected an itk.Transform, a SimpleITK.Transform, a "
            "homogeneous matrix, a DisplacementField or the path of a transform or field file"
        )


def _read(path: str, name: str) -> list[Mapping]:
    """Read a file, inverted where its name is written as ANTs does for that."""
    exists = os.path.exists(path)
    match = None if exists else _INVERTED.match(path)
    if match is None:
        called = f"{name} ({path})"
        kind, colon, rest = ("", "", path) if exists else path.partition(":")
        if colon and kind in AFFINE_FORMATS:
            return [_foreign_affine(kind, rest, name)]
        for kind in ("lta", "afni", "xfm"):
            if path.endswith(AFFINE_FORMATS[kind]):
                return [_foreign_affine(kind, path, name)]
        check_named(path, name)
        if extension(path).lower() not in files.TRANSFORM_EXTENSIONS:
            return [FieldMapping(read_field_image(path, name=name), "zero", called)]
        if not is_elastix(path):
            return list(_from_simpleitk(files.read_transform(path, name=name), called))
        read: dict[str, Callable[[Path], Any]] = {
            "field": partial(read_field, name=name),
            "transform": partial(files.read_transform, name=name),
        }
        stages = read_elastix(path, read, name=name)
        return [part for stage in stages for part in _parts(stage, called)]
    parts = _read(match[1], name)
    if match[2] == "0":
        return parts
    whole = joined(parts)
    if whole.matrix is None:
        raise RegistrationError(
            f"{name}: {match[1]} is not linear and cannot be inverted on the way (nor can ANTs): give the file of its "
            "inverse (1InverseWarp.nii.gz in ANTs), or make one with pdd-transform inverse"
        )
    _check_matrix(whole.matrix, f"{name}: {match[1]}")
    return [AffineMapping(np.linalg.inv(whole.matrix))]


def _foreign_affine(kind: str, text: str, name: str) -> AffineMapping:
    """Read "FILE" or "FILE,FIXED,MOVING": a matrix of another program and, where it needs them, the images."""
    path, *images = [text] if os.path.exists(text) else text.split(",")
    if len(images) not in (0, 2):
        raise RegistrationError(f"{name}: {kind}:{text} names {len(images)} images, expected {kind}:FILE,FIXED,MOVING")
    fixed, moving = [reference_grid(image, name=f"{name} ({image})") for image in images] or (None, None)
    return AffineMapping(read_affine(Path(path), kind, fixed, moving, name=name))


def _from_simpleitk(transform: SimpleITK.Transform, name: str) -> Iterator[Mapping]:
    import SimpleITK

    kind = transform.GetTransformEnum()
    # Linear ones first: SimpleITK shows those it has no class for (MatrixOffsetTransformBase, Rigid2DTransform, as
    # c3d and older ANTs write them) as composites of themselves, without end.
    if transform.IsLinear():
        yield LinearTransform(matrix_of(transform, transform.GetDimension()), transform)
    elif kind == SimpleITK.sitkComposite:
        composite = SimpleITK.CompositeTransform(transform)
        # ITK applies the last one first.
        for number in reversed(range(composite.GetNumberOfTransforms())):
            yield from _from_simpleitk(composite.GetNthTransform(number), name)
    elif kind == SimpleITK.sitkDisplacementField:
        yield FieldMapping(field_from_simpleitk(transform, name=name), "zero", name)
    elif kind == SimpleITK.sitkBSplineTransform:
        spline = SimpleITK.BSplineTransform(transform)
        mesh = np.asarray(spline.GetTransformDomainMeshSize())
        spacing = np.asarray(spline.GetTransformDomainPhysicalDimensions()) / mesh
        direction = np.reshape(spline.GetTransformDomainDirection(), (len(mesh), len(mesh)))
        domain = Grid.create(mesh + 1, spacing, spline.GetTransformDomainOrigin(), direction)
        yield OtherTransform(transform, domain, name)
    else:
        yield OtherTransform(transform, None, name)


def _from_itk(transform: Any, name: str) -> Iterator[Mapping]:
    import itk

    transform = itk.down_cast(transform)
    if transform.IsLinear():
        yield AffineMapping(matrix_of(transform, transform.GetInputSpaceDimension()))
    elif hasattr(transform, "GetNthTransform"):
        for number in reversed(range(transform.GetNumberOfTransforms())):
            yield from _from_itk(transform.GetNthTransform(number), name)
    elif "DisplacementField" in transform.GetTransformTypeAsString():
        # Not by a file, which would misplace a field whose start index is not 0.
        yield FieldMapping(field_from_image(transform.GetDisplacementField(), name=name), "zero", name)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "transform.h5")
            try:
                itk.transformwrite(transform, path)
            except RuntimeError as error:
                kind = transform.GetTransformTypeAsString()
                raise RegistrationError(
                    f"{name} is a {kind}, which cannot be converted: sample it to a field"
                ) from error
            yield from _from_simpleitk(files.read_transform(path, name=name), name)


def _check_homogeneous(matrix: np.ndarray, name: str) -> None:
    if matrix.shape not in ((3, 3), (4, 4)):
        raise RegistrationError(
            f"{name} is an array of shape {matrix.shape}, expected a homogeneous matrix: (3, 3) in 2-D, (4, 4) in 3-D"
        )
    last = np.eye(len(matrix))[-1]
    if not np.allclose(matrix[-1].astype(float), last):
        raise RegistrationError(
            f"{name} is a matrix with the last row {matrix[-1].tolist()}, expected {last.tolist()} (an affine mapping "
            "of column vectors)"
        )


def _check_matrix(matrix: np.ndarray, name: str) -> None:
    if not np.isfinite(matrix).all():
        raise RegistrationError(f"{name} is a matrix that holds NaN or infinite numbers")
    # Relative, since scales differ: from micrometres to millimetres all lengths become a thousandth.
    lengths = np.linalg.svd(matrix[:-1, :-1], compute_uv=False)
    if lengths[-1] <= _FLATTENS * lengths[0]:
        raise RegistrationError(
            f"{name} is singular (it scales one direction by {lengths[-1]:.2g}, another by {lengths[0]:.2g}) and has "
            "no inverse: it flattens the image"
        )


def matrix_of(transform: Any, dimension: int) -> np.ndarray:
    """Homogeneous matrix of a linear transform of ITK or SimpleITK, whatever its parameters are."""
    start = np.asarray(list(transform.TransformPoint([0.0] * dimension)))
    columns = [np.asarray(list(transform.TransformPoint(row))) - start for row in np.eye(dimension).tolist()]
    matrix = np.eye(dimension + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = np.stack(columns, axis=1), start
    return matrix


def mapping_to_simpleitk(mapping: Mapping) -> SimpleITK.Transform:
    """Make a transform of SimpleITK: an affine one, a field, a composite (whose last member is applied first)."""
    import SimpleITK

    if isinstance(mapping, Chain):
        return SimpleITK.CompositeTransform([mapping_to_simpleitk(part) for part in reversed(mapping.parts)])
    if isinstance(mapping, LinearTransform | OtherTransform):
        return mapping.transform
    if isinstance(mapping, FieldMapping):
        return field_to_simpleitk(mapping.displacement)
    if mapping.matrix is None:
        raise TypeError(f"a {type(mapping).__name__} cannot be made a transform of SimpleITK")
    affine = SimpleITK.AffineTransform(mapping.dimension)
    affine.SetMatrix(mapping.matrix[:-1, :-1].ravel().tolist())
    affine.SetTranslation(mapping.matrix[:-1, -1].tolist())
    return affine


def transform_writer(mapping: Mapping) -> Callable[[Path], None]:
    """Make a function that writes a mapping as ITK's transform file to the path it is called with."""
    return lambda path: files.write_transform(mapping_to_simpleitk(mapping), path)


def mapping_to_itk(mapping: Mapping) -> Any:
    """Make a transform of itk in double precision: an affine one, a field, a composite."""
    import itk

    if isinstance(mapping, Chain):
        composite = itk.CompositeTransform[itk.D, mapping.dimension].New()
        for part in reversed(mapping.parts):
            composite.AddTransform(mapping_to_itk(part))
        return composite
    if isinstance(mapping, FieldMapping):
        return field_to_itk(mapping.displacement)
    if mapping.matrix is not None:
        affine = itk.AffineTransform[itk.D, mapping.dimension].New()
        affine.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(mapping.matrix[:-1, :-1])))
        affine.SetTranslation(mapping.matrix[:-1, -1].tolist())
        return affine
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transform.h5"
        transform_writer(mapping)(path)
        return itk.down_cast(itk.transformread(str(path))[0])


def mapping_answer(mapping: Mapping, given: list[Any]) -> Any:
    """Make a transform in the kind of what was given: SimpleITK's if some of it is and nothing is itk's, else itk's."""
    import SimpleITK

    items = [part for item in given for part in (item if isinstance(item, list | tuple) else [item])]
    theirs = any(is_simpleitk(item) or isinstance(item, SimpleITK.Transform) for item in items)
    if theirs and not any(is_itk(item) for item in items):
        return mapping_to_simpleitk(mapping)
    return mapping_to_itk(mapping)
