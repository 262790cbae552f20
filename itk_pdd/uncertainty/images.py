"""Uncertainty as images of ITK and SimpleITK."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd.io import files
from itk_pdd.io.images import itk_image, simpleitk_image
from itk_pdd.io.volume import Volume
from itk_pdd.uncertainty import IMAGES
from itk_pdd.uncertainty.labels import entropy_of

if TYPE_CHECKING:
    from itk_pdd.geometry.grid import Grid
    from itk_pdd.solver.engine import Result

__all__ = ["tensor_to_itk", "uncertainty_writers"]

log = logging.getLogger("itk_pdd")


def tensor_to_itk(covariance: np.ndarray, grid: Grid) -> Any:
    """Covariances as an ``itk.Image[itk.SymmetricSecondRankTensor[itk.F, dim], dim]``, a copy.

    Parameters
    ----------
    covariance : numpy.ndarray
        What :meth:`itk_pdd.uncertainty.estimate.Uncertainty.covariance` gives.
    grid : Grid
        Where it lies.
    """
    import itk

    dimension = grid.dimension
    return itk_image(covariance, grid, itk.Image[itk.SymmetricSecondRankTensor[itk.F, dimension], dimension])


def uncertainty_writers(
    result: Result, labels: Any, wanted: Container[str] = IMAGES
) -> dict[str, Callable[[], Callable[[Path], None]]]:
    """What writes each image of the uncertainty of a registration, by the name of its option.

    Parameters
    ----------
    result : Result
        A registration with uncertainty.
    labels : SimpleITK.Image
        Label image in the space of the moving image, for the probabilities of labels.
    wanted : container of str
        Names of the images that will be asked for: the labels are drawn once for both of theirs.
    """

    def image(make: Callable[[], Volume]) -> Callable[[Path], None]:
        return partial(files.write_image, make().to_simpleitk())

    def components(make: Callable[[], np.ndarray]) -> Callable[[Path], None]:
        return partial(files.write_image, simpleitk_image(make(), result.field.grid))

    @cache
    def probabilities() -> np.ndarray:
        values, array = result.uncertainty.label_probabilities(labels)
        log.info("label probabilities: components are the labels %s", ", ".join(map(str, values)))
        return array

    def label_entropy() -> Volume:
        if "label_probabilities" in wanted:
            return Volume(entropy_of(probabilities()), result.field.grid)
        return result.uncertainty.label_entropy(labels)

    return {
        "uncertainty": lambda: image(result.uncertainty.standard_deviation),
        "entropy": lambda: image(result.uncertainty.entropy),
        "covariance": lambda: components(result.uncertainty.covariance),
        "label_probabilities": lambda: components(probabilities),
        "label_entropy": lambda: image(label_entropy),
    }
