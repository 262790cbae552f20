"""Rough alignment before the deformable registration, for images that do not lie on each other as they are."""

from __future__ import annotations

import logging

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping, Mapping, spread_points
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.mind.cpu import mind_features
from itk_pdd.solver.intensities import without_outliers
from itk_pdd.solver.problem import Model, Options, Problem

__all__ = ["align_affine", "align_centres", "check_overlap", "fitted_similarity"]

log = logging.getLogger("itk_pdd")


# Chosen on abdominal scans of different coverage: finer images or more steps were no better.
# Voxels along the longest side of the fixed image, by dimension, and what is fitted.
_STEPS = (
    ({2: 64, 3: 44}, "similarity"), ({2: 64, 3: 44}, "similarity"), ({2: 96, 3: 56}, "affine"),
    ({2: 128, 3: 56}, "affine"),
)  # fmt: skip
_KEPT = 0.6  # part of the correspondences that a fit believes
_TEXTURE = 0.6  # part of the voxels that is too flat to have any
_LEAST_OVERLAP = 0.1


def align_centres(
    fixed: Volume, moving: Volume, *, fixed_mask: Volume | None = None, moving_mask: Volume | None = None
) -> AffineMapping:
    """Find the translation that puts the centres of two images on each other, or of mass of both masks if given."""
    if fixed_mask is not None and moving_mask is not None:
        offset = _centre_of_mass(moving_mask) - _centre_of_mass(fixed_mask)
    else:
        offset = moving.grid.centre - fixed.grid.centre
    return AffineMapping.translation(offset)


def align_affine(
    fixed: Volume,
    moving: Volume,
    *,
    model: Model,
    fixed_mask: Volume | None = None,
    moving_mask: Volume | None = None,
    threads: int | None = None,
) -> AffineMapping:
    """Find an affine mapping of the fixed to the moving image, from dense displacements of small images.

    The images, of any modalities, are registered deformably by ``model`` at a coarse resolution, and a mapping is
    fitted to the displacements with the worst ones left out; this is repeated from the mapping found, first with a
    similarity, then with an affine mapping. It starts from the centres, the centres of mass or the physical coordinates
    as given, whichever explains the images best, and returns to the start if the outcome explains them worse.
    RegistrationError if no start makes the images overlap.

    References
    ----------
    Block matching and a trimmed fit go back to Ourselin S. et al., "Reconstructing a 3D structure from serial
    histological sections", Image and Vision Computing 19, 2001; with self-similarities as here to Heinrich M. P. et
    al., "MRF-based deformable registration and ventilation estimation of lung CT", IEEE TMI 32(7), 2013.
    """
    fixed, moving = without_outliers(fixed, "fixed"), without_outliers(moving, "moving")
    starts = _starts(fixed, moving, fixed_mask, moving_mask)
    scores = {name: _disagreement(fixed, moving, start) for name, start in starts.items()}
    name = min(scores, key=lambda key: scores[key])
    if not np.isfinite(scores[name]):
        raise RegistrationError(
            "initialise='affine' found no start at which the images overlap: give initial_transform"
        )
    log.info("affine pre-alignment starts from the %s", name)
    found = starts[name]
    for voxels, kind in _STEPS:
        grids = [_small_grid(volume.grid, fixed.grid, voxels) for volume in (fixed, moving)]
        small = [resample(volume, grid) for volume, grid in zip((fixed, moving), grids, strict=True)]
        masks = [
            None if mask is None else resample(mask, grid, interpolation="nearest", outside="zero")
            for mask, grid in zip((fixed_mask, moving_mask), grids, strict=True)
        ]
        problem = Problem((small[0],), (small[1],), found, masks[0], masks[1])
        result = model.register(problem, Options(device="cpu", threads=threads))
        points, targets = _correspondences(small[0], moving.grid, masks[0], result.field)
        if len(points) < 10 * (fixed.grid.dimension + 1):
            break
        found = _trimmed_fit(points, targets, kind)
    if not _disagreement(fixed, moving, found) < scores[name]:
        log.warning("the affine pre-alignment was no improvement over the %s and is dropped", name)
        return starts[name]
    return found


def _starts(
    fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None
) -> dict[str, AffineMapping]:
    mass = _centre_of_mass(moving_mask or _weights(moving)) - _centre_of_mass(fixed_mask or _weights(fixed))
    return {
        "centres": align_centres(fixed, moving, fixed_mask=fixed_mask, moving_mask=moving_mask),
        "centres of mass": AffineMapping.translation(mass),
        "physical coordinates": AffineMapping.translation(np.zeros(fixed.grid.dimension)),
    }


def _disagreement(fixed: Volume, moving: Volume, mapping: AffineMapping) -> float:
    """Mean difference of self-similarities where the images overlap; infinite where they hardly do."""
    grid = _small_grid(fixed.grid, fixed.grid, _STEPS[0][0])
    inside = moving.grid.contains(mapping(grid.points()), margin=0)
    if inside.mean() < _LEAST_OVERLAP * min(1.0, moving.grid.extent.prod() / fixed.grid.extent.prod()):
        return np.inf
    arrays = resample(fixed, grid).array, resample(moving, grid, mapping=mapping).array
    first, second = (mind_features(array).reshape(*inside.shape, -1)[inside].astype(np.int16) for array in arrays)
    return float(np.abs(first - second).mean())


def _small_grid(grid: Grid, fixed: Grid, voxels: dict[int, int]) -> Grid:
    """A grid of cubic voxels over an image, no finer than the fixed image."""
    finest = float(np.prod(fixed.spacing) ** (1 / fixed.dimension))
    spacing = max(max(fixed.extent) / voxels[fixed.dimension], finest)
    return grid.with_spacing(np.minimum(spacing, grid.extent / 2))


def _correspondences(
    fixed: Volume, moving: Grid, mask: Volume | None, field: DisplacementField
) -> tuple[np.ndarray, np.ndarray]:
    """Textured fixed points (n, dim) and their partners within the moving image."""
    points = fixed.grid.points()
    targets = points + field.vectors
    used = moving.contains(targets, margin=0)
    if mask is not None:
        used &= mask.array
    slope = np.sqrt(sum(np.gradient(fixed.array, axis=axis) ** 2 for axis in range(fixed.array.ndim)))
    if used.any():
        used &= slope > np.quantile(slope[used], _TEXTURE)
    return points[used], targets[used]


def _trimmed_fit(points: np.ndarray, targets: np.ndarray, kind: str) -> AffineMapping:
    """Least squares over the pairs that fit best, found by turns of fitting and choosing."""
    kept = np.ones(len(points), bool)
    for _ in range(20):
        found = (fitted_similarity if kind == "similarity" else _affine)(points[kept], targets[kept])
        residual = np.linalg.norm(found(points) - targets, axis=-1)
        better = residual <= np.quantile(residual, _KEPT)
        if (better == kept).all():
            break
        kept = better
    return found


def _affine(points: np.ndarray, targets: np.ndarray) -> AffineMapping:
    homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    solution = np.linalg.lstsq(homogeneous, targets, rcond=None)[0]
    matrix = np.eye(points.shape[1] + 1)
    matrix[:-1] = solution.T
    return AffineMapping(matrix)


def fitted_similarity(points: np.ndarray, targets: np.ndarray, *, rigid: bool = False) -> AffineMapping:
    """Fit rotation, scale and translation to points (n, dim) by Umeyama's method (IEEE TPAMI 13(4), 1991)."""
    source, target = points.mean(axis=0), targets.mean(axis=0)
    u, singular, v = np.linalg.svd((targets - target).T @ (points - source))
    signs = np.ones(len(source))
    signs[-1] = np.sign(np.linalg.det(u @ v))
    rotation = (u * signs) @ v
    scale = 1.0 if rigid else (singular * signs).sum() / ((points - source) ** 2).sum()
    matrix = np.eye(len(source) + 1)
    matrix[:-1, :-1] = scale * rotation
    matrix[:-1, -1] = target - scale * rotation @ source
    return AffineMapping(matrix)


def _centre_of_mass(volume: Volume) -> np.ndarray:
    """Physical centre of mass (x, y, z) of a volume of weights."""
    weights = volume.array.astype(np.float32)
    total = float(weights.sum(dtype=float))
    axes = range(weights.ndim)
    index = []
    for axis in axes:
        profile = weights.sum(axis=tuple(other for other in axes if other != axis), dtype=float)
        index.append(float(profile @ np.arange(len(profile))) / total)
    return volume.grid.to_physical(np.asarray(index[::-1]))


def _weights(volume: Volume) -> Volume:
    """Weights for a centre of mass: the intensities above the background, which may be negative (air in CT)."""
    array = volume.array.astype(np.float32)
    return Volume(array - array.min(), volume.grid)


def check_overlap(fixed: Volume, moving: Volume, initial: Mapping | None, cause: str | None) -> None:
    """Refuse images of which no part of one lies in the other once the initial transform is applied."""
    seen = _inside(spread_points(fixed.grid), moving, initial)
    if not seen and (initial is None or isinstance(initial, AffineMapping)):
        # A moving image that lies between the points may have been missed.
        back = None if initial is None else initial.inverse()
        seen = _inside(spread_points(moving.grid), fixed, back)
    if not seen:
        places = [", ".join(f"{c:.0f}" for c in volume.grid.centre) for volume in (fixed, moving)]
        after = f" after {cause}" if cause else ""
        advice = "check it, or use initialise='center' instead" if cause else "use initialise='center'"
        raise RegistrationError(
            f"fixed and moving do not overlap in physical space{after} (their centres are at {places[0]} and "
            f"{places[1]} mm): {advice}"
        )


def _inside(points: np.ndarray, volume: Volume, mapping: Mapping | None) -> bool:
    return bool(volume.grid.contains(points if mapping is None else mapping(points)).any())
