"""Uncertainty as images of ITK and SimpleITK."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itk_pdd import files

if TYPE_CHECKING:
    import SimpleITK

    from itk_pdd.engine import Result
    from itk_pdd.grid import Grid
    from itk_pdd.volume import Volume

__all__ = ["components_to_simpleitk", "tensor_to_itk", "uncertainty_writers"]

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

    image = itk.Image[itk.SymmetricSecondRankTensor[itk.F, grid.dimension], grid.dimension].New()
    region = itk.ImageRegion[grid.dimension]()
    region.SetSize(grid.size)
    image.SetRegions(region)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(itk.matrix_from_array(np.asarray(grid.direction)))
    image.Allocate()
    itk.array_view_from_image(image)[:] = covariance
    return image


def components_to_simpleitk(array: np.ndarray, grid: Grid) -> SimpleITK.Image:
    """An array with channels last as a SimpleITK image of several components per voxel."""
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array), isVector=True)
    image.SetSpacing(grid.spacing)
    image.SetOrigin(grid.origin)
    image.SetDirection(np.asarray(grid.direction).ravel().tolist())
    return image


def uncertainty_writers(result: Result, labels: Any) -> dict[str, Callable[[], Callable[[Path], None]]]:
    """What writes each image of the uncertainty of a registration, by the name of its option.

    Parameters
    ----------
    result : Result
        A registration with uncertainty.
    labels : SimpleITK.Image
        Label image in the space of the moving image, for the probabilities of labels.
    """

    def image(make: Callable[[], Volume]) -> Callable[[Path], None]:
        return partial(files.write_image, make().to_simpleitk())

    def components(make: Callable[[], np.ndarray]) -> Callable[[Path], None]:
        return partial(files.write_image, components_to_simpleitk(make(), result.field.grid))

    def probabilities() -> np.ndarray:
        values, array = result.uncertainty.label_probabilities(labels)
        log.info("label probabilities: components are the labels %s", ", ".join(map(str, values)))
        return array

    return {
        "uncertainty": lambda: image(result.uncertainty.standard_deviation),
        "entropy": lambda: image(result.uncertainty.entropy),
        "covariance": lambda: components(result.uncertainty.covariance),
        "label_probabilities": lambda: components(probabilities),
        "label_entropy": lambda: image(lambda: result.uncertainty.label_entropy(labels)),
    }
