"""Measure how well the labels of two images overlap before and after a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from itk_pdd.evaluation import metrics
from itk_pdd.geometry.volume import Volume

__all__ = ["Overlap", "overlap"]


@dataclass(frozen=True)
class Overlap:
    """Dice overlaps of the labels that both images have, from 0 to 1.

    Parameters
    ----------
    before, after : dict of int to float
        Dice overlap of every label where the registration started, and with its result.
    """

    before: dict[int, float]
    after: dict[int, float]

    @property
    def means(self) -> tuple[float, float]:
        """Means over the labels, before and after; NaN without a label."""
        if not self.before:
            return float("nan"), float("nan")
        return float(np.mean(list(self.before.values()))), float(np.mean(list(self.after.values())))

    def to_dict(self) -> dict[str, Any]:
        """Convert to what JSON can hold."""
        states = zip(("before", "after"), (self.before, self.after), self.means, strict=True)
        return {
            name: {"mean": round(mean, 5), "labels": {str(n): round(value, 5) for n, value in state.items()}}
            for name, state, mean in states
        }

    def __str__(self) -> str:
        if not self.before:
            return "the images have no label in common"
        before, after = self.means
        return f"Dice overlap, mean {before:.3f} before and {after:.3f} after"


def overlap(fixed: Volume, moving: Volume, before: Volume, after: Volume) -> Overlap:
    """Compare the labels of the fixed image with those of the moving one, carried onto its grid before and after.

    Only labels that both images have count; one that is carried out of sight overlaps by 0.
    """
    known = set(metrics.labels_of(moving.array))
    shared = [label for label in metrics.labels_of(fixed.array) if label in known]
    return Overlap(*(metrics.dice(fixed.array, moved.array, shared) for moved in (before, after)))
