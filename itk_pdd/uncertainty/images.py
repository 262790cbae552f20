"""Uncertainty as images of ITK and SimpleITK."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.geometry.grid import Grid
from itk_pdd.io import files
from itk_pdd.io.images import itk_image, simpleitk_image
from itk_pdd.io.volume import Volume
from itk_pdd.uncertainty import IMAGES
from itk_pdd.uncertainty.labels import entropy_of

if TYPE_CHECKING:
    from itk_pdd.uncertainty.estimate import Uncertainty  # slow to import, and only named here

__all__ = ["tensor_to_itk", "uncertainty_writers"]

log = logging.getLogger("itk_pdd")


def tensor_to_itk(covariance: np.ndarray, grid: Grid) -> Any:
    """Convert covariances on a grid to an ``itk.Image[itk.SymmetricSecondRankTensor[itk.F, dim], dim]``, a copy."""
    import itk

    dimension = grid.dimension
    return itk_image(covariance, grid, itk.Image[itk.SymmetricSecondRankTensor[itk.F, dimension], dimension])


def uncertainty_writers(
    uncertainty: Uncertainty | None, labels: Any, wanted: Container[str] = IMAGES
) -> dict[str, Callable[[], Callable[[Path], None]]]:
    """Make the writers of all images of an uncertainty, by the names of their options; none without an uncertainty.

    ``labels`` is a label image in the space of the moving image. Of the ``wanted`` images those of labels share their
    draws.
    """
    if uncertainty is None:
        return {}

    def image(make: Callable[[], Volume]) -> Callable[[Path], None]:
        return partial(files.write_image, make().to_simpleitk())

    def components(make: Callable[[], np.ndarray]) -> Callable[[Path], None]:
        return partial(files.write_image, simpleitk_image(make(), uncertainty.grid))

    @cache
    def probabilities() -> np.ndarray:
        values, array = uncertainty.label_probabilities(labels)
        log.info("label probabilities: components are the labels %s", ", ".join(map(str, values)))
        return array

    def label_entropy() -> Volume:
        if "label_probabilities" in wanted:
            return Volume(entropy_of(probabilities()), uncertainty.grid)
        return uncertainty.label_entropy(labels)

    return {
        "uncertainty": lambda: image(uncertainty.standard_deviation),
        "entropy": lambda: image(uncertainty.entropy),
        "covariance": lambda: components(uncertainty.covariance),
        "label_probabilities": lambda: components(probabilities),
        "label_entropy": lambda: image(label_entropy),
    }
