"""Checks that a transform, a reference and the image to be warped fit each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.chain import Chain, as_chain, lattice
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.images import reference_grid

__all__ = ["fitted", "grid_for"]


def grid_for(chain: Chain, reference: Any) -> Grid:
    """Return the grid of the reference, or of the field where there is no reference.

    Raises
    ------
    RegistrationError
        If there is neither, or the dimensions differ.
    """
    grid = chain.grid if reference is None else reference_grid(reference)
    if grid is None:
        raise RegistrationError(
            "there is no reference, and the transform has no grid of its own: give the image onto whose grid to go"
        )
    if grid.dimension != chain.dimension:
        raise RegistrationError(
            f"transform is {chain.dimension}-D but the reference is {grid.dimension}-D: expected the same dimension"
        )
    return grid


def fitted(source: Grid, transform: Any, reference: Any, name: str) -> tuple[Chain, Grid]:
    """Return the transform and the grid onto which an image on the grid ``source`` is warped.

    Parameters
    ----------
    source : Grid
        Grid of the moving image.
    transform, reference
        As for :func:`itk_pdd.warp_image`.
    name : str
        What to call the image in errors.

    Raises
    ------
    RegistrationError
        If the dimensions differ, or no point of the reference is mapped into the image.
    """
    chain = as_chain(transform)
    if chain.dimension != source.dimension:
        raise RegistrationError(
            f"transform is {chain.dimension}-D but {name} is {source.dimension}-D: expected the same dimension"
        )
    grid = grid_for(chain, reference)
    if not _inside(source, chain.check_reach(grid)).any():
        # The image may lie between the points that were mapped: map its own points back.
        points, residuals = chain.backward(lattice(source))
        if not (_inside(grid, points) & (residuals < 0.01 * min(source.spacing))).any():
            raise RegistrationError(
                f"transform takes no point of the reference into {name}, the result would be empty: it has to map "
                "fixed points to moving points; is it the inverse, or are the images exchanged?"
            )
    return chain, grid


def _inside(grid: Grid, points: np.ndarray) -> np.ndarray:
    index = grid.to_index(points)
    return np.all((index >= -0.5) & (index <= np.asarray(grid.size) - 0.5), axis=-1)
