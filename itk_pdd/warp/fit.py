"""Checks that a transform, a reference and the image to be warped fit each other."""

from __future__ import annotations

from typing import Any

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import Mapping, check_reach, spread_points
from itk_pdd.io.images import reference_grid
from itk_pdd.io.transforms import as_mapping

__all__ = ["check_dimension", "fitted", "grid_for"]


def grid_for(mapping: Mapping, reference: Any) -> Grid:
    """Return the grid of the reference, or of the field without one; its dimension has to be that of the mapping."""
    grid = mapping.grid if reference is None else reference_grid(reference)
    if grid is None:
        raise RegistrationError(
            "there is no reference, and the transform has no grid of its own: give the image onto whose grid to go"
        )
    check_dimension(mapping, grid)
    return grid


def check_dimension(mapping: Mapping, grid: Grid, name: str = "the reference") -> None:
    """Refuse a mapping and a grid of different dimensions."""
    if mapping.dimension != grid.dimension:
        raise RegistrationError(
            f"transform is {mapping.dimension}-D but {name} is {grid.dimension}-D: expected the same dimension"
        )


def fitted(source: Grid, transform: Any, reference: Any, name: str) -> tuple[Mapping, Grid]:
    """Return the transform and the grid onto which an image on the grid ``source`` is warped; see :func:`warp_image`.

    Refused if the dimensions differ, or no point of the reference is mapped into the image.
    """
    mapping = as_mapping(transform)
    check_dimension(mapping, source, name)
    grid = grid_for(mapping, reference)
    if not source.contains(check_reach(mapping, grid)).any():
        # The image may lie between the points that were mapped: map its own points back.
        points, residuals = mapping.invert(spread_points(source))
        if not (grid.contains(points) & (residuals < 0.01 * min(source.spacing))).any():
            raise RegistrationError(
                f"transform takes no point of the reference into {name}, the result would be empty: it has to map "
                "fixed points to moving points; is it the inverse, or are the images exchanged?"
            )
    return mapping, grid
