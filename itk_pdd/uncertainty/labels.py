"""Labels that an uncertain deformation carries: their probabilities and entropy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import slabs
from itk_pdd.io.volume import Volume
from itk_pdd.kernels.interpolation.cpu import sample_nearest

__all__ = ["entropy_of", "label_entropy", "label_probabilities"]

_DRAWS = 64  # displacements per voxel that represent its distribution


def _draws(dimension: int) -> np.ndarray:
    """Draw evenly spread standard normal vectors (draws, dim), symmetric about zero: always the same."""
    from scipy.stats import norm, qmc

    half = norm.ppf(qmc.Sobol(dimension, scramble=True, seed=0).random(_DRAWS // 2))
    both = np.concatenate([half, -half])
    # Sums of squares, too, are those of the distribution.
    return (both @ np.linalg.inv(np.linalg.cholesky(both.T @ both / len(both))).T).astype(np.float32)


def _drawn(labels: Volume, field: DisplacementField, roots: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Sample labels at displaced positions, slab by slab: (slice of the grid, labels (draws, *slab); 0 outside)."""
    grid, vectors = field.grid, field.vectors
    first, second = np.tril_indices(grid.dimension)
    draws = _draws(grid.dimension)
    for slab, points in slabs(grid):
        for start in range(slab.start, slab.stop, 8):
            part = slice(start, min(start + 8, slab.stop))
            mapped = points[part.start - slab.start : part.stop - slab.start] + vectors[part]
            found = np.empty((len(draws), *mapped.shape[:-1]), labels.array.dtype)
            for number, draw in enumerate(draws):
                shift = np.zeros(mapped.shape, np.float32)
                for i, j, values in zip(first, second, np.moveaxis(roots[part], -1, 0), strict=True):
                    shift[..., i] += values * draw[j]
                index = labels.grid.to_index(mapped + shift)
                found[number] = sample_nearest(labels.array, index, outside="zero")
            yield part, found


def label_probabilities(
    labels: Volume, field: DisplacementField, roots: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray]:
    """Compute the probability of every label of the moving image at every voxel of the fixed image.

    The shares of 64 evenly spread draws of the displacement from a Gaussian with its covariance at the voxel: tails as
    heavy as those of the calibrated Student distribution are left out, and a share is a multiple of 1/64. ``roots`` are
    the Cholesky factors of the covariances in square millimetres, the lower triangles row by row, (*grid.shape, dim
    (dim + 1) / 2). Returns the labels, ascending, 0 (outside the moving image, too) among them, and float32 (*grid,
    labels).
    """
    values = np.union1d(np.unique(labels.array), [0])
    out = np.empty((*field.grid.shape, len(values)), np.float32)
    for part, found in _drawn(labels, field, roots):
        for n, value in enumerate(values):
            out[part][..., n] = (found == value).mean(axis=0)
    return tuple(int(v) for v in values), out


def label_entropy(labels: Volume, field: DisplacementField, roots: np.ndarray) -> np.ndarray:
    """Compute the entropy of the label at every voxel in nats, float32: 0 where all draws show the same one.

    The parameters are those of :func:`label_probabilities`.
    """
    out = np.zeros(field.grid.shape, np.float32)
    for part, found in _drawn(labels, field, roots):
        # A part shows few of the labels.
        shares = [(found == value).mean(axis=0, dtype=np.float32) for value in np.unique(found)]
        out[part] = entropy_of(np.stack(shares, axis=-1))
    return out


def entropy_of(probabilities: np.ndarray) -> np.ndarray:
    """Compute the entropy in nats, float32 (...), of probabilities (..., labels) that add up to 1."""
    from scipy import special  # heavy

    out = np.zeros(probabilities.shape[:-1], np.float32)
    for share in np.moveaxis(probabilities, -1, 0):  # one label at a time: there may be many
        out += special.entr(share)
    return out
