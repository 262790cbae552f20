"""Everything that guides a registration beside the intensities of both images."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.guidance.labels import LabelGuide, label_guide, rigid_parts, sliding_label
from itk_pdd.guidance.landmarks import Landmarks, read_landmarks
from itk_pdd.io.volume import Volume

if TYPE_CHECKING:
    from itk_pdd.network.features import FeatureNetwork  # loads torch, and only named here

__all__ = ["KNOWN", "Guidance", "read_guidance"]


@dataclass(frozen=True)
class Guidance:
    """Knowledge about two images."""

    labels: LabelGuide | None = None
    landmarks: Landmarks | None = None
    features: FeatureNetwork | None = None
    # Names and shares (0 to 1) of the parts of the fixed image that move rigidly.
    rigid: tuple[tuple[str, Volume], ...] = ()
    # Name of the label along whose border the field slides, and its shares in the fixed and in the moving image.
    sliding: tuple[str, Volume, Volume] | None = None


def read_guidance(
    grids: tuple[Grid, Grid],
    *,
    rigid: Any = None,
    sliding: Any = None,
    fixed_labels: Any = None,
    moving_labels: Any = None,
    guide: Any = None,
    label_map: Any = None,
    label_weight: float = 1.0,
    fixed_points: Any = None,
    moving_points: Any = None,
    point_uncertainty: Any = None,
    exact_points: bool = False,
    features: Any = None,
    feature_card: Any = None,
) -> Guidance | None:
    """Read and check what a user knows about two images; the parameters are those of :func:`itk_pdd.register`.

    None where nothing is given; RegistrationError if something cannot be used, or one half of a pair is missing.
    """
    labels = None
    dimension = grids[0].dimension
    if (fixed_labels is None or rigid is None) and (fixed_labels is None) != (moving_labels is None):
        given, lacking = ("fixed", "moving") if moving_labels is None else ("moving", "fixed")
        raise RegistrationError(f"{given}_labels is given without {lacking}_labels: labels guide in both images only")
    if (rigid is not None and fixed_labels is None) or (sliding is not None and moving_labels is None):
        raise RegistrationError("rigid needs fixed_labels, and sliding fixed_labels and moving_labels: give them, too")
    if moving_labels is not None and guide != "none":
        labels = label_guide(
            fixed_labels, moving_labels, dimension=dimension, guide=guide, label_map=label_map, weight=label_weight
        )
    elif guide not in (None, "none") or label_map is not None:
        raise RegistrationError("guide and label_map are about labels: give fixed_labels and moving_labels, too")
    landmarks = None
    if (fixed_points is None) != (moving_points is None):
        given, lacking = ("fixed", "moving") if moving_points is None else ("moving", "fixed")
        raise RegistrationError(f"{given}_points is given without {lacking}_points: landmarks need both")
    if fixed_points is not None:
        landmarks = read_landmarks(
            fixed_points, moving_points, uncertainty=point_uncertainty, exact=exact_points, grids=grids
        )
    elif point_uncertainty is not None or exact_points:
        raise RegistrationError("point_uncertainty and exact_points are about landmarks: give fixed_points, too")
    if features is None and feature_card is not None:
        raise RegistrationError("feature_card is about features: give features, too")
    network = None
    if features is not None:
        from itk_pdd.network.features import load_features  # loads torch

        network = load_features(features, feature_card)
    parts = () if rigid is None else rigid_parts(fixed_labels, rigid, dimension)
    border = None
    if sliding is not None:
        border = sliding_label(fixed_labels, moving_labels, sliding, dimension=dimension, label_map=label_map)
    known = Guidance(labels, landmarks, network, parts, border)
    return None if known == Guidance() else known


KNOWN = {name: each.default for name, each in inspect.signature(read_guidance).parameters.items() if name != "grids"}
"""Names of the arguments that tell what a user knows, with their defaults."""
