"""Transforms applied one after the other, as one mapping of points: forward, backward and as a field."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.field import DisplacementField, slabs
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.inversion import invert_from, invert_points
from itk_pdd.io.fields import field_from_simpleitk
from itk_pdd.io.transforms import composite, matrix_of, to_simpleitk

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["Chain", "as_chain", "lattice"]


class _Part(Protocol):
    def forward(self, points: np.ndarray) -> np.ndarray: ...

    def backward(self, points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]: ...

    def contains(self, points: np.ndarray) -> np.ndarray: ...


_SEARCHED = 20  # points for which all voxels are looked through; of more the transform is to blame
_STARTS = 16


@dataclass(frozen=True)
class _Linear:
    matrix: np.ndarray

    def forward(self, points: np.ndarray) -> np.ndarray:
        return points @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]

    def backward(self, points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        inverse = np.linalg.inv(self.matrix)
        return points @ inverse[:-1, :-1].T + inverse[:-1, -1], np.zeros(points.shape[:-1])

    def contains(self, points: np.ndarray) -> np.ndarray:
        return np.ones(points.shape[:-1], bool)


@dataclass(frozen=True)
class _Field:
    """A displacement field; beyond its grid the nearest displacement goes on."""

    field: DisplacementField

    def forward(self, points: np.ndarray) -> np.ndarray:
        return points + self.field.at(points, outside="nearest")

    def backward(self, points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        step = min(self.field.grid.spacing)
        found, sizes = invert_points(self.forward, points, tolerance=tolerance, step=step)
        lost = np.argwhere(sizes > tolerance)
        if 0 < len(lost) <= _SEARCHED:
            self._search(points, found, sizes, lost, tolerance, step)
        return found, sizes

    def _search(
        self,
        points: np.ndarray,
        found: np.ndarray,
        sizes: np.ndarray,
        lost: np.ndarray,
        tolerance: float,
        step: float,
    ) -> None:
        """Start again, in place, from the voxels that are mapped nearest: beside a fold the descent ends in the wrong
        branch."""
        for position in map(tuple, lost):
            nearest, distances = [], []
            for slab, voxels in slabs(self.field.grid):
                voxels = voxels.reshape(-1, voxels.shape[-1])
                mapped = voxels + self.field.vectors[slab].reshape(voxels.shape)
                distance = np.square(mapped - points[position]).sum(axis=-1)
                few = np.argpartition(distance, min(_STARTS, len(distance) - 1))[:_STARTS]
                nearest.append(voxels[few])
                distances.append(distance[few])
            best = np.concatenate(nearest)[np.argsort(np.concatenate(distances))[:_STARTS]]
            targets = np.broadcast_to(points[position], best.shape)
            solutions, left = invert_from(self.forward, targets, best, tolerance=tolerance, step=step)
            if left.min() < sizes[position]:
                found[position], sizes[position] = solutions[left.argmin()], left.min()

    def contains(self, points: np.ndarray) -> np.ndarray:
        index = self.field.grid.to_index(points)
        return np.all((index >= -0.5) & (index <= np.asarray(self.field.grid.size) - 0.5), axis=-1)


@dataclass(frozen=True)
class _Other:
    """Any other transform of ITK, for instance a B-spline; beyond its domain it is what ITK makes of it."""

    transform: SimpleITK.Transform
    domain: Grid | None

    def forward(self, points: np.ndarray) -> np.ndarray:
        mapped = [self.transform.TransformPoint(point) for point in points.reshape(-1, points.shape[-1]).tolist()]
        return np.asarray(mapped, dtype=float).reshape(points.shape)

    def backward(self, points: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
        step = 1.0 if self.domain is None else min(self.domain.spacing) / 10
        return invert_points(self.forward, points, tolerance=tolerance, step=step)

    def contains(self, points: np.ndarray) -> np.ndarray:
        if self.domain is None:
            return np.ones(points.shape[:-1], bool)
        index = self.domain.to_index(points)
        return np.all((index >= 0) & (index <= np.asarray(self.domain.size) - 1), axis=-1)


@dataclass(frozen=True)
class Chain:
    """Transforms from fixed to moving points, applied one after the other.

    Parameters
    ----------
    transform : SimpleITK.Transform
        All of them together.
    parts : tuple
        The single ones; a fixed point goes through the first one first.
    names : tuple of str
        What to call them in errors.
    """

    transform: SimpleITK.Transform
    parts: tuple[_Part, ...]
    names: tuple[str, ...]

    @property
    def dimension(self) -> int:
        """Number of coordinates, 2 or 3."""
        return int(self.transform.GetDimension())

    @property
    def matrix(self) -> np.ndarray | None:
        """Homogeneous matrix (dim + 1, dim + 1) of the whole if all parts are linear, else None."""
        return matrix_of(self.transform, self.dimension) if all(isinstance(p, _Linear) for p in self.parts) else None

    @property
    def grid(self) -> Grid | None:
        """Grid of the field that a fixed point meets first, if that is the first part: where the whole is defined."""
        first = self.parts[0]
        return first.field.grid if isinstance(first, _Field) else None

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Fixed points (..., dim) in LPS millimetres to moving points; fields go on beyond their grids."""
        points = np.asarray(points, dtype=float)
        for part in self.parts:
            points = part.forward(points)
        return points

    def backward(self, points: np.ndarray, *, tolerance: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
        """Moving points (..., dim) to fixed points, and how far from the given ones these are mapped (millimetres).

        ``tolerance`` is the distance in millimetres that is good enough in each part; smaller is slower.
        """
        given = np.asarray(points, dtype=float)
        points = given
        for part in reversed(self.parts):
            points, _ = part.backward(points, tolerance)
        return points, np.linalg.norm(self.forward(points) - given, axis=-1)

    def outside(self, points: np.ndarray) -> np.ndarray:
        """Which fixed points (...) leave the grid of some field on their way."""
        points = np.asarray(points, dtype=float)
        result = np.zeros(points.shape[:-1], bool)
        for part in self.parts:
            result |= ~part.contains(points)
            points = part.forward(points)
        return result

    def vectors(self, grid: Grid) -> np.ndarray:
        """Displacements of the whole at the voxels of a grid, float64 (z, y, x, dim), as ITK computes them."""
        import SimpleITK

        if grid == self.grid and len(self.parts) == 1:
            return self.parts[0].field.vectors.astype(float)  # type: ignore[attr-defined]
        direction = np.asarray(grid.direction).ravel().tolist()
        image = SimpleITK.TransformToDisplacementField(
            self.transform, SimpleITK.sitkVectorFloat64, grid.size, grid.origin, grid.spacing, direction
        )
        return SimpleITK.GetArrayFromImage(image)

    def field(self, grid: Grid) -> DisplacementField:
        """The whole as one displacement field on a grid."""
        return DisplacementField(self.vectors(grid).astype(np.float32), grid)

    def check_reach(self, grid: Grid) -> np.ndarray:
        """Refuse transforms that do not fit each other: no voxel of the grid gets to some field.

        Returns
        -------
        numpy.ndarray
            Moving points (n, dim) of fixed points spread over the grid.
        """
        points = lattice(grid)
        for number, (part, name) in enumerate(zip(self.parts, self.names, strict=True)):
            inside = float(part.contains(points).mean())
            if not inside:
                before = " after the transforms applied before it" if number else ""
                raise RegistrationError(
                    f"{name}: no point of the fixed image lies inside this field{before}; a fixed point goes through "
                    "the first transform of a list first, as in ANTs: check the order, the direction and the reference"
                )
            if inside < 0.5:
                warnings.warn(
                    f"{name}: only {100 * inside:.3g} % of the fixed image lies inside this field; nothing is moved "
                    "by it elsewhere",
                    RegistrationWarning,
                    stacklevel=3,
                )
            points = part.forward(points)
        return points


def lattice(grid: Grid, count: int = 24) -> np.ndarray:
    """Physical points (n, dim) spread over a grid, its outermost voxels included."""
    axes = [np.linspace(0, n - 1, min(n, count)) for n in grid.size]
    index = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)
    return grid.to_physical(index)


def as_chain(transform: Any, *, dimension: int | None = None, name: str = "transform") -> Chain:
    """A transform or a list of them in ANTs' order, of all kinds ``to_simpleitk`` takes, as a chain.

    A point of the fixed image goes through the first of a list first.

    Raises
    ------
    RegistrationError
        If something is no transform, cannot be read, has another dimension, is singular, or the list is empty.
    """
    if isinstance(transform, Chain):
        return transform
    items = list(transform) if isinstance(transform, list | tuple) else [transform]
    if not items:
        raise RegistrationError(f"{name} is an empty list, expected at least one transform")
    transforms, parts, names = [], [], []
    for number, item in enumerate(items):
        own = f"{name}[{number}]" if len(items) > 1 else name
        found = to_simpleitk(item, dimension, own)
        dimension = found.GetDimension()
        transforms.append(found)
        called = f"{own} ({os.fspath(item)})" if isinstance(item, str | os.PathLike) else own
        single = [_part(part, called) for part in reversed(list(_flattened(found)))]
        parts.extend(single)
        names.extend([called] * len(single))
    return Chain(composite(transforms), tuple(parts), tuple(names))


def _flattened(transform: SimpleITK.Transform) -> Iterator[SimpleITK.Transform]:
    """The single transforms of a composite, in its order (the last is applied first)."""
    import SimpleITK

    if transform.GetTransformEnum() != SimpleITK.sitkComposite:
        yield transform
        return
    composite = SimpleITK.CompositeTransform(transform)
    for number in range(composite.GetNumberOfTransforms()):
        yield from _flattened(composite.GetNthTransform(number))


def _part(transform: SimpleITK.Transform, name: str) -> _Part:
    import SimpleITK

    kind = transform.GetTransformEnum()
    if transform.IsLinear():
        matrix = matrix_of(transform, transform.GetDimension())
        if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
            raise RegistrationError(f"{name} is singular or not finite: it flattens the image")
        return _Linear(matrix)
    if kind == SimpleITK.sitkDisplacementField:
        return _Field(field_from_simpleitk(transform, name=name))
    if kind == SimpleITK.sitkBSplineTransform:
        spline = SimpleITK.BSplineTransform(transform)
        mesh = np.asarray(spline.GetTransformDomainMeshSize())
        spacing = np.asarray(spline.GetTransformDomainPhysicalDimensions()) / mesh
        direction = np.reshape(spline.GetTransformDomainDirection(), (len(mesh), len(mesh)))
        return _Other(transform, Grid.create(mesh + 1, spacing, spline.GetTransformDomainOrigin(), direction))
    return _Other(transform, None)
