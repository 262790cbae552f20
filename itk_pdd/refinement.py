"""Instance optimisation: the field of one pair refined by gradient descent in feature space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from itk_pdd.kernels.lattice import restrict, spread, upsample
from itk_pdd.kernels.matching import feature_gradient
from itk_pdd.kernels.unfold import unfold
from itk_pdd.search import WorkingImage, enlarged
from itk_pdd.stages import Refinement

__all__ = ["refine", "refined"]

_UNFOLD = 10  # steps between two looks for folds


def refine(
    fixed: np.ndarray,
    moving: np.ndarray,
    field: np.ndarray,
    settings: Refinement,
    *,
    channels: int,
    mask: np.ndarray | None = None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> np.ndarray:
    """Improve a field by Adam steps on the coefficients of a cubic B-spline that is added to it.

    Minimises the squared difference of the features plus the diffusion of the whole displacement. The paper descends
    on the probability tensor; here the features are compared again at every step, at their full resolution. What folds
    on the way is unfolded every few steps, so that the rest can make up for it.

    Parameters
    ----------
    fixed, moving : numpy.ndarray
        uint8 features, shape (z, y, x, 16) or a multiple of 16.
    field : numpy.ndarray
        Displacements in voxels, float32 (z, y, x, 3), components x, y, z.
    settings : Refinement
        Number of steps, control grid, weights.
    channels, mask
        See :func:`itk_pdd.kernels.matching.feature_gradient`.
    progress : callable
        Called with the fraction that is done.

    Returns
    -------
    numpy.ndarray
        float32, shape of ``field``.
    """
    shape = field.shape[:3]
    flat = tuple(size == 1 for size in shape)
    cell = tuple(1 if f else settings.cell for f in flat)
    stride = tuple(1 if f else settings.stride for f in flat)
    compared = tuple(slice(None, None, s) for s in stride)
    start = np.ascontiguousarray(field[compared])
    coarse = restrict(field, cell)
    control = np.zeros_like(coarse)
    mean, square = np.zeros_like(control), np.zeros_like(control)
    # Gradients are taken per control point: the sum over the points it moves, relative to their usual number.
    share = np.prod([c / s for c, s in zip(cell, stride, strict=True)])
    for step in range(1, settings.iterations + 1):
        update = upsample(control, cell, shape, stride=settings.stride)
        gradient, _ = feature_gradient(fixed, moving, start + update, channels=channels, stride=stride, mask=mask)
        slope = spread(gradient, cell, shape, control.shape[:3], stride=settings.stride) / np.float32(share)
        slope += settings.diffusion * _diffusion_gradient(coarse + control, cell)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        direction = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        control -= np.float32(settings.rate) * direction
        if step % _UNFOLD == 0 and step < settings.iterations:
            update = upsample(control, cell, shape)
            unfolded, moved, _ = unfold(field + update)
            if moved:
                field = unfolded - update
                start = np.ascontiguousarray(field[compared])
        progress(step / settings.iterations)
    return field + upsample(control, cell, shape)


def refined(
    fixed: WorkingImage,
    moving: WorkingImage,
    field: np.ndarray,
    block: int,
    settings: Refinement,
    *,
    progress: Callable[[float], None] = lambda fraction: None,
) -> tuple[np.ndarray, int]:
    """What the search found, refined on the features that the settings name.

    Parameters
    ----------
    fixed, moving : WorkingImage
        The images.
    field, block
        As :func:`itk_pdd.search.search` returns them.
    settings : Refinement
        What to compare, and how long.
    progress : callable
        Called with the fraction that is done.

    Returns
    -------
    numpy.ndarray, int
        The field as it came, on a lattice of another block of working voxels perhaps.
    """
    if settings.features == "classes":
        target = fixed.classes.shrink
        features = fixed.classes.features(target), moving.classes.features(target)
        channels = 1  # a sum over the classes
    else:
        target, channels = 1, fixed.similarities
        features = fixed.features(settings.dilation), moving.features(settings.dilation)
    shrunk = fixed.shrunk(target)
    if block != target:
        whole = enlarged(field / np.float32(block), fixed.per_axis(block), fixed.shape)
        field = restrict(whole, fixed.per_axis(target))
    start = field / np.float32(target)
    result = refine(*features, start, settings, channels=channels, mask=shrunk.mask, progress=progress)
    return result * np.float32(target), target


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
