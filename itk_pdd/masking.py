"""Dense costs where part of the moving image must not be compared either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from itk_pdd.kernels.hamming import hamming_costs

__all__ = ["masked_costs"]

_ALL = np.uint64(2**64 - 1)
_FEW = 0.25  # share of the samples of a cell below which what is left of them says too little


def masked_costs(
    fixed: np.ndarray, moving: np.ndarray, allowed: np.ndarray | None, *, scales: Sequence[float], **options: Any
) -> np.ndarray:
    """:func:`itk_pdd.kernels.hamming.hamming_costs` over the samples that land on allowed voxels.

    Three passes of the same kernel take the excluded samples out again: with the excluded moving codes set to zero,
    such a sample of the fixed code f adds popcount(f); against all ones there and zero elsewhere the sum over the
    samples is popcount(f) where allowed and 64 - popcount(f) where not, which gives their sum; zero against the same
    gives their number.

    Parameters
    ----------
    fixed, moving, scales, **options
        As there.
    allowed : numpy.ndarray, optional
        Voxels of ``moving`` that may be compared, bool (z, y, x); all by default.

    Returns
    -------
    numpy.ndarray
        As there. Displacements that leave less than a quarter of the samples of a cell have the mean cost of the
        others, so that nothing speaks for or against them.
    """
    if allowed is None or allowed.all():
        return hamming_costs(fixed, moving, scales=scales, **options)
    options = {name: value for name, value in options.items() if value is not None}
    excluded = np.where(allowed, np.uint64(0), _ALL)
    count = 2 * options["radius"][2] + 1
    result = hamming_costs(fixed, moving & ~excluded, scales=scales, **options)
    costs = result[..., :count]
    # Of the excluded samples, the share of bits that are set, and their own share.
    against = hamming_costs(fixed, np.broadcast_to(excluded, moving.shape), scales=scales, **options)[..., :count]
    share = hamming_costs(np.zeros_like(fixed[:1]), excluded[None], scales=(1 / 64,), **options)[..., :count]
    nothing = {**options, "radius": (0, 0, 0)}
    bits = hamming_costs(fixed, np.zeros_like(moving), scales=scales, **nothing)[..., :1]
    costs -= (bits + np.float32(64 * sum(scales)) * share - against) / 2
    left = 1 - share
    enough = left >= _FEW
    np.divide(costs, left, out=costs, where=enough)
    axes = (3, 4, 5)
    neutral = np.sum(costs, axis=axes, where=enough, keepdims=True)
    neutral /= np.maximum(enough.sum(axis=axes, keepdims=True), 1)
    np.copyto(costs, neutral.astype(np.float32), where=~enough)
    return result
