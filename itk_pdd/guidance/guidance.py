"""Everything that guides a registration beside the intensities of both images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from itk_pdd.errors import RegistrationError
from itk_pdd.guidance.labels import LabelGuide, label_guide

__all__ = ["KNOWN", "Guidance", "read_guidance"]

KNOWN = ("fixed_labels", "moving_labels", "guide", "label_map", "label_weight")
"""Names of the arguments that tell what a user knows."""


@dataclass(frozen=True)
class Guidance:
    """Knowledge about two images.

    Parameters
    ----------
    labels : LabelGuide, optional
        Labels of both images.
    """

    labels: LabelGuide | None = None


def read_guidance(
    dimension: int,
    *,
    fixed_labels: Any = None,
    moving_labels: Any = None,
    guide: Any = None,
    label_map: Any = None,
    label_weight: float = 1.0,
) -> Guidance | None:
    """Read and check what a user knows about two images; the parameters are those of :func:`itk_pdd.register`.

    Returns
    -------
    Guidance or None
        None where nothing is given.

    Raises
    ------
    RegistrationError
        If something cannot be used, or one half of a pair is missing.
    """
    labels = None
    if (fixed_labels is None) != (moving_labels is None):
        given, lacking = ("fixed", "moving") if moving_labels is None else ("moving", "fixed")
        raise RegistrationError(f"{given}_labels is given without {lacking}_labels: labels guide in both images only")
    if fixed_labels is not None:
        labels = label_guide(
            fixed_labels, moving_labels, dimension=dimension, guide=guide, label_map=label_map, weight=label_weight
        )
    elif guide is not None or label_map is not None:
        raise RegistrationError("guide and label_map are about labels: give fixed_labels and moving_labels, too")
    return None if labels is None else Guidance(labels)
