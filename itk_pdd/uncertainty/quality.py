"""One figure for a registration: the overlap of structures that its evidence predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

__all__ = ["CANDIDATES", "Quality", "predicted", "quality", "summary"]

CANDIDATES = (
    "disagreement0",
    "disagreement1",
    "disagreement2",
    "strain",
    "decorrelation",
    "structure residual",
    "unseen",
)
"""Features whose means over the image may predict the overlap; the calibration holds their weights."""

_OFFSET = 0.02


@dataclass(frozen=True)
class Quality:
    """The overlap to expect of a registration. (Whether it succeeded says the verdict.)

    Parameters
    ----------
    figure : float
        Predicted Dice overlap of structures, from 0 to 1; larger is better. Small structures overlap less than large
        ones: compare it with that of other registrations of the same kind.
    """

    figure: float

    def __str__(self) -> str:
        return f"predicted overlap {self.figure:.2f}"


def summary(features: Mapping[str, np.ndarray], inside: np.ndarray) -> dict[str, float]:
    """Average every feature over the control points that show something of the fixed image."""
    where = inside if inside.any() else np.ones(inside.shape, bool)
    return {name: float(values[where].mean()) for name, values in features.items()}


def predicted(means: Mapping[str, float], intercept: float, weights: Mapping[str, float]) -> float:
    """Predict the overlap: a logistic function of the logarithms of the means, falling with each of them.

    The weights, not below 0, say how fast; features that a model does not have are left out.
    """
    fall = sum(weight * np.log(means[name] + _OFFSET) for name, weight in weights.items() if name in means)
    return float(expit(intercept - fall))


def quality(learned: Mapping[str, Any], features: Mapping[str, np.ndarray], inside: np.ndarray) -> Quality | None:
    """Predict the overlap of a registration; None for an empty calibration, which has not learned to predict."""
    if not learned:
        return None
    return Quality(predicted(summary(features, inside), learned["intercept"], learned["weights"]))
