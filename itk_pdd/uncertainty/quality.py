"""One figure that says whether a registration can be believed: the overlap of structures that its evidence predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from itk_pdd.uncertainty.estimate import Uncertainty

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
"""Means over the image that may tell; the calibration says by how much."""

_OFFSET = 0.02


@dataclass(frozen=True)
class Quality:
    """What is to be expected of a registration.

    Parameters
    ----------
    figure : float
        Predicted Dice overlap of structures, from 0 to 1; larger is better. Small structures overlap less than large
        ones: compare it with that of other registrations of the same kind.
    threshold : float
        Below it the registration has probably failed: learned from registrations with wrong starts.
    deviation_mm : float
        Median standard deviation of the displacement where the fixed image shows something.
    """

    figure: float
    threshold: float
    deviation_mm: float

    @property
    def failed(self) -> bool:
        """Whether the figure lies below the threshold."""
        return self.figure < self.threshold

    def __str__(self) -> str:
        verdict = "probably failed, look at it" if self.failed else "no sign of failure"
        return (
            f"quality {self.figure:.2f} (predicted overlap; suspicious below {self.threshold:.2f}): {verdict}; "
            f"median standard deviation {self.deviation_mm:.2g} mm"
        )


def summary(uncertainty: Uncertainty) -> dict[str, float]:
    """Mean of every feature over what the fixed image shows."""
    where = _shown(uncertainty)
    return {name: float(values[where].mean()) for name, values in uncertainty.evidence.features.items()}


def predicted(means: Mapping[str, float], intercept: float, weights: Mapping[str, float]) -> float:
    """Predicted overlap: a logistic function of the logarithms of the means, falling with each of them.

    Parameters
    ----------
    means : mapping of str to float
        What :func:`summary` gives.
    intercept : float
        A larger one predicts more overlap.
    weights : mapping of str to float
        How fast it falls with each feature, not below 0; features that a model does not have are left out.
    """
    fall = sum(weight * np.log(means[name] + _OFFSET) for name, weight in weights.items() if name in means)
    return float(1 / (1 + np.exp(fall - intercept)))


def quality(uncertainty: Uncertainty) -> Quality | None:
    """Quality of a registration, by the calibration of its model; None where that has not learned to judge."""
    learned = uncertainty.calibration.quality
    if not learned:
        return None
    figure = predicted(summary(uncertainty), learned["intercept"], learned["weights"])
    return Quality(
        figure, float(learned["threshold"]), float(np.median(uncertainty.control_deviation()[_shown(uncertainty)]))
    )


def _shown(uncertainty: Uncertainty) -> np.ndarray:
    inside = uncertainty.evidence.inside
    return inside if inside.any() else np.ones(inside.shape, bool)
