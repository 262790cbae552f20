"""Instance optimisation: the field of one pair refined by gradient descent."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from itk_pdd.geometry.blockfield import BlockField
from itk_pdd.kernels.matching.cpu import feature_gradient
from itk_pdd.kernels.operations import HOST, Array, Operations
from itk_pdd.kernels.sobel.cpu import sobel
from itk_pdd.solver.folds import unfold
from itk_pdd.solver.landmarks import Pulls
from itk_pdd.solver.settings import Refinement, Regularisation
from itk_pdd.solver.working import WorkingImage

__all__ = ["refine", "refined"]

_STEPS_BETWEEN_UNFOLDING = 10
_BORDERS = 0.3  # weight of the smoothness while the borders of labels are met, beside that before
_NEAR_VOXELS = 3  # of the border of a label: the last steps on labels move no border farther


def refine(
    slope: Callable[[Array], Array],
    field: Array,
    settings: Refinement,
    weights: Regularisation,
    *,
    smallest_jacobian: float | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    operations: Operations = HOST,
) -> Array:
    """Improve a field by Adam steps on the coefficients of a cubic B-spline that is added to it.

    Minimises a difference of the images plus the diffusion and the changes of volume of the whole displacement. The
    paper descends on the probability tensor, and has no term for volumes; here the images are compared again at every
    step. Folded voxels, of a Jacobian determinant below ``smallest_jacobian``, are unfolded every few steps, so that
    the rest can make up for it.

    ``field`` holds displacements in voxels, a float32 array (z, y, x, 3) of the operations, components x, y, z;
    ``slope`` takes one to the derivative of the difference by each displacement.
    """
    shape = tuple(field.shape[:3])
    cell = tuple(1 if size == 1 else settings.cell for size in shape)
    coarse = operations.restrict(field, cell)
    control, mean, square = (operations.array(np.zeros(tuple(coarse.shape), np.float32)) for _ in range(3))
    options: dict[str, Any] = {"rate": settings.rate, "cell": cell}
    options |= {"diffusion": weights.diffusion, "volume": weights.volume}
    scratch: dict[object, np.ndarray] = {}

    def moved() -> Array:
        """Add the spline to the field, in memory that the next call writes over."""
        return operations.upsample(control, cell, shape, scratch=scratch, added=field)

    for step in range(1, settings.iterations + 1):
        derivative = operations.spread(slope(moved()), cell, tuple(coarse.shape[:3]), scratch=scratch)
        operations.adam_step(control, mean, square, derivative, coarse, step=step, **options)
        if smallest_jacobian is not None and step % _STEPS_BETWEEN_UNFOLDING == 0 and step < settings.iterations:
            unfolded, changed, _ = unfold(moved(), minimum=smallest_jacobian, operations=operations)
            if changed:
                field = unfolded - operations.upsample(control, cell, shape, scratch=scratch)
                coarse = operations.restrict(field, cell)
        progress(step / settings.iterations)
    return moved()


def refined(
    fixed: WorkingImage,
    moving: WorkingImage,
    field: BlockField,
    settings: Refinement,
    *,
    smallest_jacobian: float | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    operations: Operations = HOST,
    pulls: Pulls | None = None,
) -> BlockField:
    """Refine the field of a search level by level; the result is on the blocks of the last one, on the host.

    Class probabilities are compared by the CPU, intensities by ``operations``. ``pulls`` are landmarks, to which the
    field is drawn.
    """
    if settings.features == "classes":
        operations = HOST
    levels = _levels(fixed, settings)
    field = field.on(operations)

    def report(done: int, fraction: float) -> None:
        progress((done + fraction) / len(levels))

    for number, level in enumerate(levels):
        field = field.resized(level.size)
        # The descent works in units of the blocks. Arrays make way for the next: on the working grid they are large.
        start, field = field.vectors / float(level.size), field.with_vectors(None)
        slope = _slope(fixed, moving, settings, level, operations)
        if pulls is not None:
            slope = _drawn(slope, pulls, field, settings, operations)
        vectors = refine(
            slope,
            start,
            replace(settings, iterations=level.steps),
            level.weights,
            smallest_jacobian=smallest_jacobian,
            progress=partial(report, number),
            operations=operations,
        )
        vectors *= float(level.size)
        field = field.with_vectors(vectors)
    # Control points two voxels apart tell no more than the blocks, where folds are found ten times as fast. The borders
    # of thin structures are met less well there.
    size = field.size if levels[-1].borders else max(field.size, _block_size(fixed, settings))
    return field.resized(size).on(HOST)


@dataclass(frozen=True)
class _Level:
    """One round of the descent."""

    size: int  # working voxels per block along each axis
    steps: int  # Adam steps
    weights: Regularisation
    intensities: int | None = None  # steps on the intensities, before those on their derivatives; None for all
    borders: bool = False  # of the classes, compare what is near their borders alone


def _block_size(image: WorkingImage, settings: Refinement) -> int:
    """Choose the working voxels per block along each axis."""
    if settings.features == "classes" and image.classes is not None:
        return image.classes.shrink
    finest = min((maps.shrink for maps in image.guides if maps.descends), default=1)
    return max(finest, settings.shrink(image.shape))


def _levels(image: WorkingImage, settings: Refinement) -> list[_Level]:
    """Plan the rounds of the descent: on large blocks, on blocks, and on the working grid, or on one of them alone."""
    size = _block_size(image, settings)
    if settings.features == "classes" and settings.coarse is not None:
        first = settings.iterations // 2
        levels = [_Level(2 * size, first, settings.coarse), _Level(size, settings.iterations - first, settings.voxels)]
        finest = min((maps.shrink for maps in image.guides if maps.finishes), default=size)
        last = _Level(finest, settings.label_finish, settings.voxels.times(_BORDERS), borders=True)
        return [*levels, last] if finest < size else levels
    if settings.features == "classes" or size == 1:
        intensities = settings.iterations // 3 if settings.derivatives and image.dimension == 3 else None
        return [_Level(size, settings.iterations, settings.voxels, intensities)]
    first = 0 if settings.coarse is None else settings.iterations // 2
    levels = [_Level(2 * size, first, settings.coarse)] if settings.coarse is not None and first else []
    levels.append(_Level(size, settings.iterations - first, settings.blocks))
    if settings.finish:
        levels.append(_Level(1, settings.finish, settings.voxels))
    return levels


def _slope(
    fixed: WorkingImage, moving: WorkingImage, settings: Refinement, level: _Level, operations: Operations
) -> Callable[[Array], Array]:
    """Differentiate what the settings compare on the blocks of a level, for :func:`refine`."""
    if settings.features == "correlation":
        compared = _correlation_slope(fixed, moving, level, operations)
        if not (settings.guides and any(maps.descends for maps in fixed.maps)):
            return compared
        guides, weight = _class_slope(fixed, moving, level.size), np.float32(settings.guides)
        return lambda field: compared(field) + operations.array(weight * guides(operations.numpy(field)))
    classes = _class_slope(fixed, moving, level.size, borders=level.borders)
    if not settings.correlation:
        return classes
    # Classes tell nothing about structures without a label: bones, fat and the wall of the body follow the intensities.
    intensities, share = _correlation_slope(fixed, moving, level, operations), np.float32(settings.correlation)
    return lambda field: classes(field) + share * intensities(field)


def _drawn(
    slope: Callable[[Array], Array], pulls: Pulls, field: BlockField, settings: Refinement, operations: Operations
) -> Callable[[Array], Array]:
    """Add the pull of landmarks to the derivative of the difference of the images."""
    pull = pulls.slope(field.nodes, field.size, field.block)
    # Beside class probabilities, the intensities count less: so do the landmarks.
    share = np.float32(settings.correlation if settings.features == "classes" else 1.0)

    def both(vectors: Array) -> Array:
        nodes, values = pull(operations.numpy(vectors))
        found = operations.numpy(slope(vectors))
        np.add.at(found.reshape(-1, 3), nodes, share * values)
        return operations.array(found)

    return both


def _class_slope(
    fixed: WorkingImage, moving: WorkingImage, size: int, *, borders: bool = False
) -> Callable[[Array], Array]:
    """Differentiate the difference of class probabilities on blocks of ``size`` working voxels, for :func:`refine`.

    With ``borders``, only the voxels near those are looked at which the first call finds on the border of a class.
    """
    both = zip(fixed.maps, moving.maps, strict=True)
    maps = [(own.features(size), other.features(size)) for own, other in both if own.descends]
    masks = [fixed.shrunk(size).mask, moving.shrunk(size).mask]
    calls = itertools.count()

    def slope(field: Array) -> Array:
        # A sum over the classes, not a mean.
        found = sum(feature_gradient(*both, field, channels=1, masks=masks)[0] for both in maps)
        if borders and next(calls) == 0:
            near = _wider(np.any(found != 0, axis=-1), _NEAR_VOXELS)
            masks[0] = near if masks[0] is None else near & masks[0]
        return found

    return slope


def _correlation_slope(
    fixed: WorkingImage, moving: WorkingImage, level: _Level, operations: Operations
) -> Callable[[Array], Array]:
    """Differentiate the difference of intensities on the blocks of a level, for :func:`refine`.

    After the level's steps on intensities, the derivatives of the images along one axis after the other are compared.
    """
    fixed, moving = fixed.shrunk(level.size), moving.shrunk(level.size)
    masks, total = [fixed.mask, moving.mask], sum(fixed.weights)
    channels = [
        (weight / total, images)
        for weight, *images in zip(fixed.weights, fixed.channels, moving.channels, strict=True)
        if weight > 0
    ]
    scratch: dict[str, np.ndarray] = {}
    options: dict[str, Any] = {"radius": level.weights.radius, "floor": level.weights.floor, "scratch": scratch}

    def terms(filtered: Callable[[np.ndarray], np.ndarray], masks: list[np.ndarray | None]) -> list[tuple[float, Any]]:
        return [
            (weight, operations.local_correlation(*map(filtered, images), masks=masks, **options))
            for weight, images in channels
        ]

    turns = [terms(lambda image: image, masks)]
    inner = [None if mask is None else _inner(mask) for mask in masks]
    # A mask may be too thin for derivatives.
    if level.intensities is not None and all(mask is None or mask.any() for mask in inner):
        turns += [terms(partial(sobel, axis=axis), inner) for axis in range(3)]
    calls = itertools.count(0 if level.intensities is None else -level.intensities)

    def slope(field: Array) -> Array:
        call, others = next(calls), len(turns) - 1
        now = turns[1 + call % others] if others and call >= 0 else turns[0]
        if len(now) == 1:
            return now[0][1].gradient(field)[0]
        return sum(weight * term.gradient(field)[0] for weight, term in now)

    return slope


def _wider(mask: np.ndarray, voxels: int) -> np.ndarray:
    """Find the voxels within some voxels of a mask along every axis."""
    for _ in range(voxels):
        mask = ~_inner(~mask)
    return mask


def _inner(mask: np.ndarray) -> np.ndarray:
    """Find the voxels all of whose neighbours lie in a mask: derivatives there depend on nothing outside."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along = np.moveaxis(inner, axis, 0)
        before = along.copy()
        along[1:] &= before[:-1]
        along[:-1] &= before[1:]
    return inner
