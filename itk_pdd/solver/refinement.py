"""Instance optimisation: the field of one pair refined by gradient descent."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.kernels.matching.cpu import feature_gradient
from itk_pdd.kernels.sobel.cpu import sobel
from itk_pdd.solver.operations import HostOperations
from itk_pdd.solver.search import WorkingImage, enlarged
from itk_pdd.solver.settings import Refinement, Regularisation
from itk_pdd.solver.unfolding import unfold

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["refine", "refined"]

_UNFOLD = 10  # steps between two looks for folds


def refine(
    slope: Callable[[Any], Any],
    field: Any,
    settings: Refinement,
    weights: Regularisation,
    *,
    smallest_jacobian: float | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    operations: Any = HostOperations,
) -> Any:
    """Improve a field by Adam steps on the coefficients of a cubic B-spline that is added to it.

    Minimises a difference of the images plus the diffusion and the changes of volume of the whole displacement. The
    paper descends on the probability tensor, and has no term for volumes; here the images are compared again at every
    step. What folds on the way is unfolded every few steps, so that the rest can make up for it.

    Parameters
    ----------
    slope : callable
        Takes a field to the derivative of the difference with respect to each of its displacements, of the same shape.
    field : array
        Displacements in voxels, float32 (z, y, x, 3), components x, y, z.
    settings : Refinement
        Number of steps, control grid.
    weights : Regularisation
        Weights of diffusion and volumes.
    smallest_jacobian : float, optional
        What is unfolded, see :class:`itk_pdd.solver.settings.Model`; nothing by default.
    progress : callable
        Called with the fraction that is done.
    operations : object
        Those of the device that computes, see :func:`itk_pdd.solver.operations.operations`: fields are its arrays.

    Returns
    -------
    array
        float32, shape of ``field``.
    """
    import torch

    shape = tuple(field.shape[:3])
    cell = tuple(1 if size == 1 else settings.cell for size in shape)
    coarse = operations.restrict(field, cell)
    coefficients = torch.zeros_like(operations.tensor(coarse))
    control = operations.from_tensor(coefficients)  # the same memory
    mean, square = torch.zeros_like(coefficients), torch.zeros_like(coefficients)
    # Gradients are taken per control point: the sum over the voxels it moves, relative to their usual number.
    share = float(np.prod(cell))
    scratch: dict[object, np.ndarray] = {}

    def moved() -> Any:
        """The whole field, in memory that the next call writes over."""
        update = operations.upsample(control, cell, shape, scratch=scratch)
        operations.tensor(update).add_(operations.tensor(field))  # in all threads
        return update

    for step in range(1, settings.iterations + 1):
        derivative = operations.spread(slope(moved()), cell, tuple(coefficients.shape[:3]), scratch=scratch)
        # A step of Adam; torch.optim takes a second to import.
        gradient = operations.tensor(derivative) / share
        whole = operations.tensor(coarse) + coefficients
        gradient += weights.diffusion * _diffusion_gradient(whole, cell)
        if weights.volume:
            volumes = operations.from_tensor(whole), operations.from_tensor(gradient)
            operations.add_volume_gradient(*volumes, weight=weights.volume, scale=cell[::-1])
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.001)
        scale = square.div(1 - 0.999**step).sqrt_().add_(1e-8)
        coefficients.addcdiv_(mean, scale, value=-settings.rate / (1 - 0.9**step))
        if smallest_jacobian is not None and step % _UNFOLD == 0 and step < settings.iterations:
            unfolded, changed, _ = unfold(moved(), minimum=smallest_jacobian, operations=operations)
            if changed:
                field = unfolded - operations.upsample(control, cell, shape, scratch=scratch)
                coarse = operations.restrict(field, cell)
        progress(step / settings.iterations)
    return moved()


def refined(
    fixed: WorkingImage,
    moving: WorkingImage,
    field: np.ndarray,
    block: int,
    settings: Refinement,
    *,
    smallest_jacobian: float | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
    operations: Any = HostOperations,
) -> tuple[np.ndarray, int]:
    """What the search found, refined by what the settings name.

    Parameters
    ----------
    fixed, moving : WorkingImage
        The images.
    field, block
        As :func:`itk_pdd.solver.search.search` returns them.
    settings : Refinement
        What to compare, and how long.
    smallest_jacobian, progress
        See :func:`refine`.
    operations : object
        Those of the device that correlates; class probabilities are compared by the CPU.

    Returns
    -------
    numpy.ndarray, int
        The field as it came, on a lattice of another block of working voxels perhaps.
    """
    classes = settings.features == "classes"
    if classes:
        operations = HostOperations
    lattice = fixed.classes.shrink if classes else settings.shrink(fixed.shape)
    # Of each level: working voxels per block, steps, weights, and how many of the steps look at the intensities.
    if classes or lattice == 1:
        intensities = settings.iterations // 3 if settings.derivatives and fixed.dimension == 3 else None
        levels = [(lattice, settings.iterations, settings.voxels, intensities)]
    else:
        first = 0 if settings.coarse is None else settings.iterations // 2
        levels = [(2 * lattice, first, settings.coarse, None)] if first else []
        levels.append((lattice, settings.iterations - first, settings.blocks, None))
        if settings.finish:
            levels.append((1, settings.finish, settings.voxels, None))
    field = operations.array(field)
    for number, (target, steps, weights, intensities) in enumerate(levels):
        # In units of the blocks, each array giving way to the next: on the working grid they are large.
        field, size = field / float(block), block
        if target % size:
            # At once where the lattices nest, else by way of the working grid.
            finer = target if size % target == 0 else 1
            shape = tuple(-(-n // b) for n, b in zip(fixed.shape, fixed.per_axis(finer), strict=True))
            field, size = enlarged(field, fixed.per_axis(size // finer), shape, operations), finer
        if target > size:
            field = operations.restrict(field, fixed.per_axis(target // size))
            field *= size / target
        if classes:
            slope = _class_slope(fixed, moving, target)
        else:
            slope = _correlation_slope(fixed, moving, target, weights, intensities, operations)
        field = refine(
            slope,
            field,
            replace(settings, iterations=steps),
            weights,
            smallest_jacobian=smallest_jacobian,
            progress=lambda f, number=number: progress((number + f) / len(levels)),
            operations=operations,
        )
        field *= float(target)
        block = target
    if block < lattice:
        # Control points two voxels apart say no more than this, and folds are found ten times as fast.
        block = lattice
        field = operations.restrict(field, fixed.per_axis(block))
    return operations.numpy(field), block


def _class_slope(fixed: WorkingImage, moving: WorkingImage, target: int) -> Callable[[Any], Any]:
    """What :func:`refine` wants, of class probabilities on blocks of ``target`` working voxels."""
    maps = fixed.classes.features(target), moving.classes.features(target)
    masks = fixed.shrunk(target).mask, moving.shrunk(target).mask
    # A sum over the classes, not a mean.
    return lambda field: feature_gradient(*maps, field, channels=1, masks=masks)[0]


def _correlation_slope(
    fixed: WorkingImage,
    moving: WorkingImage,
    target: int,
    weights: Regularisation,
    intensities: int | None,
    operations: Any,
) -> Callable[[Any], Any]:
    """What :func:`refine` wants, of intensities on blocks of ``target`` working voxels.

    After the first ``intensities`` calls the derivatives of the images along one axis after the other are compared
    instead, never where that is None.
    """
    fixed, moving = fixed.shrunk(target), moving.shrunk(target)
    masks, total = [fixed.mask, moving.mask], sum(fixed.weights)
    channels = [
        (weight / total, images)
        for weight, *images in zip(fixed.weights, fixed.channels, moving.channels, strict=True)
        if weight > 0
    ]
    scratch: dict[str, np.ndarray] = {}
    options = {"radius": weights.radius, "floor": weights.floor, "scratch": scratch}

    def terms(filtered: Callable[[np.ndarray], np.ndarray], masks: list[np.ndarray | None]) -> list[tuple[float, Any]]:
        return [
            (weight, operations.local_correlation(*map(filtered, images), masks=masks, **options))
            for weight, images in channels
        ]

    turns = [terms(lambda image: image, masks)]
    inner = [None if mask is None else _inner(mask) for mask in masks]
    # A mask may be too thin for derivatives.
    if intensities is not None and all(mask is None or mask.any() for mask in inner):
        turns += [terms(lambda image, axis=axis: sobel(image, axis), inner) for axis in range(3)]
    calls = itertools.count(0 if intensities is None else -intensities)

    def slope(field: Any) -> Any:
        call, others = next(calls), len(turns) - 1
        now = turns[1 + call % others] if others and call >= 0 else turns[0]
        if len(now) == 1:
            return now[0][1].gradient(field)[0]
        return sum(weight * term.gradient(field)[0] for weight, term in now)

    return slope


def _inner(mask: np.ndarray) -> np.ndarray:
    """Voxels all of whose neighbours are in a mask: a derivative there knows of nothing else."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        along = np.moveaxis(inner, axis, 0)
        before = along.copy()
        along[1:] &= before[:-1]
        along[:-1] &= before[1:]
    return inner


def _diffusion_gradient(control: Tensor, cell: tuple[int, ...]) -> Tensor:
    """Derivative of the sum of squared differences of neighbouring control points, per squared voxel distance."""
    result = control.new_zeros(control.shape)
    for axis, size in enumerate(cell):
        if (count := control.shape[axis]) > 1:
            difference = control.diff(dim=axis) * (2 / size**2)
            result.narrow(axis, 0, count - 1).sub_(difference)
            result.narrow(axis, 1, count - 1).add_(difference)
    return result
