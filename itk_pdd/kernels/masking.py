"""Dense costs where part of the moving image must not be compared either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from itk_pdd.kernels.hamming import arranged, hamming_costs, padded

__all__ = ["MaskedCosts", "masked_costs"]

_ALL = np.uint64(2**64 - 1)
_PART = 128  # control points of which the excluded samples are taken out at once: that takes as much memory four times
_FEW = 0.25  # share of the samples of a cell below which what is left of them says too little


class MaskedCosts:
    """:func:`itk_pdd.kernels.hamming.hamming_costs` over the samples that land on allowed voxels, for any points.

    Three passes of the same kernel take the excluded samples out again: with the excluded moving codes set to zero,
    such a sample of the fixed code f adds popcount(f); against all ones there and zero elsewhere the sum over the
    samples is popcount(f) where allowed and 64 - popcount(f) where not, which gives their sum; zero against the same
    gives their number.

    Parameters
    ----------
    fixed, moving, scales, **options
        As there; ``points`` and ``out`` are given to the call.
    allowed : numpy.ndarray, optional
        Voxels of ``moving`` that may be compared, bool (z, y, x); all by default.
    """

    def __init__(
        self,
        fixed: np.ndarray,
        moving: np.ndarray,
        allowed: np.ndarray | None,
        *,
        scales: Sequence[float],
        **options: Any,
    ) -> None:
        self._fixed, self._scales = fixed, scales
        self._options = {name: value for name, value in options.items() if value is not None}
        self._excluded: Any = None
        if allowed is not None and not allowed.all():
            excluded = np.where(allowed, np.uint64(0), _ALL)
            moving = moving & ~excluded
            self._excluded = self._arranged(excluded[None])
            self._excluded_words = (
                self._excluded if len(moving) == 1 else self._arranged(np.broadcast_to(excluded, moving.shape))
            )
            # Codes without a bit set; against them the fixed ones have as many bits whatever the displacement.
            self._nothing = np.zeros((1, *fixed.shape[1:]), fixed.dtype)
            still = {**self._options, "radius": (0, 0, 0)}
            bits = hamming_costs(fixed, np.zeros(moving.shape, moving.dtype), scales=scales, **still)
            self._bits = bits[..., :1].reshape(-1, 1, 1, 1)
        self._moving = self._arranged(moving)

    @property
    def displacements(self) -> tuple[int, int, int]:
        """Displacements along z and y, and those along x with their padding."""
        counts = [2 * int(r) + 1 for r in self._options["radius"]]
        return counts[0], counts[1], padded(counts[2])

    def _arranged(self, codes: np.ndarray) -> Any:
        return arranged(codes, self._options["radius"], self._options["step"])

    def __call__(self, points: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Costs of all control points, or of those with some flat indices (n,); shapes as there.

        Displacements that leave less than a quarter of the samples of a cell have the mean cost of the others, so that
        nothing speaks for or against them.
        """
        options = {**self._options, "points": points}
        result = hamming_costs(self._fixed, self._moving, scales=self._scales, out=out, **options)
        if self._excluded is None:
            return result
        every = result.reshape(-1, *result.shape[-3:])
        points = np.arange(len(every)) if points is None else points
        for first in range(0, len(every), _PART):
            part = slice(first, first + _PART)
            self._take_out(every[part], points[part])
        return result

    def _take_out(self, result: np.ndarray, points: np.ndarray) -> None:
        """Take the excluded samples out of the costs of some control points (n, dz, dy, width)."""
        options = {**self._options, "points": points}
        count = 2 * options["radius"][2] + 1
        costs = result[..., :count]
        # Of the excluded samples, the share of bits that are set, and their own share.
        against = hamming_costs(self._fixed, self._excluded_words, scales=self._scales, **options)[..., :count]
        share = hamming_costs(self._nothing, self._excluded, scales=(1 / 64,), **options)[..., :count]
        costs -= (self._bits[points] + np.float32(64 * sum(self._scales)) * share - against) / 2
        left = 1 - share
        enough = left >= _FEW
        np.divide(costs, left, out=costs, where=enough)
        axes = (-3, -2, -1)
        neutral = np.sum(costs, axis=axes, where=enough, keepdims=True)
        neutral /= np.maximum(enough.sum(axis=axes, keepdims=True), 1)
        np.copyto(costs, neutral.astype(np.float32), where=~enough)


def masked_costs(
    fixed: np.ndarray, moving: np.ndarray, allowed: np.ndarray | None, *, scales: Sequence[float], **options: Any
) -> np.ndarray:
    """:class:`MaskedCosts` of all control points."""
    return MaskedCosts(fixed, moving, allowed, scales=scales, **options)()
