"""Instance optimisation: the field of one pair refined by gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.ndimage import minimum_filter

from itk_pdd.kernels.correlation import LocalCorrelation
from itk_pdd.kernels.lattice import restrict, spread, upsample
from itk_pdd.kernels.matching import feature_gradient
from itk_pdd.kernels.unfold import unfold
from itk_pdd.search import WorkingImage, enlarged
from itk_pdd.stages import Refinement

__all__ = ["refine", "refined"]

_UNFOLD = 10  # steps between two looks for folds


def refine(
    slope: Callable[[np.ndarray], np.ndarray],
    field: np.ndarray,
    settings: Refinement,
    *,
    smallest_jacobian: float | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> np.ndarray:
    """Improve a field by Adam steps on the coefficients of a cubic B-spline that is added to it.

    Minimises a difference of the images plus the diffusion of the whole displacement. The paper descends on the
    probability tensor; here the images are compared again at every step. What folds on the way is unfolded every few
    steps, so that the rest can make up for it.

    Parameters
    ----------
    slope : callable
        Takes a field to the derivative of the difference with respect to each of its displacements, of the same shape.
    field : numpy.ndarray
        Displacements in voxels, float32 (z, y, x, 3), components x, y, z.
    settings : Refinement
        Number of steps, control grid, diffusion.
    smallest_jacobian : float, optional
        What is unfolded, see :class:`itk_pdd.stages.Model`; nothing by default.
    progress : callable
        Called with the fraction that is done.

    Returns
    -------
    numpy.ndarray
        float32, shape of ``field``.
    """
    shape = field.shape[:3]
    cell = tuple(1 if size == 1 else settings.cell for size in shape)
    coarse = restrict(field, cell)
    control = np.zeros_like(coarse)
    mean, square = np.zeros_like(control), np.zeros_like(control)
    # Gradients are taken per control point: the sum over the voxels it moves, relative to their usual number.
    share = np.float32(np.prod(cell))
    for step in range(1, settings.iterations + 1):
        derivative = spread(slope(field + upsample(control, cell, shape)), cell, shape, control.shape[:3]) / share
        derivative += settings.diffusion * _diffusion_gradient(coarse + control, cell)
        mean = 0.9 * mean + 0.1 * derivative
        square = 0.999 * square + 0.001 * derivative**2
        direction = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        control -= np.float32(settings.rate) * direction
        if smallest_jacobian is not None and step % _UNFOLD == 0 and step < settings.iterations:
            update = upsample(control, cell, shape)
            unfolded, moved, _ = unfold(field + update, minimum=smallest_jacobian)
            if moved:
                field = unfolded - update
                coarse = restrict(field, cell)
        progress(step / settings.iterations)
    return field + upsample(control, cell, shape)


def refined(
    fixed: WorkingImage,
    moving: WorkingImage,
    field: np.ndarray,
    block: int,
    settings: Refinement,
    *,
    smallest_jacobian: float | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[np.ndarray, int]:
    """What the search found, refined by what the settings name.

    Parameters
    ----------
    fixed, moving : WorkingImage
        The images.
    field, block
        As :func:`itk_pdd.search.search` returns them.
    settings : Refinement
        What to compare, and how long.
    smallest_jacobian, progress
        See :func:`refine`.

    Returns
    -------
    numpy.ndarray, int
        The field as it came, on a lattice of another block of working voxels perhaps.
    """
    if settings.features == "classes":
        target = fixed.classes.shrink
    else:
        target = settings.shrink(fixed.shape)
        settings = replace(settings, diffusion=settings.diffusion / target**2)
    if target % block:
        field = enlarged(field / np.float32(block), fixed.per_axis(block), fixed.shape)
        block = 1
    field = restrict(field, fixed.per_axis(target // block))
    slope = _slope(fixed, moving, settings, target)
    start = field / np.float32(target)
    result = refine(slope, start, settings, smallest_jacobian=smallest_jacobian, progress=progress)
    return result * np.float32(target), target


def _slope(
    fixed: WorkingImage, moving: WorkingImage, settings: Refinement, target: int
) -> Callable[[np.ndarray], np.ndarray]:
    """What :func:`refine` wants, on blocks of ``target`` working voxels."""
    cell = fixed.per_axis(target)
    masks = [None if image.mask is None else restrict(image.mask, cell) >= 0.5 for image in (fixed, moving)]
    landing = masks[1] if masks[1] is None else minimum_filter(masks[1], 2, origin=-1, mode="nearest")
    if settings.features == "classes":
        features = fixed.classes.features(target), moving.classes.features(target)

        def by_classes(field: np.ndarray) -> np.ndarray:
            # A sum over the classes, not a mean.
            return feature_gradient(*features, field, channels=1, mask=_counted(masks[0], landing, field))[0]

        return by_classes
    total = sum(fixed.weights)
    terms = []
    for weight, *channels in zip(fixed.weights, fixed.channels, moving.channels, strict=True):
        if weight > 0:
            images = (restrict(channel, cell) for channel in channels)
            terms.append((np.float32(weight / total), LocalCorrelation(*images, radius=settings.radius, masks=masks)))

    def by_correlation(field: np.ndarray) -> np.ndarray:
        counted = _counted(masks[0], landing, field)
        return sum(weight * term.gradient(field, counted)[0] for weight, term in terms)

    return by_correlation


def _counted(fixed: np.ndarray | None, moving: np.ndarray | None, field: np.ndarray) -> np.ndarray | None:
    """Voxels within the fixed mask that land within the moving one, bool (z, y, x); None if all do.

    ``moving`` holds at each voxel whether this and those behind it are in the mask, between which is interpolated.
    """
    if moving is None:
        return fixed
    places = np.moveaxis(np.indices(field.shape[:3], dtype=np.float32), 0, -1) + field[..., ::-1]
    index = np.floor(places).astype(np.intp)
    inside = moving[tuple(np.clip(index[..., i], 0, size - 1) for i, size in enumerate(moving.shape))]
    return inside if fixed is None else inside & fixed


def _diffusion_gradient(control: np.ndarray, cell: tuple[int, ...]) -> np.ndarray:
    """Derivative of the sum of squared differences of neighbouring control points, per squared voxel distance."""
    result = np.zeros_like(control)
    for axis, size in enumerate(cell):
        if control.shape[axis] < 2:
            continue
        difference = np.diff(control, axis=axis) * np.float32(2 / size**2)
        lower = [slice(None)] * control.ndim
        upper = list(lower)
        lower[axis], upper[axis] = slice(0, -1), slice(1, None)
        result[tuple(lower)] -= difference
        result[tuple(upper)] += difference
    return result
