"""Labels that an uncertain deformation carries: their probabilities and entropy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from itk_pdd.geometry.grid import slabs
from itk_pdd.geometry.resampling import interpolate
from itk_pdd.kernels.interpolation.cpu import sample_nearest

if TYPE_CHECKING:
    from itk_pdd.io.volume import Volume
    from itk_pdd.uncertainty.estimate import Uncertainty

__all__ = ["entropy_of", "label_entropy", "label_probabilities"]

_DRAWS = 64  # displacements that stand for the distribution of a voxel


def _draws(dimension: int) -> np.ndarray:
    """Evenly spread standard normal vectors (draws, dim), symmetric about zero: always the same."""
    from scipy.stats import norm, qmc

    half = norm.ppf(qmc.Sobol(dimension, scramble=True, seed=0).random(_DRAWS // 2))
    both = np.concatenate([half, -half])
    # Sums of squares, too, are those of the distribution.
    return (both @ np.linalg.inv(np.linalg.cholesky(both.T @ both / len(both))).T).astype(np.float32)


def _drawn(labels: Volume, uncertainty: Uncertainty) -> Iterator[tuple[slice, np.ndarray]]:
    """Labels at displaced positions, slab by slab: (slice of the fixed grid, labels (draws, *slab); 0 outside)."""
    grid, dimension = uncertainty.grid, uncertainty.grid.dimension
    control = np.linalg.cholesky(uncertainty._control)
    first, second = np.tril_indices(dimension)
    draws = _draws(dimension)
    vectors = uncertainty.field.vectors
    root = interpolate(control[..., first, second], uncertainty.evidence.grid, grid)
    for slab, points in slabs(grid):
        for start in range(slab.start, slab.stop, 8):
            part = slice(start, min(start + 8, slab.stop))
            mapped = points[part.start - slab.start : part.stop - slab.start] + vectors[part]
            found = np.empty((len(draws), *mapped.shape[:-1]), labels.array.dtype)
            for number, draw in enumerate(draws):
                shift = np.zeros(mapped.shape, np.float32)
                for i, j, values in zip(first, second, np.moveaxis(root[part], -1, 0), strict=True):
                    shift[..., i] += values * draw[j]
                index = labels.grid.to_index(mapped + shift)
                found[number] = sample_nearest(labels.array, index, outside="zero")
            yield part, found


def label_probabilities(labels: Volume, uncertainty: Uncertainty) -> tuple[tuple[int, ...], np.ndarray]:
    """Probability of every label of the moving image at every voxel of the fixed image.

    The shares of 64 evenly spread draws of the displacement from a Gaussian with its covariance at the voxel: tails as
    heavy as those of the calibrated Student distribution are left out, and a share is a multiple of 1/64.

    Parameters
    ----------
    labels : Volume
        Label map in the space of the moving image.
    uncertainty : Uncertainty
        Of the registration.

    Returns
    -------
    tuple of int
        The labels, ascending, 0 (outside the moving image, too) among them.
    numpy.ndarray
        float32, shape (*grid, labels); they add up to 1.
    """
    values = np.union1d(np.unique(labels.array), [0])
    out = np.empty((*uncertainty.grid.shape, len(values)), np.float32)
    for part, found in _drawn(labels, uncertainty):
        for n, value in enumerate(values):
            out[part][..., n] = (found == value).mean(axis=0)
    return tuple(int(v) for v in values), out


def label_entropy(labels: Volume, uncertainty: Uncertainty) -> np.ndarray:
    """Entropy of the label at every voxel of the fixed image in nats, float32: 0 where all draws show the same one.

    Of the probabilities of :func:`label_probabilities`.
    """
    out = np.zeros(uncertainty.grid.shape, np.float32)
    for part, found in _drawn(labels, uncertainty):
        # Few of the labels are found in a part.
        shares = [(found == value).mean(axis=0, dtype=np.float32) for value in np.unique(found)]
        out[part] = entropy_of(np.stack(shares, axis=-1))
    return out


def entropy_of(probabilities: np.ndarray) -> np.ndarray:
    """Entropy in nats, float32 (...), of probabilities (..., labels) that add up to 1."""
    out = np.zeros(probabilities.shape[:-1], np.float32)
    for share in np.moveaxis(probabilities, -1, 0):
        out -= share * np.log(np.maximum(share, np.float32(1e-12)))
    return np.maximum(out, 0)
