"""A user's own features as a guide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itk_pdd.network.features import FeatureNetwork  # loads torch, and only named here

__all__ = ["read_features"]


def read_features(given: Any, card: Any) -> FeatureNetwork:
    """Load a network of features; see :func:`itk_pdd.network.features.load_features`."""
    from itk_pdd.network.features import load_features  # loads torch

    return load_features(given, card)
