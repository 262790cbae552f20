"""A user's own features of both images, as maps that the search and the descent compare."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.kernels.thermometer.cpu import share_bits
from itk_pdd.network.feature_card import FeatureCard
from itk_pdd.network.settings import RARITY
from itk_pdd.solver.class_maps import ClassMaps

__all__ = ["feature_maps"]

log = logging.getLogger("itk_pdd")

_WEIGHT = {"probabilities": 15.0, "features": 1.0}  # cost of a difference in all of them, beside all MIND-SSC features
_MOST = 32  # features that are compared; more are reduced to so many principal components
_SAMPLES = 50_000  # voxels that components and ranges are computed of
_RANGE = (1.0, 99.0)  # percentiles of the features that become 0 and 1


def feature_maps(
    fixed: tuple[np.ndarray, Grid],
    moving: tuple[np.ndarray, Grid],
    card: FeatureCard,
    working: Grid,
    mapping: Mapping | None,
) -> tuple[ClassMaps, ClassMaps]:
    """Bring the features of both images to numbers from 0 to 1, and give each its bits.

    ``fixed`` and ``moving`` are features (z, y, x, features) and where they lie; ``mapping`` takes physical points of
    the working grid to those of the moving image.
    """
    arrays = [fixed[0], moving[0]]
    if card.values == "probabilities":
        if card.background:
            # The other probabilities determine that of the background.
            arrays = [array[..., 1:] for array in arrays]
        shares = [float(array.mean(dtype=np.float64)) for array in np.moveaxis(arrays[0], -1, 0)]
        bits = share_bits([max(share, 1e-6) ** RARITY for share in shares[:64]])
        arrays, amplitude = [np.ascontiguousarray(array[..., :64]) for array in arrays], 1.0
    else:
        arrays = _ranged(_reduced(arrays))
        count = arrays[0].shape[-1]
        # Of many features the mean difference counts, not the sum.
        bits, amplitude = [min(32, 64 // count)] * count, count**-0.5
    log.info("features: %d of each image, at %.3g mm", arrays[0].shape[-1], max(fixed[1].spacing))
    weight = card.weight or _WEIGHT[card.values]
    options: dict[str, Any] = {"amplitude": amplitude, "descends": card.descent > 0}
    own, other = arrays
    return (
        ClassMaps(own, fixed[1], bits, working, weight, **options),
        ClassMaps(other, moving[1], bits, working, weight, mapping, **options),
    )


def _some(arrays: list[np.ndarray]) -> np.ndarray:
    """Take evenly spread voxels of both images, (n, features)."""
    flat = [array.reshape(-1, array.shape[-1]) for array in arrays]
    return np.concatenate([each[:: max(1, 2 * len(each) // _SAMPLES)] for each in flat]).astype(np.float64)


def _reduced(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Reduce many features to the principal components of both images together."""
    if arrays[0].shape[-1] <= _MOST:
        return arrays
    samples = _some(arrays)
    mean = samples.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(samples - mean, rowvar=False))
    axes = axes[:, ::-1][:, :_MOST].astype(np.float32)
    return [(array - mean.astype(np.float32)) @ axes for array in arrays]


def _ranged(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Bring features to numbers from 0 to 1; those that lie there already stay as they are."""
    samples = _some(arrays)
    if samples.min() >= 0 and samples.max() <= 1:
        return [np.ascontiguousarray(array, dtype=np.float32) for array in arrays]
    low, high = np.percentile(samples, _RANGE, axis=0).astype(np.float32)
    # One scale for all, so that the strongest count most.
    middle, width = (low + high) / 2, max(float((high - low).max()), 1e-12)
    return [np.clip((array - middle) / np.float32(width) + np.float32(0.5), 0, 1) for array in arrays]
