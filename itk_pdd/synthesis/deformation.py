"""Random smooth, invertible deformations whose inverse is known.

A stationary velocity field is drawn as a sum of smooth noise at several scales and integrated by scaling and squaring
(Arsigny et al., "A log-Euclidean framework for statistics on diffeomorphisms", MICCAI 2006); integrating the negated
field gives the inverse. All of this happens on a coarse lattice that resolves the finest scale; cubic B-splines carry
the result to any grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid

__all__ = ["Deformation", "random_affine", "random_deformation"]

Seed = int | np.random.Generator

_NODES_PER_SIGMA = 2.0
_MAXIMAL_NODES = 3_000_000


@dataclass(frozen=True)
class Deformation:
    """A mapping of physical space and its inverse, to be sampled on any grid.

    Parameters
    ----------
    grid : Grid
        The grid it was drawn for (the fixed image's).
    lattice : Grid
        Control lattice of both splines.
    forward_coefficients, inverse_coefficients : numpy.ndarray
        Cubic B-spline coefficients (dim, (z,) y, x) of the smooth displacements in physical millimetres, before the
        affine forwards and after it backwards.
    affine : numpy.ndarray
        Homogeneous matrix (dim + 1, dim + 1) in physical space.
    """

    grid: Grid
    lattice: Grid
    forward_coefficients: np.ndarray
    inverse_coefficients: np.ndarray
    affine: np.ndarray

    def forward(self, grid: Grid | None = None) -> DisplacementField:
        """Displacement from the points of ``grid`` (default: the grid it was drawn for) to their images."""
        return self._field(grid or self.grid, inverse=False)

    def inverse(self, grid: Grid | None = None) -> DisplacementField:
        """Displacement from the points of ``grid`` (default: that it was drawn for) back to where they came from."""
        return self._field(grid or self.grid, inverse=True)

    def map_points(self, points: np.ndarray, *, inverse: bool = False) -> np.ndarray:
        """Map physical points (..., dim), components x, y, z, in millimetres, forward or back."""
        points = np.asarray(points, dtype=float)
        if inverse:
            smooth = _sample_at_points(self.inverse_coefficients, self.lattice, points)
            return _apply(np.linalg.inv(self.affine), points) + smooth
        return _apply(self.affine, points + _sample_at_points(self.forward_coefficients, self.lattice, points))

    def _field(self, grid: Grid, *, inverse: bool) -> DisplacementField:
        if grid.dimension != self.lattice.dimension:
            raise RegistrationError(
                f"grid has {grid.dimension} dimensions, the deformation has {self.lattice.dimension}; expected the same"
            )
        coefficients = self.inverse_coefficients if inverse else self.forward_coefficients
        vectors = _sample_on_grid(coefficients, self.lattice, grid)
        if not np.array_equal(self.affine, np.eye(grid.dimension + 1)):
            points = grid.points()
            if inverse:
                vectors += _apply(np.linalg.inv(self.affine), points) - points
            else:
                vectors = _apply(self.affine, points + vectors) - points
        return DisplacementField(np.ascontiguousarray(vectors, dtype=np.float32), grid)


def random_deformation(
    grid: Grid,
    *,
    seed: Seed,
    magnitude: float,
    quantile: float = 1.0,
    scales: Sequence[float] | None = None,
    affine: np.ndarray | None = None,
    cover: Sequence[Grid] = (),
) -> Deformation:
    """Draw a smooth deformation without folds.

    Parameters
    ----------
    grid : Grid
        Where the magnitude is measured; 2-D or 3-D, any direction.
    seed : int or numpy.random.Generator
        Determines the result entirely.
    magnitude : float
        Length of the displacement in millimetres, met to about 2 %. The affine part is not counted.
    quantile : float
        The quantile of the lengths over the grid that equals ``magnitude``: 1 for the largest displacement, 0.95 to
        ignore the largest 5 %.
    scales : sequence of float, optional
        Standard deviations of the Gaussians that smooth the noise, in millimetres; each scale contributes displacements
        in proportion to its size, thus alike gradients. Default: 1/4, 1/8 and 1/16 of the mean extent of the grid,
        but no less than 2.5 voxels.
    affine : numpy.ndarray, optional
        Homogeneous matrix (dim + 1, dim + 1) in physical space, applied after the smooth displacement.
    cover : sequence of Grid
        Further grids on which the mapping or its inverse will be sampled (the moving image's grid).

    Returns
    -------
    Deformation

    Raises
    ------
    RegistrationError
        If an argument is out of range, or the magnitude is so large for the scales that the lattice would fold.
    """
    scales = _check_scales(grid, scales)
    if not (np.isfinite(magnitude) and magnitude >= 0):
        raise RegistrationError(f"magnitude is {magnitude}; expected a displacement of 0 mm or more")
    if not 0 < quantile <= 1:
        raise RegistrationError(f"quantile is {quantile}; expected a number above 0 and up to 1")
    affine = _check_affine(affine, grid.dimension)
    rng = np.random.default_rng(seed)
    step = min(scales) / _NODES_PER_SIGMA
    lattice = _lattice(grid, [grid, *cover], step, margin=magnitude + 2 * step)
    if lattice.voxels > _MAXIMAL_NODES:
        raise RegistrationError(
            f"scales down to {min(scales):.3g} mm need a lattice of {lattice} to cover the grid of {grid}; "
            "choose larger scales"
        )
    velocity = _noise_velocity(lattice, scales, rng)
    forward, inverse = _integrate_to_magnitude(velocity, lattice, grid, magnitude, quantile)
    if magnitude > 0:
        _require_no_folds(forward, lattice, magnitude, scales)
    # Vectors were held along the lattice's axes in units of its nodes; from here on they are physical millimetres.
    matrix = lattice.matrix
    forward, inverse = (np.tensordot(matrix, u, axes=1) for u in (forward, inverse))
    forward, inverse = _coefficients(forward), _coefficients(inverse)
    if affine is None:
        affine = np.eye(grid.dimension + 1)
    else:
        # Backwards the affine comes first: a spline of the displacement found where it leads.
        before = _apply(np.linalg.inv(affine), lattice.points())
        inverse = _coefficients(np.moveaxis(_sample_at_points(inverse, lattice, before), -1, 0))
    return Deformation(grid, lattice, forward, inverse, affine)


def random_affine(
    grid: Grid,
    *,
    seed: Seed,
    rotation: float = 10.0,
    scale: float = 0.1,
    shear: float = 0.05,
    translation: float = 10.0,
) -> np.ndarray:
    """Draw an affine transform about the centre of a grid.

    Parameters
    ----------
    grid : Grid
        Its physical centre is the centre of rotation, scale and shear.
    seed : int or numpy.random.Generator
        Determines the result entirely.
    rotation : float
        Largest rotation about each physical axis, in degrees.
    scale : float
        Largest natural logarithm of the scale along each axis, so that 0.1 means about 10 % larger or smaller.
    shear : float
        Largest shear (tangent of the angle).
    translation : float
        Largest translation along each axis in millimetres.

    Returns
    -------
    numpy.ndarray
        Homogeneous matrix (dim + 1, dim + 1) that maps physical points (x, y, z) in millimetres.

    Raises
    ------
    RegistrationError
        If a range is negative or not finite.
    """
    ranges = {"rotation": rotation, "scale": scale, "shear": shear, "translation": translation}
    for name, value in ranges.items():
        if not (np.isfinite(value) and value >= 0):
            raise RegistrationError(f"{name} is {value}; expected a largest value of 0 or more")
    rng = np.random.default_rng(seed)
    dimension = grid.dimension
    linear = np.eye(dimension)
    planes = [(0, 1)] if dimension == 2 else [(1, 2), (2, 0), (0, 1)]
    for a, b in planes:
        angle = np.deg2rad(rng.uniform(-rotation, rotation))
        turn = np.eye(dimension)
        turn[[a, b], [a, b]] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        linear = turn @ linear
    shears = np.eye(dimension)
    above = np.triu_indices(dimension, 1)
    shears[above] = rng.uniform(-shear, shear, len(above[0]))
    linear = linear @ shears @ np.diag(np.exp(rng.uniform(-scale, scale, dimension)))
    result = np.eye(dimension + 1)
    result[:-1, :-1] = linear
    result[:-1, -1] = grid.centre - linear @ grid.centre + rng.uniform(-translation, translation, dimension)
    return result


def _check_scales(grid: Grid, scales: Sequence[float] | None) -> tuple[float, ...]:
    if scales is None:
        extent, finest = float(np.mean(grid.extent)), 2.5 * max(grid.spacing)
        return tuple(sorted({max(extent / n, finest) for n in (4, 8, 16)}, reverse=True))
    scales = tuple(float(s) for s in scales)
    if not scales or not all(np.isfinite(s) and s > 0 for s in scales):
        raise RegistrationError(f"scales are {scales}; expected one or more lengths above 0 mm")
    return scales


def _check_affine(affine: np.ndarray | None, dimension: int) -> np.ndarray | None:
    if affine is None:
        return None
    affine = np.asarray(affine, dtype=float)
    expected = (dimension + 1, dimension + 1)
    if affine.shape != expected or not np.allclose(affine[-1], np.eye(dimension + 1)[-1]):
        raise RegistrationError(
            f"affine has shape {affine.shape}; expected a homogeneous matrix of shape {expected} with last row 0 .. 0 1"
        )
    if np.linalg.det(affine[:-1, :-1]) <= 0:
        raise RegistrationError("affine has a determinant of 0 or less; expected a transform without reflection")
    return affine


def _lattice(grid: Grid, covered: Sequence[Grid], step: float, margin: float) -> Grid:
    """Make a grid along the axes of ``grid`` with spacing ``step`` that contains the ``covered`` grids and a margin."""
    corners = np.concatenate([other.corners() for other in covered])
    direction = np.asarray(grid.direction)
    along = corners @ np.linalg.inv(direction).T
    lower, upper = along.min(axis=0) - margin, along.max(axis=0) + margin
    size = np.ceil((upper - lower) / step).astype(int) + 1
    return Grid.create(size, step, direction @ lower, direction)


def _noise_velocity(lattice: Grid, scales: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Noise of unit root mean square per component, (dim, (z,) y, x), along the lattice's axes."""
    from scipy import ndimage

    velocity = np.zeros((lattice.dimension, *lattice.shape))
    for sigma in scales:
        noise = rng.standard_normal(velocity.shape)
        for component in noise:
            # Wrapping keeps the noise stationary up to the borders.
            ndimage.gaussian_filter(component, sigma / lattice.spacing[0], mode="wrap", output=component)
        velocity += sigma * noise / np.sqrt(np.mean(noise**2))
    return velocity / np.sqrt(np.mean(velocity**2))


def _integrate_to_magnitude(
    velocity: np.ndarray, lattice: Grid, grid: Grid, magnitude: float, quantile: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scale the velocity so that its flow has the magnitude over the grid; return the flow and its inverse."""
    if magnitude == 0:
        return np.zeros_like(velocity), np.zeros_like(velocity)
    inside = _nodes_inside(lattice, grid)
    wanted = magnitude / lattice.spacing[0]
    velocity = velocity * (wanted / np.quantile(np.linalg.norm(velocity[:, inside], axis=0), quantile))
    for _ in range(5):
        forward = _integrate(velocity)
        ratio = wanted / np.quantile(np.linalg.norm(forward[:, inside], axis=0), quantile)
        if abs(ratio - 1) < 0.02:
            break
        velocity = velocity * ratio
    return forward, _integrate(-velocity)


def _nodes_inside(lattice: Grid, grid: Grid) -> np.ndarray:
    inside = grid.contains(lattice.points())
    # A grid that is thin compared with the lattice may lie between two layers of nodes.
    return inside if inside.any() else np.ones_like(inside)


def _integrate(velocity: np.ndarray) -> np.ndarray:
    """Displacement after unit time of a stationary velocity, (dim, (z,) y, x), components x, y, z in nodes."""
    halvings = max(2, int(np.ceil(np.log2(max(1e-9, np.abs(velocity).max()) / 0.5))))
    step = velocity / 2**halvings
    # The midpoint rule makes the first small step accurate to second order, which the squarings then preserve.
    displacement = _interpolate(step, _nodes(step) + 0.5 * step[::-1])
    for _ in range(halvings):
        displacement = displacement + _interpolate(displacement, _nodes(displacement) + displacement[::-1])
    return displacement


def _nodes(vectors: np.ndarray) -> np.ndarray:
    return np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in vectors.shape[1:]], indexing="ij"))


def _coefficients(vectors: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return np.stack([ndimage.spline_filter(component, order=3, mode="mirror") for component in vectors])


def _interpolate(vectors: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Cubic interpolation of (dim, (z,) y, x) at indices (dim, ...) whose components run z, y, x."""
    return _evaluate(_coefficients(vectors), index)


def _evaluate(coefficients: np.ndarray, index: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return np.stack([ndimage.map_coordinates(c, index, order=3, mode="mirror", prefilter=False) for c in coefficients])


def _require_no_folds(forward: np.ndarray, lattice: Grid, magnitude: float, scales: Sequence[float]) -> None:
    jacobian = np.stack([np.stack(np.gradient(component)[::-1]) for component in forward])
    determinant = np.linalg.det(np.moveaxis(jacobian, (0, 1), (-2, -1)) + np.eye(lattice.dimension))
    if determinant.min() <= 0:
        raise RegistrationError(
            f"magnitude is {magnitude:.4g} mm with scales {tuple(round(s, 2) for s in scales)} mm, which folds space; "
            "choose a smaller magnitude or larger scales"
        )


def _apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:-1, :-1].T + affine[:-1, -1]


def _sample_at_points(coefficients: np.ndarray, lattice: Grid, points: np.ndarray) -> np.ndarray:
    index = np.moveaxis(lattice.to_index(points), -1, 0)[::-1]
    return np.moveaxis(_evaluate(coefficients, index), 0, -1)


def _sample_on_grid(coefficients: np.ndarray, lattice: Grid, grid: Grid) -> np.ndarray:
    if not np.allclose(grid.direction, lattice.direction, atol=1e-9):
        return _sample_at_points(coefficients, lattice, grid.points())
    # Parallel axes: the spline is separable, one small matrix per axis.
    first = lattice.to_index(np.asarray(grid.origin))
    result = coefficients
    for axis in range(grid.dimension):
        positions = first[axis] + np.arange(grid.size[axis]) * grid.spacing[axis] / lattice.spacing[axis]
        weights = _bspline_weights(positions, lattice.size[axis])
        array_axis = grid.dimension - axis
        result = np.moveaxis(np.tensordot(weights, result, axes=(1, array_axis)), 0, array_axis)
    return np.moveaxis(result, 0, -1)


def _bspline_weights(positions: np.ndarray, nodes: int) -> np.ndarray:
    """Matrix (positions, nodes) of cubic B-spline weights, mirrored at the first and the last node."""
    base = np.floor(positions).astype(int)
    t = positions - base
    pieces = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    weights = np.zeros((len(positions), nodes))
    rows = np.arange(len(positions))
    period = max(1, 2 * (nodes - 1))
    for offset, piece in zip(range(-1, 3), pieces, strict=True):
        column = np.abs(base + offset) % period
        column = np.where(column >= nodes, period - column, column)
        np.add.at(weights, (rows, column), piece / 6)
    return weights
